"""The judge `arcface`: is the face in the result the character's, by the angle between their embeddings?

ArcFace: Deng et al., CVPR 2019 (arXiv:1801.07698). Runs on InsightFace's models, which are for non-commercial research
only; they are not downloaded here.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from shared.images import to_rgb
from shared.settings import Settings
from shared.types import IDENTITY, Judgement
from workers.faces import RGB, Face, FaceFinder
from workers.onnx_models import Floats, require_packages
from workers.scoring.base import ScoreRequest
from workers.scoring.context import ScoringContext
from workers.scoring.panels import crop_box

_REMEMBERED_CHARACTERS = 256
#: Raised whenever the same models would score differently than before.
_VERSION = 2


def to_score(cosine: float, zero_at: float, ten_at: float) -> float:
    """0 up to the cosine `zero_at`, 10 from `ten_at` on, linear between."""
    return float(np.clip((cosine - zero_at) / (ten_at - zero_at), 0.0, 1.0) * 10.0)


class ArcFaceScorer:
    """Scores identity by the cosine similarity of the largest face in the masked region to the character's."""

    name = "arcface"
    criteria = frozenset({IDENTITY})

    def __init__(self, settings: Settings, context: ScoringContext) -> None:
        del context
        self._settings = settings.scoring.arcface
        self._lock = threading.Lock()
        self._faces: FaceFinder | None = None
        self._characters = lru_cache(_REMEMBERED_CHARACTERS)(self._of_character)

    def cache_key(self) -> str:
        """Hash over the model pack's name and the settings that change a score."""
        parts = {"version": _VERSION, **self._settings.model_dump(mode="json", exclude={"root", "device"})}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def load(self) -> None:
        """Load detector and recogniser. Raises MissingDependency, ConfigurationError or DeviceError."""
        with self._lock:
            if self._faces is None:
                require_packages("The judge arcface", "arcface")
                settings = self._settings
                self._faces = FaceFinder(
                    settings.root / "models" / settings.model,
                    "scoring.arcface.root",
                    settings.device,
                    settings.detection_size,
                    settings.detection_threshold,
                )

    def score(self, request: ScoreRequest) -> Judgement:
        """Judge identity; missing with the reason when either image shows no face."""
        self.load()
        began = time.monotonic()
        character = to_rgb(request.character)
        wanted = self._characters(character.tobytes(), character.shape)
        found = self._in_region(request)
        seconds = time.monotonic() - began
        if wanted is None or found is None:
            where = "the character image" if wanted is None else "the masked region"
            return Judgement(
                judge=self.name,
                model=self._settings.model,
                missing={IDENTITY: f"no face was found in {where}"},
                seconds=seconds,
            )
        cosine = float(wanted @ found)
        return Judgement(
            judge=self.name,
            model=self._settings.model,
            scores={IDENTITY: to_score(cosine, self._settings.zero_at, self._settings.ten_at)},
            measures={"face_cosine": cosine},
            seconds=seconds,
        )

    def _in_region(self, request: ScoreRequest) -> Floats | None:
        """The largest face whose centre is to be edited: others in the scene were there before."""
        left, top, right, bottom = crop_box(request.mask)
        mask = request.mask[top:bottom, left:right]

        def inside(face: Face) -> bool:
            column, row = face.centre
            return 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and bool(mask[row, column])

        return self._largest(request.result[top:bottom, left:right], inside)

    def _of_character(self, data: bytes, shape: tuple[int, ...]) -> Floats | None:
        return self._largest(np.frombuffer(data, np.uint8).reshape(shape))

    def _largest(self, picture: RGB, wanted: Callable[[Face], bool] = lambda face: True) -> Floats | None:
        """The embedding of the largest of the wanted faces in a picture."""
        assert self._faces is not None
        face = max(filter(wanted, self._faces.find(picture)), key=lambda face: face.area, default=None)
        return None if face is None else self._faces.embed(picture, face)
