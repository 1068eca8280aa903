"""What a mask is: one byte per pixel, 255 where the image is to be edited and 0 elsewhere."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from shared.errors import InputError
from shared.images import Pixels, has_transparency, to_grey

#: Brighter than this is to be edited.
THRESHOLD = 127
#: Share of pixels that may be neither nearly black nor nearly white (soft edges) before it is said aloud.
MOST_GREY = 0.2


@dataclass(frozen=True)
class Mask:
    """A mask that edits something and keeps something."""

    #: H x W, 0 or 255 (255 = edit).
    pixels: Pixels
    #: Share of pixels to edit, 0 < fraction < 1.
    fraction: float
    #: Bounding box of the edited pixels: left, top, right, bottom (right and bottom exclusive).
    box: tuple[int, int, int, int]
    notes: tuple[str, ...] = ()


def mask_from(pixels: Pixels, size: tuple[int, int], name: str = "mask") -> Mask:
    """The mask that an image means, in the size (width, height) of the image it belongs to.

    White (luminance above 127) and opaque (alpha above 127) is to be edited. Where an image has transparency and
    nothing in it is white, what is painted is to be edited, whatever its colour: so brush exports look that are
    black on transparent. Another size is brought to `size` with nearest-neighbour sampling, and said in the notes.

    Raises InputError for a mask that edits nothing or everything.
    """
    grey = to_grey(pixels)
    bright = grey > THRESHOLD
    notes = []
    between = float(((grey > 32) & (grey < 223)).mean())
    if between > MOST_GREY:
        notes.append(f"{between:.0%} of it is neither black nor white, so check that it is a mask and no photo")
    if has_transparency(pixels):
        painted = pixels[..., 3] > THRESHOLD
        bright &= painted
        if painted.any() and not bright.any():
            bright = painted
            notes.append("it has no white, so its opaque pixels are taken as the area to edit")
    height, width = bright.shape
    if (width, height) != size:
        bright = np.asarray(Image.fromarray(bright).resize(size, Image.Resampling.NEAREST))
        warning = _stretched(width / height, size[0] / size[1])
        notes.append(f"resized from {width} x {height} to the init image's {size[0]} x {size[1]}{warning}")
    if not bright.any():
        raise InputError(
            f"{name} is empty: none of its pixels is brighter than {THRESHOLD} "
            f"(the brightest is {int(grey.max())}). Paint the area to edit white (255)."
        )
    if bright.all():
        raise InputError(f"{name} covers the whole image, so nothing would be kept: paint what to keep black.")
    return Mask(bright.astype(np.uint8) * np.uint8(255), float(bright.mean()), bounding_box(bright), tuple(notes))


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (right and bottom exclusive) of the non-zero pixels of an H x W array that has some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _stretched(ratio: float, wanted: float) -> str:
    return "; its proportions differ, so check that it fits" if abs(ratio / wanted - 1) > 0.02 else ""
