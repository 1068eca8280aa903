"""Settings of the search."""

from typing import Annotated, Literal

from pydantic import Field

from shared.settings.base import Section


class SearchSettings(Section):
    """Which candidates are tried."""

    name: Annotated[Literal["eacps", "best-of-n", "zero-order"], Field(description="Search strategy.")] = "eacps"
    k_global: Annotated[int, Field(ge=1, le=4096, description="Candidates of the global phase.")] = 4
    m_global: Annotated[int, Field(ge=0, le=4096, description="Best candidates that are refined.")] = 2
    k_local: Annotated[int, Field(ge=0, le=4096, description="Refinements of each of them.")] = 2
    strength: Annotated[float, Field(gt=0, le=1, description="How far a refinement moves away from its parent.")] = 0.55
