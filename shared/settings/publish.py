"""Settings of results."""

from typing import Annotated

from pydantic import Field

from shared.settings.base import Section


class PublishSettings(Section):
    """What is written, and where."""

    output_dir: Annotated[str, Field(description="Folder or fsspec URL of the artifact store.")] = (
        "outputs/inpaint_eacps"
    )
    top: Annotated[int, Field(ge=0, le=1000, description="Best candidates copied next to the result by rank.")] = 5
    report: Annotated[bool, Field(description="Write report.html.")] = True
