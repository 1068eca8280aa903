"""The generator `insightface-swap`: the face nearest the mask gets the character's identity.

It changes a face and draws nothing else: no hair, no body, no scene. Its models (`buffalo_l`, `inswapper_128`) are for
non-commercial research only, so it loads only once that was accepted, and says so in the log and with each result.

There is no randomness: every fresh candidate of a task is the same picture, whatever its seed. A refinement swaps once
more, in its parent's picture, so it differs from its parent, but not from its siblings.
"""

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from pydantic import JsonValue

from shared.errors import ConfigurationError, Permanent
from shared.images import to_rgb
from shared.settings.insightface import InsightFaceSettings
from shared.types import Start
from workers.generation.base import RGB, Control, GeneratedImage, GenerationRequest, Mask
from workers.onnx_models import require_packages

if TYPE_CHECKING:
    from workers.faces import Face, FaceFinder
    from workers.generation.inswapper import InSwapper

#: Raised whenever the same models would draw other pixels than before.
VERSION = 1
LICENCE = "made with models of InsightFace (buffalo_l, inswapper_128): for non-commercial research only"
SEEDLESS = "a face swap does not depend on the seed"
_SETTING = "generation.insightface"
#: Below this share of the face within the mask, a reader is told.
_COVERED = 0.9

_log = logging.getLogger(__name__)


class InsightFaceSwapGenerator:
    """Generator `insightface-swap` (see workers.generation.base.Generator), on `cpu`, `cuda` or `cuda:N`."""

    name = "insightface-swap"

    def __init__(self, settings: InsightFaceSettings, device: str) -> None:
        self._settings = settings
        self._device = device
        self._models: tuple[FaceFinder, InSwapper] | None = None

    def fingerprint(self) -> Mapping[str, JsonValue]:
        """Version, models and every setting that changes a pixel."""
        drawn: dict[str, JsonValue] = self._settings.model_dump(mode="json", exclude={"accept_noncommercial"})
        return {"version": VERSION, **drawn}

    def load(self) -> None:
        """Load the three models, and run them once.

        Raises ConfigurationError without `accept_noncommercial` or for files that are missing or wrong,
        MissingDependency, or DeviceError when ONNX Runtime cannot use the device.
        """
        self._settings.require_acceptance()
        require_packages("The generator insightface-swap", "insightface")
        from workers.faces import FACE_SIDE, TEMPLATE, Face, FaceFinder
        from workers.generation.inswapper import POINTS, SIDE, InSwapper

        settings, started = self._settings, time.monotonic()
        faces = FaceFinder(
            settings.detector_model,
            f"{_SETTING}.detector_model",
            self._device,
            settings.detection_size,
            settings.detection_threshold,
        )
        swapper = InSwapper(settings.swapper_model, f"{_SETTING}.swapper_model", self._device)
        grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
        faces.find(grey)
        identity = faces.embed(grey, Face((0.0, 0.0, FACE_SIDE, FACE_SIDE), 1.0, TEMPLATE))
        if identity.size != swapper.identity_size:
            raise ConfigurationError(
                f"{_SETTING}: the recogniser in {settings.detector_model} makes embeddings of {identity.size} numbers, "
                f"and {settings.swapper_model} takes {swapper.identity_size}: use buffalo_l with inswapper_128."
            )
        swapper.swap(grey, POINTS, identity)
        self._models = faces, swapper
        _log.warning("insightface-swap: results are %s", LICENCE, extra={"action": "generator.noncommercial"})
        _log.info(
            "insightface-swap is ready on %s after %.1f s",
            self._device,
            time.monotonic() - started,
            extra={"action": "generator.loaded", "model": str(settings.swapper_model), "device": self._device},
        )

    def generate(self, request: GenerationRequest, control: Control) -> GeneratedImage:
        """Swap one face. Raises Permanent where there is none to swap, to take, or to change within the mask.

        It has no steps: `stop_at` and `resume` raise Permanent.
        """
        from workers.generation import feather

        images, scene = request.images, _scene(request)
        if self._models is None:
            raise Permanent("load() was not called before generate()")
        faces, swapper = self._models
        control.step(0, 1)
        started = time.monotonic()
        character = to_rgb(images.character)
        wanted = max(faces.find(character), key=lambda face: face.area * face.score, default=None)
        if wanted is None:
            raise self._no_face("the character's picture")
        target = nearest(faces.find(scene), images.mask)
        if target is None:
            raise self._no_face("the picture to be edited")
        covered = coverage(target, images.mask)
        if covered == 0:
            raise Permanent(
                f"the middle of the face nearest the mask lies {distance(target, images.mask):.0f} pixels outside it, "
                "and no part of it within: a swap would change nothing there"
            )
        identity = faces.embed(character, wanted)
        found = time.monotonic()
        drawn = swapper.swap(scene, target.points, identity)
        control.step(1, 1)
        return GeneratedImage(
            image=feather.composite(scene, drawn, images.mask, self._settings.feather),
            params={
                "face": [round(edge, 1) for edge in target.box],
                "face_score": target.score,
                "character_face": [round(edge, 1) for edge in wanted.box],
                "character_face_score": wanted.score,
                "mask_covers": covered,
                "depends_on_seed": False,
            },
            timings={"find": found - started, "swap": time.monotonic() - found},
            notes=(
                LICENCE,
                SEEDLESS,
                *([f"the mask covers only {covered:.0%} of the face"] if covered < _COVERED else []),
            ),
        )

    def _no_face(self, where: str) -> Permanent:
        return Permanent(
            f"no face was found in {where}; if there is one, lower {_SETTING}.detection_threshold "
            f"({self._settings.detection_threshold}), or {_SETTING}.detection_size ({self._settings.detection_size}) "
            "for a face that fills its picture"
        )


def nearest(faces: tuple["Face", ...], mask: Mask) -> "Face | None":
    """The face that the mask means: of those it overlaps, else of all, the one whose centre is nearest to it.

    Of several within it, the one it covers most of, then the larger.
    """
    return min(
        faces,
        key=lambda face: (
            coverage(face, mask) == 0,
            distance(face, mask),
            -coverage(face, mask),
            -face.area,
        ),
        default=None,
    )


def distance(face: "Face", mask: Mask) -> float:
    """Pixels from the middle of a face to the nearest pixel of `mask` (H x W, not empty); 0 within it."""
    rows, columns = np.nonzero(mask)
    column, row = face.centre
    return float(np.hypot(rows - row, columns - column).min())


def coverage(face: "Face", mask: Mask) -> float:
    """Share of a face's box, as far as it lies in the picture, that `mask` covers."""
    height, width = mask.shape
    left, top, right, bottom = (round(edge) for edge in face.box)
    box = mask[max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
    return float((box > 0).mean()) if box.size else 0.0


def _scene(request: GenerationRequest) -> RGB:
    """The picture in which a face is swapped."""
    spec = request.spec
    if spec.start is Start.RESUME or spec.stop_at is not None:
        raise Permanent(f"candidate {spec.id}: insightface-swap cannot stop or resume; turn pruning off")
    if spec.start is Start.FRESH:
        return request.images.init
    if request.parent is None:
        raise Permanent(f"candidate {spec.id} refines a parent, and none was given")
    return request.parent.image
