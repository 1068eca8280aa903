"""Which part of the denoising schedule a candidate runs.

The sigma grid of a whole trajectory is the model's own, `linspace(1, 1/n, n)` before its shift. A part of a trajectory
runs a slice of that grid. The shift acts on each sigma by itself, and the stretch to the terminal sigma looks only at
the last one (diffusers `FlowMatchEulerDiscreteScheduler.set_timesteps`), so a tail has the very same sigmas as the
whole: running it from a stored latent continues the trajectory exactly.
"""

from dataclasses import dataclass

import numpy as np

from shared.errors import Permanent
from shared.types import CandidateSpec, Start


@dataclass(frozen=True)
class Plan:
    """Steps `first` to `last` (exclusive) of a schedule of `total` steps."""

    first: int
    last: int
    total: int

    @property
    def count(self) -> int:
        """Steps that are run."""
        return self.last - self.first

    @property
    def finishes(self) -> bool:
        """Whether it runs to the end of the schedule."""
        return self.last == self.total

    def sigmas(self) -> list[float]:
        """Unshifted sigmas from the first step to the end of the schedule (an early stop interrupts the loop)."""
        whole = np.linspace(1.0, 1.0 / self.total, self.total)
        return [float(sigma) for sigma in whole[self.first :]]


def plan(spec: CandidateSpec, steps: int, reached: int | None) -> Plan:
    """The part of a `steps`-step schedule that `spec` asks for.

    `reached` is the step its parent's stored latent stands at, or `None` when there is no such latent. A refinement of
    strength s runs the last round(s·steps) steps, as image-to-image does (SDEdit, Meng et al. 2022).
    Raises Permanent when the parent's latent does not fit the start.
    """
    match spec.start:
        case Start.FRESH:
            first = 0
        case Start.REFINE:
            if reached is not None and reached != steps:
                raise Permanent(
                    f"candidate {spec.id} refines {spec.parent}, which stopped at step {reached} of {steps}; "
                    "only a finished candidate can be refined"
                )
            if spec.strength is None:
                raise Permanent(f"candidate {spec.id} refines without a strength; set search.strength")
            first = steps - min(steps, max(1, round(spec.strength * steps)))
        case Start.RESUME:
            if reached is None or not 0 < reached < steps:
                raise Permanent(
                    f"candidate {spec.id} resumes {spec.parent}, which has no latents of an unfinished trajectory of "
                    f"{steps} steps; keep generation.qwen.steps unchanged between the two"
                )
            first = reached
    last = steps
    if spec.stop_at is not None:
        last = min(steps, max(first + 1, round(spec.stop_at * steps)))
    return Plan(first=first, last=last, total=steps)
