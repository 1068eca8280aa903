"""Runs a part of a denoising trajectory with the mask held, through the stock pipeline's callback."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from workers.generation.base import Control
from workers.generation.conditions import Conditions, reference_pixels, takes_several_pictures
from workers.generation.trajectory import Plan


@dataclass(frozen=True)
class Sampled:
    """Latents after the last step that was run, batch x tokens x 64, and the clean picture they stand for."""

    latents: torch.Tensor
    #: The same as `latents` when the schedule was finished, else the estimate of where the trajectory leads.
    clean: torch.Tensor
    #: Forward passes of the transformer, each over the whole batch.
    evaluations: int


def first_sigma(pipe: Any, plan: Plan, tokens: int) -> float:
    """Shifted noise level at which `plan` begins, for latents of `tokens` tokens."""
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_shift

    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    config = scheduler.config
    shift = calculate_shift(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
    scheduler.set_timesteps(sigmas=plan.sigmas(), mu=shift)
    sigma = float(scheduler.sigmas[0])
    if not math.isfinite(sigma):
        raise ValueError(f"the scheduler gives no noise level for step {plan.first} of {plan.total}")
    return sigma


def renoised(clean: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """A clean latent moved back to noise level `sigma` along the straight path of flow matching."""
    return (1.0 - sigma) * clean.float() + sigma * noise.float()


@dataclass
class _Hold:
    """The callback: holds the unmasked latents on the init's own noised path, reports, and stops early."""

    plan: Plan
    conditions: Conditions
    noise: torch.Tensor
    control: Control
    clean: torch.Tensor | None = field(default=None)
    latents: torch.Tensor | None = field(default=None)

    def __call__(
        self, pipe: Any, step: int, timestep: object, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        del timestep
        latents, velocity = tensors["latents"], tensors["noise_pred"]
        sigma = float(pipe.scheduler.sigmas[step + 1])
        kept = renoised(self.conditions.init, self.noise, sigma).to(latents.dtype)
        held = torch.where(self.conditions.edit, latents, kept)
        done = step + 1
        if done >= self.plan.count:
            # Along the straight path x = (1 - s)·clean + s·noise, dx/ds = velocity, so clean = x - s·velocity.
            clean = latents.float() - sigma * velocity.float()
            self.clean = torch.where(self.conditions.edit, clean, self.conditions.init)
            self.latents = held
            pipe._interrupt = True
        self.control.step(done, self.plan.count)
        return {"latents": held}


def run(
    pipe: Any,
    conditions: Conditions,
    plan: Plan,
    start: torch.Tensor,
    noise: torch.Tensor,
    control: Control,
    *,
    true_cfg_scale: float,
    shown_pixels: int,
) -> Sampled:
    """Denoise `start` (batch x tokens x 64) over the steps of `plan`.

    After every step the latents outside the mask are put onto the path from `noise` to the init image, so the model
    always sees the true surroundings (RePaint, Lugmayr et al. 2022, without its resampling); at the end they are the
    init's own. `start` and `noise` hold one row per candidate. Whatever ends the loop early, Cancelled included, leaves
    no step cache behind.
    """
    counter = _Counter()
    hold = _Hold(plan=plan, conditions=conditions, noise=noise, control=control)
    dtype = pipe.transformer.dtype
    several = takes_several_pictures(pipe)
    negative = conditions.negative
    with ExitStack() as stack:
        handle = pipe.transformer.register_forward_pre_hook(counter)
        stack.callback(handle.remove)
        stack.callback(reset_step_caches, pipe)
        stack.enter_context(reference_pixels(shown_pixels))
        control.step(0, plan.count)
        pipe(
            image=list(conditions.pictures) if several else conditions.pictures[0],
            prompt_embeds=conditions.positive.states,
            prompt_embeds_mask=conditions.positive.mask,
            negative_prompt_embeds=negative.states if negative else None,
            negative_prompt_embeds_mask=negative.mask if negative else None,
            true_cfg_scale=true_cfg_scale,
            width=conditions.window.width,
            height=conditions.window.height,
            num_inference_steps=len(plan.sigmas()),
            sigmas=plan.sigmas(),
            num_images_per_prompt=start.shape[0],
            latents=start.to(dtype),
            output_type="latent",
            callback_on_step_end=hold,
            callback_on_step_end_tensor_inputs=["latents", "noise_pred"],
        )
    if hold.latents is None or hold.clean is None:
        raise RuntimeError(f"the pipeline ran fewer than {plan.count} steps")
    clean = hold.latents.float() if plan.finishes else hold.clean
    return Sampled(latents=hold.latents, clean=clean, evaluations=counter.calls)


class _Counter:
    """A forward pre-hook that counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: object, inputs: object) -> None:
        del module, inputs
        self.calls += 1


def reset_step_caches(pipe: Any) -> None:
    """Forget what step caches (first-block cache and its kin) kept: the pipeline does so only when it ends normally."""
    if getattr(pipe.transformer, "is_cache_enabled", False):
        pipe.transformer._reset_stateful_cache()


def stack(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows of 1 x tokens x 64 as one batch."""
    return torch.cat(list(rows), dim=0)
