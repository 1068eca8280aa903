"""Finds the character in a result: which place, size, turn and mirroring of its cut-out explain it best.

Coarse: masked normalised cross-correlation over sizes by FFT (Padfield, "Masked object registration in the Fourier
domain", 2012). Fine: Nelder-Mead over position, size and rotation.
"""

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.optimize import minimize

Floats = NDArray[np.float32]

#: Longest side of the window in which the character is searched.
COARSE = 56
FINE = 96
#: Sizes that are tried: height of the character as a share of the height at which its area is the mask's.
SIZES = tuple(float(size) for size in np.geomspace(0.42, 1.45, 11))


@dataclass(frozen=True)
class Alignment:
    """Where the character lies in the window of the mask."""

    #: 2 x 3: from pixels of the cut-out to pixels of the window.
    matrix: NDArray[np.float64]
    #: How well it explains the window, -1 to 1.
    fit: float
    flipped: bool


@dataclass(frozen=True)
class View:
    """A window at one resolution: what is searched, and in what."""

    #: h x w, float32: luminance of the result.
    grey: Floats
    #: h x w, 0-1: how sure it is that a pixel was changed.
    change: Floats
    #: h x w, 0 or 1.
    inside: Floats


def align(view: View, template: Floats, alpha: Floats) -> Alignment:
    """The best place of a character in a window; `template` is its luminance, `alpha` its outline."""
    factor = COARSE / max(view.grey.shape)
    coarse = _resized(view, factor)
    area = float(coarse.inside.sum()) / max(float(alpha.sum()), 1.0)
    best = _search(coarse, template, alpha, float(np.sqrt(area)))
    x, y, size, flipped = best
    fine_factor = min(1.0, FINE / max(view.grey.shape))
    fine = _resized(view, fine_factor)
    zoom = fine_factor / factor
    small = _shrunk(template, alpha, size * zoom)
    start = np.array([x * zoom, y * zoom, 0.0, 0.0])
    unit = max(fine.grey.shape) / 20
    cost = partial(
        _cost, fine, small[0], small[1], size * zoom * alpha.shape[0] / small[1].shape[0], flipped, start, unit
    )
    simplex = np.vstack([np.zeros(4), np.eye(4)])
    found = minimize(
        cost, np.zeros(4), method="Nelder-Mead",
        options={"initial_simplex": simplex, "maxfev": 110, "xatol": 0.01, "fatol": 1e-4},
    )  # fmt: skip
    matrix = _matrix(alpha.shape, size * zoom, flipped, start, unit, found.x)
    return Alignment(matrix=matrix / fine_factor, fit=-float(found.fun), flipped=flipped)


def _search(view: View, template: Floats, alpha: Floats, fitting: float) -> tuple[float, float, float, bool]:
    """Centre, scale and mirroring of the best coarse match."""
    height, width = view.grey.shape
    best: tuple[float, float, float, float, bool] | None = None
    reach = fft.next_fast_len(2 * COARSE)
    shape = (reach, reach)
    seen = view.inside
    images = [fft.rfft2(image, shape) for image in (seen, view.grey * seen, view.grey**2 * seen, view.change * seen)]
    changed = float((view.change * seen).sum())
    for size in SIZES:
        scale = fitting * size
        small, shown = _shrunk(template, alpha, scale)
        if max(small.shape) > COARSE * 1.3 or min(small.shape) < 4:
            continue
        for flipped in (False, True):
            t, m = (small[:, ::-1], shown[:, ::-1]) if flipped else (small, shown)
            spectra = [np.conj(fft.rfft2(image, shape)) for image in (m, t * m, t * t * m)]
            n, image_sum, image_square, overlap = (fft.irfft2(image * spectra[0], shape) for image in images)
            template_sum, template_square = (fft.irfft2(images[0] * spectrum, shape) for spectrum in spectra[1:])
            product = fft.irfft2(images[1] * spectra[1], shape)
            n = np.maximum(n, 1e-3)
            covariance = product - image_sum * template_sum / n
            spread = (image_square - image_sum**2 / n) * (template_square - template_sum**2 / n)
            match = covariance / np.sqrt(np.maximum(spread, 1e-3 * n * n))
            union = changed + n - overlap
            total = float(m.sum())
            score = _combined(match, overlap / np.maximum(union, 1e-3), n / total)
            score[n < 0.4 * total] = -1
            peak = int(np.argmax(score))
            value = float(score.flat[peak])
            if best is None or value > best[0]:
                row, column = divmod(peak, reach)
                row, column = (row - reach if row > height else row), (column - reach if column > width else column)
                best = value, column + small.shape[1] / 2, row + small.shape[0] / 2, scale, flipped
    if best is None:
        return width / 2, height / 2, fitting, False
    return best[1:]


