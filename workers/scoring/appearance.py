"""Classical measures of an inserted character, all 0 (bad) to 1 (good), all smooth in the pixels.

Structure: the contrast and structure terms of SSIM (Wang, Bovik, Sheikh, Simoncelli, 2004).
Noise: Immerkaer, "Fast noise variance estimation", 1996.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from workers.scoring.alignment import Alignment

Floats = NDArray[np.float32]

#: Longest side at which the character is compared with its reference.
COMPARED = 112
#: Grey levels of change at which a pixel surely belongs to what was inserted.
CHANGED = 16.0


@dataclass(frozen=True)
class Scene:
    """The part of a result around its mask, and what is known of it."""

    #: h x w x 3, float32, 0-1.
    init: Floats
    result: Floats
    #: h x w, float32, 0 or 1.
    inside: Floats
    #: h x w, 0-1: how sure it is that a pixel was changed.
    change: Floats
    #: h x w, bool: the scene around the mask.
    ring: NDArray[np.bool_]


@dataclass(frozen=True)
class Likeness:
    """The inserted character beside its reference."""

    #: Share of the character that lies within the mask and the image.
    visible: float
    #: The same, counting less what lies near a side at which the reference itself ends: there a cut looks natural.
    whole: float
    #: Share of its visible part that differs from the init image.
    present: float
    structure: float
    colour: float
    #: Height of the character over the height at which it just fits the mask.
    size: float


@dataclass(frozen=True)
class Harmony:
    """The inserted character beside the scene around it."""

    light: float
    contrast: float
    tint: float
    sharpness: float
    noise: float
    #: Whether it stands at the bottom of the mask, and upright.
    stance: float
    upright: float


def likeness(
    scene: Scene, alignment: Alignment, rgb: Floats, alpha: Floats, fitting: float, cut: frozenset[str]
) -> Likeness:
    """Compare in the frame of the cut-out: the result, against the reference laid over the init image.

    `fitting` is the height, in pixels of the scene, at which the character just fits the mask; `cut` are the sides at
    which the reference cut it off.
    """
    zoom = min(1.0, COMPARED / max(alpha.shape))
    size = (max(8, round(alpha.shape[1] * zoom)), max(8, round(alpha.shape[0] * zoom)))
    shown = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    premultiplied = cv2.resize(rgb * alpha[..., None], size, interpolation=cv2.INTER_AREA)
    missed = shown * _missed(shown.shape, cut)
    margin = 6
    shown = cv2.copyMakeBorder(shown, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0.0)
    premultiplied = cv2.copyMakeBorder(premultiplied, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0.0)
    back = np.array([[1 / zoom, 0, -margin / zoom], [0, 1 / zoom, -margin / zoom], [0, 0, 1]])
    matrix = alignment.matrix @ back
    steps = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    frame = (shown.shape[1], shown.shape[0])

    def seen(image: Floats) -> Floats:
        smooth = cv2.GaussianBlur(image, (0, 0), 0.45 * steps) if steps > 1.2 else image
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(smooth, matrix, frame, flags=flags), dtype=np.float32)

    inside = seen(scene.inside)
    total = float(shown.sum()) + 1e-6
    weight = shown * inside
    visible = float(weight.sum()) / total
    missed = cv2.copyMakeBorder(missed, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0.0)
    whole = float((missed * inside).sum()) / (float(missed.sum()) + 1e-6)
    present = float((weight * seen(scene.change)).sum()) / (float(weight.sum()) + 1e-6)
    found = cv2.cvtColor(seen(scene.result), cv2.COLOR_RGB2LAB)
    wanted = cv2.cvtColor(premultiplied + seen(scene.init) * (1 - shown)[..., None], cv2.COLOR_RGB2LAB)
    around = cv2.GaussianBlur(shown, (0, 0), 1.5) * inside
    structure = float((_structure(found[..., 0], wanted[..., 0]) * around).sum() / (around.sum() + 1e-6))
    distance = cv2.GaussianBlur(found, (0, 0), 2.0) - cv2.GaussianBlur(wanted, (0, 0), 2.0)
    near = np.exp(-0.5 * ((distance[..., 0] / 40) ** 2 + (distance[..., 1] ** 2 + distance[..., 2] ** 2) / 30**2))
    colour = float((near * weight).sum() / (weight.sum() + 1e-6))
    tall = alpha.shape[0] * float(np.sqrt(abs(np.linalg.det(alignment.matrix[:, :2]))))
    return Likeness(
        visible=visible,
        whole=whole,
        present=present,
        structure=max(0.0, structure),
        colour=colour,
        size=tall / fitting,
    )


def _missed(shape: tuple[int, ...], cut: frozenset[str]) -> Floats:
    """How much each pixel of a character is missed when it is gone: less and less from its middle to a cut side."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    down, across = (y + 0.5) / shape[0], (x + 0.5) / shape[1]
    distances = {"top": down, "bottom": 1 - down, "left": across, "right": 1 - across}
    falls = [np.minimum(1.0, 0.3 + 1.4 * distances[side]) for side in sorted(cut)]
    return np.asarray(np.prod(falls, axis=0) if falls else np.ones(shape[:2]), dtype=np.float32)


