"""Where one candidate's trajectory begins: from noise, from its parent's latent, or from its parent's picture."""

from dataclasses import dataclass
from typing import Any

import torch

from shared.errors import Permanent
from shared.types import Start
from workers.generation import latents, sampling
from workers.generation.base import GenerationRequest
from workers.generation.crop import Window
from workers.generation.latents import Stored
from workers.generation.trajectory import Plan


@dataclass(frozen=True)
class Origin:
    """A request and its parent's stored latent, where there is one."""

    request: GenerationRequest
    stored: Stored | None

    @property
    def window(self) -> Window | None:
        """The window the parent was drawn in, which its child must share."""
        return self.stored.window if self.stored else None

    @property
    def noise_seed(self) -> int:
        """A resumed trajectory goes on with the noise it began with; every other has its candidate's own."""
        if self.request.spec.start is Start.RESUME and self.stored is not None:
            return self.stored.seed
        return self.request.spec.seed

    def reached(self, steps: int) -> int | None:
        """The step the parent's latent stands at; a finished one counts as finished whatever steps it took.

        Raises Permanent when the parent stopped within a schedule of another length.
        """
        if self.stored is None:
            return None
        if self.stored.step == self.stored.total:
            return steps
        if self.stored.total != steps:
            raise Permanent(
                f"the parent stopped within {self.stored.total} steps, and generation.qwen.steps is {steps}; "
                "set it back to go on"
            )
        return self.stored.step


def origin(request: GenerationRequest, model: str) -> Origin:
    """Reads the parent's latent. Raises Permanent when there is no parent, or its latent is not of `model`."""
    if request.spec.start is Start.FRESH:
        return Origin(request, None)
    if request.parent is None:
        raise Permanent(f"candidate {request.spec.id} starts from a parent, and none was given")
    data = request.parent.extras.get("latents")
    return Origin(request, None if data is None else Stored.from_bytes(data, model))


def first_latents(origin: Origin, plan: Plan, noise: torch.Tensor, window: Window, pipe: Any) -> torch.Tensor:
    """Latents (1 x tokens x 64) at the first step of `plan`.

    A refinement without a stored latent (its parent was made by another generator) starts from the parent's picture.
    """
    request, stored = origin.request, origin.stored
    if request.spec.start is Start.FRESH:
        return noise
    if request.spec.start is Start.RESUME and stored is not None:
        return stored.latents.to(noise.device)
    if stored is not None:
        clean = stored.latents.to(noise.device)
    elif request.parent is not None:
        clean = latents.encode(window.shrink(request.parent.image), pipe)
    else:
        raise Permanent(f"candidate {request.spec.id} has nothing to start from")
    return sampling.renoised(clean, noise, sampling.first_sigma(pipe, plan, noise.shape[1]))
