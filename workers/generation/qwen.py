"""The generator `qwen-image-edit`: Qwen-Image-Edit with a mask, a reference, and trajectories that pause and go on."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import JsonValue

from shared.errors import ConfigurationError, Permanent, Retryable
from shared.settings.qwen import QwenSettings
from workers.generation import crop, feather, trajectory
from workers.generation.base import RGB, Control, GeneratedImage, GenerationRequest
from workers.generation.crop import Window

if TYPE_CHECKING:
    from torch import Tensor

    from workers.generation.conditions import ConditionCache, Conditions
    from workers.generation.sampling import Sampled
    from workers.generation.starting import Origin
    from workers.generation.trajectory import Plan

_log = logging.getLogger(__name__)
#: Settings that change speed or memory, and no pixel.
_NOT_DRAWN = frozenset(
    {
        "accept_other_license",
        "local_files_only",
        "text_encoder",
        "condition_cache",
        "memory_headroom_gib",
        "compile",
        "attention_backend",
    }
)


@dataclass(frozen=True)
class Limits:
    """How large is drawn: lowered for one candidate after it ran out of memory."""

    max_pixels: int
    reference_pixels: int
    tiling: bool

    def lower(self) -> "Limits":
        """Half the pixels, and the VAE in tiles."""
        return Limits(max(4096, self.max_pixels // 2), max(4096, self.reference_pixels // 2), tiling=True)


class QwenImageEditGenerator:
    """Draws with a Qwen-Image-Edit checkpoint on one device: `cuda:0`, `cpu` (slow), or `auto`."""

    name = "qwen-image-edit"

    def __init__(self, settings: QwenSettings, device: str = "auto") -> None:
        self._settings = settings
        self._device = device
        self._pipe: Any = None
        self._kept: ConditionCache | None = None

    def fingerprint(self) -> Mapping[str, JsonValue]:
        """Model, revision and every setting that changes what is drawn."""
        drawn: dict[str, JsonValue] = self._settings.model_dump(mode="json", exclude=set(_NOT_DRAWN))
        return {**drawn, "revision": self._settings.pinned_revision}

    def load(self) -> None:
        """Load the checkpoint and run it once. Raises ConfigurationError, DeviceError or MissingDependency."""
        from workers.generation import qwen_loading

        qwen_loading.require_packages()
        from workers.generation import faults, warming
        from workers.generation.conditions import ConditionCache

        self._device = resolve_device(self._device)
        started = time.monotonic()
        with faults.translated(self._device):
            self._pipe = self._load_pipeline()
            warming.warm_up(self._pipe, self._settings.true_cfg_scale)
        self._kept = ConditionCache(self._settings.condition_cache)
        _log.info(
            "%s is ready on %s after %.1f s",
            self._settings.model,
            self._device,
            time.monotonic() - started,
            extra={"action": "generator.loaded", "model": self._settings.model, "device": self._device},
        )

    def generate(self, request: GenerationRequest, control: Control) -> GeneratedImage:
        """Make one candidate; see `generate_many`."""
        return self.generate_many([request], control)[0]

    def generate_many(self, requests: Sequence[GenerationRequest], control: Control) -> list[GeneratedImage]:
        """Make several candidates of one task in one batch; they must run the same steps in the same window.

        Each result equals the one `generate` makes, up to rounding. Out of memory: tried once more with half the pixels
        and a tiled VAE, and noted so. Raises Retryable, Permanent, DeviceLost or Cancelled.
        """
        from workers.generation import faults

        limits = Limits(self._settings.max_pixels, self._settings.reference_pixels, self._settings.vae_tiling)
        try:
            with faults.translated(self._device):
                return self._make(requests, control, limits)
        except faults.OutOfMemory as error:
            lower = limits.lower()
            _log.warning("%s; trying once more with less", error, extra={"action": "generator.out_of_memory"})
        # Outside the handler: the traceback of the first try no longer holds its tensors.
        self._release_memory()
        note = (
            f"ran out of memory; made with at most {lower.max_pixels} pixels, pictures shown at "
            f"{lower.reference_pixels} pixels, and a tiled VAE"
        )
        try:
            with faults.translated(self._device):
                made = self._make(requests, control, lower)
        finally:
            if not self._settings.vae_tiling:
                self._pipe.vae.disable_tiling()
        return [replace(image, notes=(note, *image.notes)) for image in made]

    def _load_pipeline(self) -> Any:
        from workers.generation import qwen_loading

        return qwen_loading.load_pipeline(self._settings, self._device, self._components())

    def _components(self) -> dict[str, Any]:
        """Parts of the pipeline to use instead of the checkpoint's."""
        return {}

    def _make(self, requests: Sequence[GenerationRequest], control: Control, limits: Limits) -> list[GeneratedImage]:
        from workers.generation import latents, sampling, starting

        pipe, settings = self._pipe, self._settings
        if limits.tiling:
            pipe.vae.enable_tiling()
        started = time.monotonic()
        origins = [starting.origin(request, self._model) for request in requests]
        plan, window = self._common(origins, limits)
        conditions = self._conditions(requests[0], window, limits)
        noises = [latents.noise(one.noise_seed, window, pipe) for one in origins]
        starts = [
            starting.first_latents(one, plan, noise, window, pipe) for one, noise in zip(origins, noises, strict=True)
        ]
        encoded = time.monotonic()
        sampled = sampling.run(
            pipe,
            conditions,
            plan,
            sampling.stack(starts),
            sampling.stack(noises),
            control,
            true_cfg_scale=settings.true_cfg_scale,
            shown_pixels=limits.reference_pixels,
        )
        _check_finite(sampled)
        denoised = time.monotonic()
        drawn = latents.decode(sampled.clean, window, pipe)
        timings = {
            "condition": encoded - started,
            "denoise": denoised - encoded,
            "decode": time.monotonic() - denoised,
        }
        return [
            self._finished(
                one, picture, sampled.latents[index : index + 1], sampled.evaluations, plan, conditions, timings
            )
            for index, (one, picture) in enumerate(zip(origins, drawn, strict=True))
        ]

    def _finished(
        self,
        origin: "Origin",
        picture: RGB,
        reached: "Tensor",
        evaluations: int,
        plan: "Plan",
        conditions: "Conditions",
        timings: Mapping[str, float],
    ) -> GeneratedImage:
        from workers.generation.latents import Stored

        images, window = origin.request.images, conditions.window
        pasted = images.init.copy()
        window.cut(pasted)[...] = window.expand(picture)
        _check_not_flat(pasted, images.mask, origin.request)
        stored = Stored(reached, window, step=plan.last, total=plan.total, seed=origin.noise_seed, model=self._model)
        return GeneratedImage(
            image=feather.composite(images.init, pasted, images.mask, self._settings.feather),
            params={
                "steps": [plan.first, plan.last, plan.total],
                "window": [window.left, window.top, window.right, window.bottom],
                "drawn_size": [window.width, window.height],
                "true_cfg_scale": self._settings.true_cfg_scale,
                "prompt": conditions.prompt,
            },
            extras={"latents": stored.to_bytes()},
            timings=timings,
            model_evaluations=evaluations,
            notes=self._notes(),
        )

    @property
    def _model(self) -> str:
        return f"{self._settings.model}@{self._settings.pinned_revision or 'local'}"

    def _notes(self) -> tuple[str, ...]:
        from workers.generation.conditions import takes_several_pictures

        notes = ["drawn on the CPU"] if self._device == "cpu" else []
        if not takes_several_pictures(self._pipe):
            notes.append("this model sees one picture only: the character's picture was not shown to it")
        return tuple(notes)

    def _common(self, origins: Sequence["Origin"], limits: Limits) -> tuple["Plan", Window]:
        """The steps and the window of all requests. Raises Permanent when they differ."""
        steps = self._settings.steps
        found = {
            (
                one.request.images.key,
                trajectory.plan(one.request.spec, steps, one.reached(steps)),
                one.window or self._window(one.request, limits),
            )
            for one in origins
        }
        if len(found) != 1:
            raise Permanent("candidates of one batch must be of one task, run the same steps, and share their window")
        _, plan, window = found.pop()
        return plan, window

    def _window(self, request: GenerationRequest, limits: Limits) -> Window:
        settings = self._settings
        return crop.window(
            request.images.mask,
            crop=settings.crop,
            crop_below=settings.crop_below,
            padding=settings.padding,
            max_pixels=limits.max_pixels,
            max_upscale=settings.max_upscale,
        )

    def _conditions(self, request: GenerationRequest, window: Window, limits: Limits) -> "Conditions":
        from workers.generation import conditions

        if self._kept is None:
            raise Permanent("load() was not called before generate()")
        key = (request.images.key, request.images.character_name, window, limits.tiling)
        return self._kept.get(key, lambda: conditions.build(self._pipe, request.images, window, self._settings))

    def _release_memory(self) -> None:
        import gc

        import torch

        if self._kept is not None:
            self._kept.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def resolve_device(device: str) -> str:
    """`auto` as `cuda:0` where there is a GPU, else `cpu`. Raises ConfigurationError for a GPU that is not there."""
    import torch

    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise ConfigurationError(
                f"there is no {device}: this process sees {torch.cuda.device_count()} GPUs "
                "(CUDA_VISIBLE_DEVICES decides which); choose another device, or cpu."
            )
        return f"cuda:{index}"
    return device


def _check_finite(sampled: "Sampled") -> None:
    import torch

    if not bool(torch.isfinite(sampled.clean).all()):
        raise Retryable("the model drew NaN or infinity; a sick device or a broken option (fp8, a LoRA) does that")


def _check_not_flat(drawn: RGB, mask: np.ndarray[Any, Any], request: GenerationRequest) -> None:
    inside = drawn[mask > 0]
    if len(inside) > 64 and int(np.ptp(inside, axis=0).max()) <= 1:
        raise Permanent(f"candidate {request.spec.id} came out flat: one colour all over the mask")
