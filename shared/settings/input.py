"""Settings of reading tasks and fetching images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from shared.settings.base import Section


class InputSettings(Section):
    """Where inputs come from and what is let in."""

    cache_dir: Annotated[Path, Field(description="Downloads, byte for byte, named by content.")] = Path("data/cache")
    fields: Annotated[
        Mapping[str, str],
        Field(
            description="Field of an export item for each of `id name init mask character`, if it is none of the usual."
        ),
    ] = {}
