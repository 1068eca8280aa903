"""Where in the mask a character can stand: the largest place that holds it, and the scene's colours around it."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from workers.generation.base import RGB, Mask
from workers.generation.cutout import Cutout, Floats

#: Longest side of the map on which places are searched.
MAP_SIZE = 96
#: Share of the character that must lie in the mask for it to fit.
FIT = 0.985


@dataclass(frozen=True)
class Layout:
    """What composing needs to know of a task's scene. Pixels of the window, whose corner is `left`, `top`."""

    left: int
    top: int
    #: h x w x 3, float32, 0-1: the part of the init image that can change.
    scene: Floats
    #: h x w, float32, 0-1: 0 on the first pixel inside the mask's edge, rising by 1 per pixel inwards.
    depth: Floats
    #: Centre at which the character rests, and its height as it just fits, in pixels.
    centre: tuple[float, float]
    height: float
    #: Mean and standard deviation of the scene around the mask, in CIE Lab.
    colours: tuple[Floats, Floats]


def lay_out(init: RGB, mask: Mask, cutout: Cutout) -> Layout:
    """The window of the mask and the largest, lowest place in it that holds the character."""
    left, top, width, height = cv2.boundingRect(mask)
    window = slice(top, top + height), slice(left, left + width)
    centre, fitted = fitting_place(mask, cutout)
    return Layout(
        left=left,
        top=top,
        scene=np.divide(init[window], 255, dtype=np.float32),
        depth=_depth(mask)[window],
        centre=centre,
        height=fitted,
        colours=_surroundings(init, mask, max(width, height)),
    )


def _depth(mask: Mask) -> Floats:
    """Pixels between each pixel and the mask's edge; the image's own border is no edge."""
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    framed = cv2.copyMakeBorder(framed, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform((framed > 0).astype(np.uint8), cv2.DIST_L2, 5)[2:-2, 2:-2]
    return np.asarray(np.maximum(distance - 1, 0), dtype=np.float32)


def _surroundings(init: RGB, mask: Mask, size: int) -> tuple[Floats, Floats]:
    reach = max(5, size // 6)
    left, top, width, height = cv2.boundingRect(mask)
    around = slice(max(0, top - reach), top + height + reach), slice(max(0, left - reach), left + width + reach)
    factor = min(1.0, 160 / max(height, width))
    rows, columns = mask[around].shape
    small = (max(1, round(columns * factor)), max(1, round(rows * factor)))
    crop = cv2.resize(init[around], small, interpolation=cv2.INTER_AREA)
    edit = cv2.resize(mask[around], (crop.shape[1], crop.shape[0]), interpolation=cv2.INTER_NEAREST)
    lab = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    pixels = lab[edit == 0] if (edit == 0).any() else lab.reshape(-1, 3)
    return pixels.mean(axis=0), pixels.std(axis=0)


def fitting_place(mask: Mask, cutout: Cutout) -> tuple[tuple[float, float], float]:
    """Centre (in pixels of the mask's bounding box) and height of the character as it just fits.

    Sides at which the character was cut off count as covered by whatever lies beyond the mask there, and rest
    against the mask's own side.
    """
    left, top, width, height = cv2.boundingRect(mask)
    factor = min(1.0, MAP_SIZE / max(width, height))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    room = cv2.resize(mask[top : top + height, left : left + width], size)
    inside = (room > 127).astype(np.float32)
    h, w = inside.shape
    margin = max(h, w)
    inside = _padded(inside, margin, cutout.cut)
    aspect = cutout.alpha.shape[1] / cutout.alpha.shape[0]
    low, high, best = 0.02, 1.3, None
    for _ in range(7):
        share = (low + high) / 2
        spot = _best_spot(inside, cutout, share * h, aspect, (h, w, margin))
        if spot is None:
            high = share
        else:
            low, best = share, (spot, share * h)
    if best is None:
        return (width / 2, height / 2), height * 0.5
    (x, y), tall = best
    return (x / factor, y / factor), tall / factor


def _best_spot(
    inside: Floats, cutout: Cutout, tall: float, aspect: float, frame: tuple[int, int, int]
) -> tuple[float, float] | None:
    """The centre at which a character of this height fits best, or `None` if it fits nowhere."""
    h, w, margin = frame
    rows, columns = max(2, round(tall)), max(2, round(tall * aspect))
    if rows > 1.6 * h or columns > 1.6 * w:
        return None
    shape = cv2.resize(cutout.alpha, (columns, rows), interpolation=cv2.INTER_AREA)
    fits = cv2.matchTemplate(inside, shape, cv2.TM_CCORR) / float(shape.sum())
    y, x = np.mgrid[0 : fits.shape[0], 0 : fits.shape[1]]
    centre_x, centre_y = x + columns / 2 - margin, y + rows / 2 - margin
    wanted_x = _resting(cutout.cut, "left", "right", columns, w, centre_x)
    wanted_y = _resting(cutout.cut, "top", "bottom", rows, h, centre_y)
    allowed = (fits >= FIT) & (np.abs(centre_x - wanted_x) <= max(1.5, 0.5 * w)) & (np.abs(centre_y - wanted_y) <= 1.5)
    if "bottom" not in cutout.cut and "top" not in cutout.cut:
        allowed = (fits >= FIT) & (np.abs(centre_x - wanted_x) <= max(1.5, 0.5 * w))
    if cutout.cut & {"left", "right"}:
        allowed &= np.abs(centre_x - wanted_x) <= 1.5
    if not allowed.any():
        return None
    cost = np.abs(centre_x - w / 2) / w - 0.3 * centre_y / h
    best = int(np.argmin(np.where(allowed, cost, np.inf)))
    return float(centre_x.flat[best]), float(centre_y.flat[best])


def _resting(
    cut: frozenset[str], first: str, last: str, length: int, room: int, centre: NDArray[np.float64]
) -> NDArray[np.float64] | float:
    """Where the centre must lie so that a cut-off side meets the mask's side; anywhere if none is cut off."""
    if first in cut and last not in cut:
        return length / 2
    if last in cut and first not in cut:
        return room - length / 2
    if first in cut and last in cut:
        return room / 2
    return centre


def _padded(inside: Floats, margin: int, open_sides: frozenset[str]) -> Floats:
    """`inside` with room around it; beyond an open side, everything past a masked pixel counts as inside."""
    padded = cv2.copyMakeBorder(inside, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0.0)
    if "bottom" in open_sides:
        padded = np.maximum.accumulate(padded, axis=0)
    if "top" in open_sides:
        padded = np.maximum.accumulate(padded[::-1], axis=0)[::-1]
    if "right" in open_sides:
        padded = np.maximum.accumulate(padded, axis=1)
    if "left" in open_sides:
        padded = np.maximum.accumulate(padded[:, ::-1], axis=1)[:, ::-1]
    return np.ascontiguousarray(padded, dtype=np.float32)