def _combined(
    match: NDArray[np.float64], overlap: NDArray[np.float64], seen: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray((0.5 * np.clip(match, -1, 1) + 0.5 * overlap) * (0.7 + 0.3 * seen))


def _cost(
    view: View, template: Floats, alpha: Floats, scale: float, flipped: bool, start: NDArray[np.float64], unit: float,
    step: NDArray[np.float64],
) -> float:  # fmt: skip
    matrix = _matrix(alpha.shape, scale, flipped, start, unit, step)
    size = (view.grey.shape[1], view.grey.shape[0])
    grown = float(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])
    m = (cv2.warpAffine(alpha, matrix, size) * view.inside).ravel()
    n, total = float(m.sum()), float(alpha.sum()) * abs(grown)
    if n < 0.3 * total or n < 9:
        return 1.0
    t = cv2.warpAffine(template, matrix, size, borderMode=cv2.BORDER_REPLICATE).ravel()
    i = view.grey.ravel()
    tm, im = t * m, i * m
    t_mean, i_mean = float(tm.sum()) / n, float(im.sum()) / n
    t_spread, i_spread = float(tm @ t) - n * t_mean**2, float(im @ i) - n * i_mean**2
    match = (float(tm @ i) - n * t_mean * i_mean) / float(np.sqrt(max(t_spread * i_spread, 1e-3 * n * n)))
    overlap = float(view.change.ravel() @ m)
    union = float((view.change * view.inside).sum()) + n - overlap
    return -(0.5 * match + 0.5 * overlap / max(union, 1e-3)) * (0.7 + 0.3 * min(1.0, n / total))


def _matrix(
    shape: tuple[int, ...], scale: float, flipped: bool, start: NDArray[np.float64], unit: float,
    step: NDArray[np.float64],
) -> NDArray[np.float64]:  # fmt: skip
    """The affine map for a start (x, y) and a step in units of: place, 8 % of size, 5 degrees."""
    angle, grown = np.deg2rad(5.0 * step[3]), scale * float(np.exp(0.08 * np.clip(step[2], -6, 6)))
    turn = grown * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    if flipped:
        turn = turn @ np.diag([-1.0, 1.0])
    centre = start[:2] + unit * step[:2]
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    return np.column_stack([turn, centre - turn @ middle])


def _resized(view: View, factor: float) -> View:
    size = (max(4, round(view.grey.shape[1] * factor)), max(4, round(view.grey.shape[0] * factor)))
    grey, change, inside = (
        cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (view.grey, view.change, view.inside)
    )
    return View(grey=grey, change=change, inside=inside)


def _shrunk(template: Floats, alpha: Floats, scale: float) -> tuple[Floats, Floats]:
    size = (max(2, round(alpha.shape[1] * scale)), max(2, round(alpha.shape[0] * scale)))
    shown = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    colour = cv2.resize(template * alpha, size, interpolation=cv2.INTER_AREA) / np.maximum(shown, 1e-3)
    return colour.astype(np.float32), shown
