"""Free checks that sort out a result before anybody pays for judging it.

Pure functions of arrays; NumPy only. All differences are in grey levels, 0-255.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.scoring.base import ScoreRequest

#: Pixels around the mask edge that say how rough the scene itself is there.
RING = 6


@dataclass(frozen=True)
class GateLimits:
    """What a result may at most (or must at least) show. All in grey levels, 0-255.

    The defaults let everything through but what no judge could like: they are meant to save calls, not to rank.
    """

    #: Greatest difference from the init image outside the mask.
    outside: float = 0.0
    #: `seam_energy` above this is a visible outline of the mask.
    seam: float = 60.0
    #: `inside_change` below this means that nothing was inserted.
    change: float = 1.0
    #: `inside_contrast` below this means one flat colour, though the scene around it has structure.
    contrast: float = 1.5


def check_gates(request: ScoreRequest, limits: GateLimits | None = None) -> str | None:
    """Why this result must not be judged, as one sentence; `None` if it may."""
    limits = limits or GateLimits()
    if request.result.shape != request.init.shape:
        return f"the result is {_size(request.result)}, the init image {_size(request.init)}"
    if not np.isfinite(request.result).all():
        return "the result holds values that are not finite"
    outside = outside_difference(request.init, request.mask, request.result)
    if outside > limits.outside:
        return f"the result differs from the init image outside the mask by up to {outside:.0f} levels"
    change = inside_change(request.init, request.mask, request.result)
    if change < limits.change:
        return f"nothing was inserted: inside the mask the result differs from the init image by {change:.2f} levels"
    contrast = inside_contrast(request.mask, request.result)
    if contrast < limits.contrast:
        return f"the result is flat inside the mask (standard deviation {contrast:.2f} levels)"
    seam = seam_energy(request.init, request.mask, request.result)
    if seam > limits.seam:
        return f"the mask's outline shows: {seam:.0f} levels of jump across its edge beyond the scene's own"
    return None


def outside_difference(init: NDArray[np.uint8], mask: NDArray[np.uint8], result: NDArray[np.uint8]) -> float:
    """Greatest absolute difference, over channels, where the mask is 0."""
    differs = (init != result).any(axis=2) & (mask == 0)
    if not differs.any():
        return 0.0
    return float(np.abs(init[differs].astype(np.float32) - result[differs]).max())


def inside_change(init: NDArray[np.uint8], mask: NDArray[np.uint8], result: NDArray[np.uint8]) -> float:
    """Mean absolute difference from the init image where the mask is set."""
    inside = mask > 0
    return float(np.abs(init[inside].astype(np.float32) - result[inside]).mean())


def inside_contrast(mask: NDArray[np.uint8], result: NDArray[np.uint8]) -> float:
    """Standard deviation inside the mask, of the channel that varies most."""
    return float(result[mask > 0].astype(np.float32).std(axis=0).max())


def seam_energy(init: NDArray[np.uint8], mask: NDArray[np.uint8], result: NDArray[np.uint8], ring: int = RING) -> float:
    """How much stronger the jumps across the mask edge are than those that the scene itself has there.

    Root of the difference between the mean squared jump, in the result, of neighbours of which one is inside the mask
    and one outside, and the larger of the same in the init image and of neighbours that both lie outside within
    `ring` pixels; 0 where the edge is no rougher than the scene.
    """
    window = _around(mask, ring + 1)
    inside = mask[window] > 0
    edge = _jumps(result[window], inside, np.not_equal)
    if not edge.size:
        return 0.0
    before = _jumps(init[window], inside, np.not_equal)
    scene = _jumps(result[window], _grown(inside, ring) & ~inside, np.logical_and)
    own = max(float(before.mean()), float(scene.mean()) if scene.size else 0.0)
    return float(np.sqrt(max(0.0, float(edge.mean()) - own)))


def _jumps(image: NDArray[np.uint8], region: NDArray[np.bool_], choose: np.ufunc) -> NDArray[np.float32]:
    """Mean squared difference over channels of each pair of neighbours whose places in `region` `choose` picks."""
    pixels = image.astype(np.float32)
    return np.concatenate(
        [
            np.square(np.diff(pixels, axis=axis)).mean(axis=2)[choose(*_pairs(region, axis)).astype(bool)]
            for axis in (0, 1)
        ]
    )


def _pairs(array: NDArray[np.bool_], axis: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Each pixel and its next neighbour along `axis`."""
    return (array[:-1], array[1:]) if axis == 0 else (array[:, :-1], array[:, 1:])


def _around(mask: NDArray[np.uint8], margin: int) -> tuple[slice, slice]:
    """The mask's bounding box, `margin` pixels wider on each side."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + margin + 1),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + margin + 1),
    )


def _grown(region: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """`region` dilated by `steps` pixels, four neighbours at a time."""
    for _ in range(steps):
        wider = region.copy()
        wider[1:] |= region[:-1]
        wider[:-1] |= region[1:]
        wider[:, 1:] |= region[:, :-1]
        wider[:, :-1] |= region[:, 1:]
        region = wider
    return region


def _size(image: NDArray[np.uint8]) -> str:
    return " x ".join(str(length) for length in image.shape)