def harmony(scene: Scene, alignment: Alignment, alpha: Floats, stands: bool) -> Harmony:
    """Compare the pixels of the character with those of the scene around the mask.

    `stands` is false for a character that its reference cut off at the top: it need not reach the ground.
    """
    size = (scene.inside.shape[1], scene.inside.shape[0])
    shown = cv2.warpAffine(alpha, alignment.matrix, size)
    weight = shown * scene.inside
    lab = cv2.cvtColor(scene.result, cv2.COLOR_RGB2LAB)
    ring = scene.ring
    if not ring.any() or float(weight.sum()) < 16:
        return Harmony(0, 0, 0, 0, 0, 0, 0)
    own_mean, own_spread = _moments(lab, weight)
    mean, spread = _moments(lab, ring.astype(np.float32))
    level, relative = own_mean - mean, np.log((own_spread[0] + 4) / (spread[0] + 4))
    sharp_own, sharp_scene = _sharpness(lab[..., 0], weight), _sharpness(lab[..., 0], ring.astype(np.float32))
    noise_own, noise_scene = _noise(lab[..., 0], weight), _noise(lab[..., 0], ring.astype(np.float32))
    rows = np.flatnonzero(weight.max(axis=1) > 0.3)
    floor = np.flatnonzero(scene.inside.max(axis=1) > 0)[-1]
    gap = (floor - rows[-1]) / float(np.ptp(np.flatnonzero(scene.inside.max(axis=1) > 0)) + 1) if rows.size else 1.0
    turn = alignment.matrix[:, 1]
    angle = np.rad2deg(np.arctan2(abs(turn[0]), turn[1]))
    return Harmony(
        light=_near(level[0], 25),
        contrast=_near(float(relative), 0.7),
        tint=_near(float(np.hypot(level[1], level[2])), 25),
        sharpness=_near(float(np.log(sharp_own / sharp_scene)), 0.8),
        noise=_near(noise_own - noise_scene, 2.0),
        stance=_near(float(gap), 0.2) if stands else 1.0,
        upright=_near(float(angle), 12),
    )


def _near(difference: float, tolerance: float) -> float:
    return float(np.exp(-0.5 * (difference / tolerance) ** 2))


def _structure(first: Floats, second: Floats) -> Floats:
    """Contrast and structure of SSIM, per pixel, -1 to 1; luminance in 0-100."""
    stabiliser = (0.03 * 100) ** 2

    def smooth(image: Floats) -> Floats:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), 2.5), dtype=np.float32)

    mean_first, mean_second = smooth(first), smooth(second)
    covariance = smooth(first * second) - mean_first * mean_second
    variances = smooth(first * first) - mean_first**2 + smooth(second * second) - mean_second**2
    return np.asarray((2 * covariance + stabiliser) / (variances + stabiliser), dtype=np.float32)


def _moments(lab: Floats, weight: Floats) -> tuple[Floats, Floats]:
    flat, shares = lab.reshape(-1, 3), weight.ravel() / np.float32(weight.sum() + 1e-6)
    mean = np.asarray(shares @ flat, dtype=np.float32)
    return mean, np.asarray(np.sqrt(np.maximum(shares @ (flat * flat) - mean * mean, 0)), dtype=np.float32)


def _sharpness(lightness: Floats, weight: Floats) -> float:
    """Detail of about one pixel over detail of a few pixels."""
    fine = cv2.GaussianBlur(lightness, (0, 0), 1.0)
    coarse = cv2.GaussianBlur(lightness, (0, 0), 3.0)
    details = float((np.abs(lightness - fine) * weight).sum()), float((np.abs(fine - coarse) * weight).sum())
    total = float(weight.sum()) + 1e-6
    return (details[0] / total + 0.2) / (details[1] / total + 0.6)


def _noise(lightness: Floats, weight: Floats) -> float:
    """Standard deviation of the noise, in Lab lightness, from pixels off the edges."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(lightness, -1, kernel))
    smooth = cv2.GaussianBlur(lightness, (0, 0), 1.5)
    edge = np.hypot(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1))
    quiet = weight / (1 + (edge / 8) ** 2)
    return float(np.sqrt(np.pi / 2) / 6 * (response * quiet).sum() / (quiet.sum() + 1e-6))
