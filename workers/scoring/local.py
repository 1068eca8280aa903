"""`local`: a judge made of classical image measures. Deterministic, no network, no weights.

It finds the character in the result by its reference, and then asks: is all of it there and does it look like the
reference (identity)? Does the edge of the mask show, and do sharpness and noise match (quality)? Do light, contrast
and colour match the scene around the mask, and does it stand upright on the ground (consistency)?
"""

import hashlib
import json
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from shared.errors import MissingDependency
from shared.settings import Settings
from shared.types import CONSISTENCY, CRITERIA, IDENTITY, QUALITY, Judgement
from workers.scoring.base import ScoreRequest
from workers.scoring.context import ScoringContext
from workers.scoring.gate import seam_energy

if TYPE_CHECKING:
    from workers.generation.cutout import Cutout
    from workers.scoring.appearance import Harmony, Likeness, Scene

#: Raised whenever the same images would get other scores than before.
VERSION = 2
#: Longest side of references, and how many cut-outs are kept.
REFERENCE_SIZE, KEPT = 256, 128
#: Longest side, in pixels, of the window that is judged.
WINDOW = 320


class LocalScorer:
    """Scorer `local` (see workers.scoring.base.Scorer)."""

    name = "local"
    criteria = frozenset(CRITERIA)

    def __init__(self, settings: Settings, context: ScoringContext | None = None) -> None:
        del settings, context  # nothing of them changes a score
        self._references: OrderedDict[bytes, tuple[Cutout, float]] = OrderedDict()
        self._lock = threading.Lock()

    def cache_key(self) -> str:
        """Hash of the version: nothing else than the images changes a score."""
        return hashlib.sha256(json.dumps([self.name, VERSION]).encode()).hexdigest()

    def load(self) -> None:
        """Import OpenCV and keep it to one core. Raises MissingDependency."""
        try:
            import cv2
            import scipy  # noqa: F401
        except ImportError as error:
            raise MissingDependency(
                "the local judge needs OpenCV and SciPy: install them with `pip install 'inpaint-eacps[cpu]'`"
            ) from error
        cv2.setNumThreads(1)

    def score(self, request: ScoreRequest) -> Judgement:
        """Judge one result; every criterion always has a score."""
        from workers.scoring.alignment import View, align
        from workers.scoring.appearance import harmony, likeness

        started = time.perf_counter()
        cutout, fitting = self._reference(request)
        scene, factor = _scene(request)
        view = View(grey=scene.result @ _LUMA, change=scene.change, inside=scene.inside)
        alignment = align(view, cutout.rgb @ _LUMA, cutout.alpha)
        like = likeness(scene, alignment, cutout.rgb, cutout.alpha, fitting * factor, cutout.cut)
        match = harmony(scene, alignment, cutout.alpha, stands="top" not in cutout.cut)
        seam = seam_energy(request.init, request.mask, request.result)
        scores = rate(like, match, seam)
        return Judgement(
            judge=self.name,
            scores=scores,
            measures={
                "fit": alignment.fit,
                "seam_energy": seam,
                **{name: float(value) for name, value in (vars(like) | vars(match)).items()},
            },
            words=explain(like, match, seam),
            seconds=time.perf_counter() - started,
        )

    def _reference(self, request: ScoreRequest) -> "tuple[Cutout, float]":
        """The character, cut out, and the height in pixels at which it just fits the mask."""
        key = hashlib.blake2b(request.character.tobytes() + request.mask.tobytes(), digest_size=16).digest()
        with self._lock:
            if key in self._references:
                self._references.move_to_end(key)
                return self._references[key]
        from workers.generation.cutout import cut_out
        from workers.generation.layout import fitting_place

        cutout = cut_out(request.character, REFERENCE_SIZE)
        made = cutout, fitting_place(request.mask, cutout)[1]
        with self._lock:
            self._references[key] = made
            while len(self._references) > KEPT:
                self._references.popitem(last=False)
        return made


_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def rate(like: "Likeness", match: "Harmony", seam: float) -> dict[str, float]:
    """The criteria, 0-10, from the measures."""
    present = min(1.0, like.present / 0.8)
    size = min(1.0, like.size) ** 0.8
    identity = present * size * like.whole**2.5 * (0.6 * like.structure + 0.4 * like.colour)
    seamless = 1 / (1 + (seam / 14) ** 2)
    quality = seamless * like.whole * (0.5 + 0.3 * match.sharpness + 0.2 * match.noise)
    fitting = 0.3 * match.light + 0.15 * match.contrast + 0.25 * match.tint + 0.15 * match.stance + 0.15 * match.upright
    shown = 0.2 + 0.8 * present
    return {
        IDENTITY: _ten(identity),
        QUALITY: _ten(quality * shown),
        CONSISTENCY: _ten(fitting * (0.4 + 0.6 * seamless) * shown),
    }


def explain(like: "Likeness", match: "Harmony", seam: float) -> str:
    """What weighs on the scores, in a sentence a person can check by looking."""
    if like.present < 0.25:
        return "Hardly anything was inserted: inside the mask the result is nearly the init image."
    faults = [
        (1 - like.visible, f"{1 - like.visible:.0%} of the character is cut off"),
        (1 - 1 / (1 + (seam / 14) ** 2), f"the mask's edge shows ({seam:.0f} levels of jump beyond the scene's own)"),
        (1 - like.structure, "its shapes differ from the reference"),
        (1 - like.colour, "its colours differ from the reference"),
        (1 - match.light, "it is lit unlike the scene"),
        (1 - match.tint, "its tint is unlike the scene's"),
        (1 - match.sharpness, "its sharpness is unlike the scene's"),
        (1 - match.noise, "its noise is unlike the scene's"),
        (1 - match.stance, "it hovers above the bottom of the mask"),
        (1 - match.upright, "it leans"),
        (1 - like.size, "it is small for the mask"),
    ]
    worst = [words for weight, words in sorted(faults, reverse=True) if weight > 0.3][:3]
    return ("Weighs on the scores: " + "; ".join(worst) + ".") if worst else "Nothing stands out."


def _scene(request: ScoreRequest) -> "tuple[Scene, float]":
    """The window around the mask, and its pixels per pixel of the image."""
    import cv2

    from workers.scoring.appearance import CHANGED, Scene

    left, top, width, height = cv2.boundingRect(request.mask)
    reach = max(6, round(0.15 * max(width, height)))
    window = slice(max(0, top - reach), top + height + reach), slice(max(0, left - reach), left + width + reach)
    init, result, inside = (
        np.divide(image[window], 255, dtype=np.float32) for image in (request.init, request.result, request.mask)
    )
    factor = min(1.0, WINDOW / max(inside.shape))
    if factor < 1:
        size = (max(1, round(inside.shape[1] * factor)), max(1, round(inside.shape[0] * factor)))
        init, result, inside = (
            cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (init, result, inside)
        )
        inside = (inside > 0.5).astype(np.float32)
    difference = np.abs(result - init).max(axis=2) * 255
    change = np.clip(cv2.GaussianBlur(difference, (0, 0), 1.0) / CHANGED, 0, 1) * inside
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    ring = cv2.dilate(inside, kernel) == 0
    return Scene(init=init, result=result, inside=inside, change=change.astype(np.float32), ring=ring), factor


def _ten(share: float) -> float:
    return round(float(np.clip(10 * share, 0, 10)), 4)
