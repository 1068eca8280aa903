"""Settings of the search."""

from typing import Annotated, Literal

from pydantic import Field

from shared.settings.base import Section

#: The generator of a raw swap.
RAW_SWAP = "insightface-swap"


class SearchSettings(Section):
    """Which candidates are tried."""

    name: Annotated[Literal["eacps", "best-of-n", "zero-order"], Field(description="Search strategy.")] = "eacps"
    k_global: Annotated[int, Field(ge=1, le=4096, description="Candidates of the global phase.")] = 4
    m_global: Annotated[int, Field(ge=0, le=4096, description="Best candidates that are refined.")] = 2
    k_local: Annotated[int, Field(ge=0, le=4096, description="Refinements of each of them.")] = 2
    strength: Annotated[float, Field(gt=0, le=1, description="How far a refinement moves away from its parent.")] = 0.55
    base_seed: Annotated[int, Field(ge=0, lt=2**31, description="Seed of the first global candidate.")] = 5000
    seed_stride: Annotated[
        int, Field(ge=1, le=100_000, description="Distance between the seeds of two global candidates.")
    ] = 31
    n: Annotated[
        int | None,
        Field(ge=1, le=4096, description="best-of-n: candidates; unset means as many as EACPS would make."),
    ] = None
    rounds: Annotated[int, Field(ge=0, le=1000, description="zero-order: rounds of neighbours.")] = 2
    neighbours: Annotated[int, Field(ge=1, le=1000, description="zero-order: neighbours of each round.")] = 4
    neighbour_strength: Annotated[
        float, Field(gt=0, le=1, description="zero-order: how far a neighbour moves away from the pivot.")
    ] = 0.25
    prune_at: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="EACPS: judge previews at this share of the schedule (such as 0.3) and finish only the best; "
            "unset means every global candidate runs to its end.",
        ),
    ] = None
    prune_keep: Annotated[
        int, Field(ge=1, le=4096, description="EACPS: previews that are finished when `prune_at` is set.")
    ] = 2
    include_raw_swap: Annotated[
        bool,
        Field(description="EACPS: also try a face swap (generator `insightface-swap`), which may win and be refined."),
    ] = False

    @property
    def swaps(self) -> bool:
        """Whether a raw face swap is among the candidates."""
        return self.name == "eacps" and self.include_raw_swap

    @property
    def budget(self) -> int:
        """Candidates of one task: k_global + m_global * k_local, where no more can be refined than there are."""
        return self.k_global + min(self.m_global, self.k_global) * self.k_local
