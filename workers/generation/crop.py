"""The window of the picture that is drawn, and the size it is drawn at.

A mask that covers a small part of a large picture is drawn in a padded window around it: every pixel the model draws is
then near the mask, and the picture need not be shrunk to the model's size.
"""

import math
from dataclasses import asdict, dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from workers.generation.base import Mask

#: Pixels per transformer token and side: VAE factor 8, times patch size 2.
TOKEN = 16


@dataclass(frozen=True)
class Window:
    """Pixels `left <= x < right`, `top <= y < bottom` of a picture, drawn at `width` x `height`."""

    left: int
    top: int
    right: int
    bottom: int
    width: int
    height: int

    def cut(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The window's part of an H x W (x C) picture, at its own size (a view)."""
        return picture[self.top : self.bottom, self.left : self.right]

    def shrink(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The window's part, resized to the size at which it is drawn."""
        return resize(self.cut(picture), self.width, self.height)

    def expand(self, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A drawn picture, resized to the window's own size."""
        return resize(drawn, self.right - self.left, self.bottom - self.top)

    def to_text(self) -> str:
        """`left,top,right,bottom,width,height`, as stored beside latents."""
        return ",".join(str(value) for value in asdict(self).values())

    @classmethod
    def from_text(cls, text: str) -> "Window":
        """The inverse of `to_text`. Raises ValueError or TypeError for anything else."""
        return cls(*(int(part) for part in text.split(",")))


def resize(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """`picture` at `width` x `height`: area average when it shrinks, Lanczos when it grows."""
    old_height, old_width = picture.shape[:2]
    if (old_width, old_height) == (width, height):
        return picture.copy()
    shrinks = width * height < old_width * old_height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=method), dtype=np.uint8)


def window(
    mask: Mask,
    *,
    crop: Literal["auto", "always", "never"],
    crop_below: float,
    padding: float,
    max_pixels: int,
    max_upscale: float,
) -> Window:
    """The window to draw for `mask` (H x W, 0 or 255, not empty).

    The mask's bounding box grows by `padding` times its longer side on each side, kept within the picture. Without a
    crop, or when `auto` finds the window above `crop_below` of the picture, the whole picture is taken. It is drawn
    at its own size, or enlarged by at most `max_upscale` per side, and always at or below `max_pixels`.
    """
    height, width = mask.shape
    whole = (0, 0, width, height)
    left, top, box_width, box_height = (int(value) for value in cv2.boundingRect(mask))
    pad = round(padding * max(box_width, box_height))
    padded = (
        max(0, left - pad),
        max(0, top - pad),
        min(width, left + box_width + pad),
        min(height, top + box_height + pad),
    )
    share = (padded[2] - padded[0]) * (padded[3] - padded[1]) / (width * height)
    cropped = crop == "always" or (crop == "auto" and share <= crop_below)
    box = padded if cropped else whole
    drawn = drawing_size(
        box[2] - box[0], box[3] - box[1], max_pixels=max_pixels, max_upscale=max_upscale if cropped else 1.0
    )
    return Window(*box, *drawn)


def drawing_size(width: int, height: int, *, max_pixels: int, max_upscale: float) -> tuple[int, int]:
    """Width and height in multiples of a token, near the aspect ratio of `width` x `height`, at most `max_pixels`."""
    scale = min(max_upscale, math.sqrt(max_pixels / (width * height)))
    columns = max(1, round(width * scale / TOKEN))
    rows = max(1, round(height * scale / TOKEN))
    limit = max(1, max_pixels // TOKEN**2)
    while columns * rows > limit:
        if columns >= rows:
            columns -= 1
        else:
            rows -= 1
    return columns * TOKEN, rows * TOKEN
