"""What every candidate of a task shares: the encoded prompt, the pictures shown to the model, the init's latents."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from shared.settings.qwen import QwenSettings
from workers.generation import latents, prompting
from workers.generation.base import RGB, RGBA, TaskImages
from workers.generation.crop import Window


@dataclass(frozen=True)
class Embedding:
    """An encoded prompt: 1 x tokens x joint dimension, and its attention mask."""

    states: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class Conditions:
    """One task in one window. `init` and `edit` are packed: 1 x tokens x 64."""

    window: Window
    pictures: tuple[Image.Image, ...]
    prompt: str
    positive: Embedding
    negative: Embedding | None
    init: torch.Tensor
    edit: torch.Tensor


class ConditionCache:
    """The conditions of the last `size` tasks and windows; the least recently used goes first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[tuple[object, ...], Conditions] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def get(self, key: tuple[object, ...], make: Callable[[], Conditions]) -> Conditions:
        """The kept conditions of `key`, else those that `make` makes."""
        if key in self._kept:
            self.hits += 1
            self._kept.move_to_end(key)
            return self._kept[key]
        self.misses += 1
        made = make()
        self._kept[key] = made
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return made

    def clear(self) -> None:
        """Forget all: their tensors can be freed."""
        self._kept.clear()


def on_white(character: RGBA) -> RGB:
    """The character over white, where it is transparent."""
    opacity = character[..., 3:].astype(np.float32) / 255.0
    mixed = character[..., :3].astype(np.float32) * opacity + 255.0 * (1.0 - opacity)
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def takes_several_pictures(pipe: Any) -> bool:
    """Whether the pipeline is of the 2509/2511 kind, which is shown the scene and the character."""
    from diffusers import QwenImageEditPlusPipeline

    return isinstance(pipe, QwenImageEditPlusPipeline)


def build(pipe: Any, images: TaskImages, window: Window, settings: QwenSettings) -> Conditions:
    """Encode a task's prompt and pictures for `window`."""
    scene = window.shrink(images.init)
    pictures = [Image.fromarray(scene)]
    if takes_several_pictures(pipe):
        pictures.append(Image.fromarray(on_white(images.character)))
    prompt = prompting.edit_prompt(
        settings.prompt, images.character_name, np.ascontiguousarray(window.cut(images.mask))
    )
    guided = settings.true_cfg_scale > 1
    with _encoder_on_device(pipe, offload=settings.text_encoder == "offload"):
        positive = _embed(pipe, prompt, pictures)
        negative = _embed(pipe, settings.negative_prompt, pictures) if guided else None
    return Conditions(
        window=window,
        pictures=tuple(pictures),
        prompt=prompt,
        positive=positive,
        negative=negative,
        init=latents.encode(scene, pipe),
        edit=latents.edit_mask(images.mask, window, pipe),
    )


@torch.no_grad()
def _embed(pipe: Any, prompt: str, pictures: list[Image.Image]) -> Embedding:
    """Encode a prompt with its pictures, each at the size the pipeline itself would show to the text encoder."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

    shown: list[Image.Image] | Image.Image
    if takes_several_pictures(pipe):
        shown = [
            pipe.image_processor.resize(picture, *_rows_first(plus, plus.CONDITION_IMAGE_SIZE, picture))
            for picture in pictures
        ]
    else:
        shown = pipe.image_processor.resize(pictures[0], *_rows_first(plus, plus.VAE_IMAGE_SIZE, pictures[0]))
    states, mask = pipe.encode_prompt(prompt=prompt, image=shown, device=pipe.device)
    if mask is None:
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    return Embedding(states=states.to(pipe.transformer.dtype), mask=mask)


def _rows_first(plus: Any, area: int, picture: Image.Image) -> tuple[int, int]:
    width, height = plus.calculate_dimensions(area, picture.width / picture.height)
    return height, width


@contextmanager
def _encoder_on_device(pipe: Any, *, offload: bool) -> Iterator[None]:
    """With `offload`, the text encoder is on the pipeline's device inside only, and in main memory otherwise."""
    if not offload:
        yield
        return
    pipe.text_encoder.to(pipe.vae.device)
    try:
        yield
    finally:
        pipe.text_encoder.to("cpu")


@contextmanager
def reference_pixels(pixels: int) -> Iterator[None]:
    """Show each picture to the transformer at about `pixels`.

    The pipeline has no argument for it: it reads this constant of its module in every call. One process makes one
    candidate at a time, so nobody else sees the change.
    """
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

    before = plus.VAE_IMAGE_SIZE
    plus.VAE_IMAGE_SIZE = pixels
    try:
        yield
    finally:
        plus.VAE_IMAGE_SIZE = before
