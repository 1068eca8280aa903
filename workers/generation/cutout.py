"""The character, cut out of its reference.

GrabCut: Rother, Kolmogorov, Blake, "GrabCut: interactive foreground extraction using iterated graph cuts", 2004.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from workers.generation.base import RGBA

#: Share of pixels that must be see-through before an alpha channel is believed to be a cut-out.
SEE_THROUGH = 0.02
#: Longest side at which GrabCut runs; its outline is smoothed on the way back up.
GRABCUT_SIZE = 200
#: A photo that varies less than this, in levels, shows nothing that could be told apart.
FLAT = 4.0
#: Share of a border that the character must cover to count as cut off there.
CUT = 0.08

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Cutout:
    """A character without its background, cropped to what can be seen of it."""

    #: h x w x 3, float32, RGB in 0-1.
    rgb: Floats
    #: h x w, float32, 0-1.
    alpha: Floats
    #: Sides of the reference at which the character was cut off, of `left top right bottom`.
    cut: frozenset[str]
    #: What a reader of the result should know.
    notes: tuple[str, ...] = ()


def cut_out(character: RGBA, longest: int) -> Cutout:
    """Cut `character` out along its alpha if it has one, else along a GrabCut outline; at most `longest` pixels."""
    image = _reduced(character, longest)
    notes: tuple[str, ...] = ()
    alpha: Floats = np.divide(image[..., 3], 255, dtype=np.float32)
    if float((alpha < 0.5).mean()) < SEE_THROUGH:
        found = _grabcut(np.ascontiguousarray(image[..., :3]))
        if found is None:
            found = _oval(alpha.shape)
            notes = ("the character could not be told from its background and was placed with a soft oval outline",)
        alpha = found
    solid = alpha > 0.1
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not rows.size:
        alpha, rows, columns = _oval(alpha.shape), np.arange(alpha.shape[0]), np.arange(alpha.shape[1])
        notes = ("the character's alpha channel is empty; it was placed with a soft oval outline",)
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return Cutout(
        rgb=np.divide(image[box][..., :3], 255, dtype=np.float32),
        alpha=np.ascontiguousarray(alpha[box]),
        cut=_cut_sides(alpha),
        notes=notes,
    )


def _reduced(character: RGBA, longest: int) -> RGBA:
    height, width = character.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return character
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(character, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _grabcut(rgb: NDArray[np.uint8]) -> Floats | None:
    """Alpha of the object that fills the middle of a photo, or `None` if no such object stands out.

    Prior: a band along the top and the upper sides is background, an upright oval in the middle probably foreground
    and its core surely; the lower border stays open, for busts.
    """
    height, width = rgb.shape[:2]
    factor = min(1.0, GRABCUT_SIZE / max(height, width))
    small = cv2.resize(
        rgb, (max(8, round(width * factor)), max(8, round(height * factor))), interpolation=cv2.INTER_AREA
    )
    if float(small.std(axis=(0, 1)).max()) < FLAT:
        return None
    h, w = small.shape[:2]
    y, x = np.mgrid[0:h, 0:w]
    across, down = (x + 0.5) / w * 2 - 1, (y + 0.5) / h * 2 - 1
    from_centre = np.hypot(across / 0.8, (down - 0.1) / 0.9)
    labels = np.where(from_centre < 1, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[np.hypot(across / 0.3, (down - 0.1) / 0.4) < 1] = cv2.GC_FGD
    labels[(down < -0.94) | ((np.abs(across) > 0.94) & (down < 0.5))] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(small, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # a photo of fewer colours than the mixture has components
        return None
    found = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, regions, stats, _ = cv2.connectedComponentsWithStats(found)
    if len(stats) < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    share = float(stats[largest, cv2.CC_STAT_AREA]) / (h * w)
    if not 0.05 < share < 0.9:
        return None
    outline = cv2.morphologyEx((regions == largest).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    soft = cv2.resize(outline.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    soft = cv2.GaussianBlur(soft, (0, 0), max(0.8, 0.6 / factor))
    return np.asarray(np.clip((soft - 0.5) * 2.5 + 0.4, 0, 1), dtype=np.float32)


def _oval(shape: tuple[int, ...]) -> Floats:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    from_centre = np.hypot((x + 0.5) / shape[1] * 2 - 1, (y + 0.5) / shape[0] * 2 - 1)
    return np.asarray(np.clip((1 - from_centre) * 6, 0, 1), dtype=np.float32)


def _cut_sides(alpha: Floats) -> frozenset[str]:
    borders = {"left": alpha[:, 0], "right": alpha[:, -1], "top": alpha[0], "bottom": alpha[-1]}
    return frozenset(side for side, line in borders.items() if float((line > 0.5).mean()) > CUT)
