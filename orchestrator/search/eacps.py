"""EACPS: explore seeds globally, then refine the most promising ones locally.

Ids: `p00` preview, `g00` global, `l00.1` second child of `g00`, `r00` raw face swap, `r00.1` second child of `r00`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.search.base import Step
from orchestrator.search.plan import Plan, Specs, child_seed, fresh, replay
from orchestrator.search.ranking import promising
from shared.settings.search import RAW_SWAP, SearchSettings
from shared.types import Candidate, CandidateSpec, Start

_RAW_ID = "r00"


@dataclass(frozen=True)
class Eacps:
    """k_global fresh seeds; the best m_global of them are refined k_local times each.

    With `prune_at`, the global candidates first stop early as previews and only the best `prune_keep` are finished.
    With `include_raw_swap`, a face swap competes with the global candidates and may be refined like one.
    """

    settings: SearchSettings
    name = "eacps"

    def ask(self, history: Sequence[Candidate]) -> Step:
        """The wave that is due: previews if asked for, then globals, then locals."""
        return replay(self._plan(), history)

    def size(self) -> int:
        """The most candidates of one task, previews included; fewer when too few can be refined."""
        s = self.settings
        raw = int(s.include_raw_swap)
        previews, finished = (0, s.k_global) if s.prune_at is None else (s.k_global, min(s.prune_keep, s.k_global))
        return previews + finished + raw + min(s.m_global, finished + raw) * s.k_local

    def _plan(self) -> Plan:
        wave = tuple(fresh(self.settings, index) for index in range(self.settings.k_global))
        if self.settings.prune_at is not None:
            previews = yield tuple(self._preview(spec) for spec in wave)
            keep = {candidate.spec.id for candidate in promising(previews, self.settings.prune_keep)}
            wave = tuple(self._resumed(spec) for spec in wave if _preview_id(spec) in keep)
        roots = yield wave + self._raw()
        parents = promising(roots, self.settings.m_global)
        yield tuple(self._local(parent.spec, child) for parent in parents for child in range(self.settings.k_local))

    def _preview(self, spec: CandidateSpec) -> CandidateSpec:
        return spec.model_copy(update={"id": _preview_id(spec), "phase": "preview", "stop_at": self.settings.prune_at})

    def _resumed(self, spec: CandidateSpec) -> CandidateSpec:
        return spec.model_copy(
            update={"start": Start.RESUME, "parent": _preview_id(spec), "order": (1, *spec.order[1:])}
        )

    def _raw(self) -> Specs:
        if not self.settings.include_raw_swap:
            return ()
        order = (self._global_depth, self.settings.k_global)
        return (CandidateSpec(id=_RAW_ID, phase="raw", seed=0, order=order, generator=RAW_SWAP),)

    def _local(self, parent: CandidateSpec, child: int) -> CandidateSpec:
        index = parent.order[1]
        return CandidateSpec(
            id=f"{parent.id if parent.id == _RAW_ID else f'l{index:02d}'}.{child}",
            phase="local",
            seed=child_seed(self.settings, index, child),
            order=(self._global_depth + 1, index, child),
            parent=parent.id,
            start=Start.REFINE,
            strength=self.settings.strength,
        )

    @property
    def _global_depth(self) -> int:
        return 0 if self.settings.prune_at is None else 1


def _preview_id(spec: CandidateSpec) -> str:
    return f"p{spec.id[1:]}"
