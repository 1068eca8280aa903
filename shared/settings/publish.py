"""Settings of results."""

from pathlib import Path
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
    git: Annotated[bool, Field(description="Commit the results of finished tasks and push them.")] = False
    git_repository: Annotated[
        Path | None,
        Field(description="Repository to commit to, whose checkout is left alone; unset means that of this folder."),
    ] = None
    git_remote: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", description="Name of the remote that is pushed to.")
    ] = "origin"
    git_branch: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", description="Branch of the remote; made if it is missing.")
    ] = "main"
    git_folder: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$",
            description="Folder of the repository that results are committed to.",
        ),
    ] = "outputs/inpaint_eacps"
    git_candidates: Annotated[
        bool, Field(description="Commit every candidate's image and records too, and not only the best.")
    ] = False
    git_timeout: Annotated[float, Field(gt=0, le=86_400, description="Seconds that one fetch or push may take.")] = (
        120.0
    )
