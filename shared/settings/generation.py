"""Settings of the generators."""

from typing import Annotated

from pydantic import Field

from shared.settings.base import Section
from shared.settings.composite import CompositeSettings


class GenerationSettings(Section):
    """How images are made."""

    generator: Annotated[
        str,
        Field(
            description="Generator: `auto`, a registry name (`composite`, `qwen-image-edit`, `openai-http`, "
            "`insightface-swap`), or `package.module:Class`."
        ),
    ] = "auto"
    composite: Annotated[CompositeSettings, Field(description="The `composite` generator.")] = CompositeSettings()
