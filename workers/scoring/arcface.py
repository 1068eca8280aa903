"""The judge `arcface`: is the face in the result the character's, by the angle between their embeddings?

ArcFace: Deng et al., CVPR 2019 (arXiv:1801.07698). Runs on InsightFace, whose code is MIT and whose models are for
non-commercial research only; they are not downloaded here.
"""

import hashlib
import json
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigurationError, DeviceError, MissingDependency
from shared.images import to_rgb
from shared.settings import Settings
from shared.settings.judges import ArcFaceSettings
from shared.types import IDENTITY, Judgement
from workers.scoring.base import ScoreRequest
from workers.scoring.context import ScoringContext
from workers.scoring.panels import crop_box

_REMEMBERED_CHARACTERS = 256

Pixels = NDArray[np.uint8]
Embedding = NDArray[np.float32]


@dataclass(frozen=True)
class Face:
    """One face: left, top, right, bottom in pixels, and its embedding of length 1."""

    box: tuple[float, float, float, float]
    embedding: Embedding

    @property
    def area(self) -> float:
        """Pixels."""
        left, top, right, bottom = self.box
        return max(0.0, right - left) * max(0.0, bottom - top)

    @property
    def centre(self) -> tuple[int, int]:
        """Column and row."""
        left, top, right, bottom = self.box
        return int((left + right) / 2), int((top + bottom) / 2)


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

    def cache_key(self) -> str:
        """Hash over the model pack's name and the settings that change a score."""
        parts = self._settings.model_dump(mode="json", exclude={"root", "device"})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def load(self) -> None:
        """Load detector and recogniser. Raises MissingDependency, ConfigurationError or DeviceError."""
        with self._lock:
            if self._faces is None:
                self._faces = FaceFinder(self._settings)

    def score(self, request: ScoreRequest) -> Judgement:
        """Judge identity; missing with the reason when either image shows no face."""
        self.load()
        assert self._faces is not None
        began = time.monotonic()
        wanted = self._faces.of_character(np.ascontiguousarray(to_rgb(request.character)))
        found = self._face_in_region(self._faces, request)
        seconds = time.monotonic() - began
        if wanted is None or found is None:
            where = "the character image" if wanted is None else "the masked region"
            return Judgement(
                judge=self.name,
                model=self._settings.model,
                missing={IDENTITY: f"no face was found in {where}"},
                seconds=seconds,
            )
        cosine = float(wanted.embedding @ found.embedding)
        return Judgement(
            judge=self.name,
            model=self._settings.model,
            scores={IDENTITY: to_score(cosine, self._settings.zero_at, self._settings.ten_at)},
            measures={"face_cosine": cosine},
            seconds=seconds,
        )

    @staticmethod
    def _face_in_region(faces: "FaceFinder", request: ScoreRequest) -> Face | None:
        """The largest face whose centre is to be edited: others in the scene were there before."""
        left, top, right, bottom = crop_box(request.mask)
        region = np.ascontiguousarray(request.result[top:bottom, left:right])
        mask = request.mask[top:bottom, left:right]

        def inside(face: Face) -> bool:
            column, row = face.centre
            return 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and bool(mask[row, column])

        return max(filter(inside, faces.find(region)), key=lambda face: face.area, default=None)


class FaceFinder:
    """InsightFace's detector and recogniser."""

    def __init__(self, settings: ArcFaceSettings) -> None:
        try:
            from insightface.app import FaceAnalysis
        except ImportError as error:
            raise MissingDependency(
                "The judge arcface needs InsightFace: pip install 'inpaint-eacps[arcface]'."
            ) from error
        root = settings.root.expanduser()
        folder = root / "models" / settings.model
        if not any(folder.glob("*.onnx")):
            raise ConfigurationError(
                f"scoring.arcface: no models in {folder}. Download the pack {settings.model} from InsightFace (for "
                "non-commercial research only) into it, or set scoring.arcface.root."
            )
        self._app: Any = self._loaded(FaceAnalysis, folder, root, settings)
        self._lock = threading.Lock()
        self._characters = lru_cache(_REMEMBERED_CHARACTERS)(self._largest)

    @staticmethod
    def _loaded(analysis: Any, folder: Path, root: Path, settings: ArcFaceSettings) -> Any:
        cuda = settings.device == "cuda"
        providers = ["CUDAExecutionProvider"] if cuda else ["CPUExecutionProvider"]
        try:
            app = analysis(
                settings.model, root=str(root), allowed_modules=["detection", "recognition"], providers=providers
            )
            size = (settings.detection_size, settings.detection_size)
            app.prepare(ctx_id=0 if cuda else -1, det_thresh=settings.detection_threshold, det_size=size)
        except AssertionError as error:
            raise ConfigurationError(f"scoring.arcface: {folder} holds no face detector.") from error
        except Exception as error:  # onnxruntime's exceptions share no base below this one
            raise DeviceError(f"scoring.arcface: the models in {folder} cannot be loaded: {error}") from error
        if "recognition" not in app.models:
            raise ConfigurationError(f"scoring.arcface: {folder} holds no face recogniser.")
        return app

    def find(self, image: Pixels) -> tuple[Face, ...]:
        """All faces in an H x W x 3 RGB image."""
        with self._lock:
            found = self._app.get(np.ascontiguousarray(image[..., ::-1]))
        return tuple(_face(face) for face in found)

    def of_character(self, image: Pixels) -> Face | None:
        """The largest face of an H x W x 3 RGB image, remembered by its content."""
        return self._characters(image.tobytes(), image.shape)

    def _largest(self, data: bytes, shape: tuple[int, ...]) -> Face | None:
        image = np.frombuffer(data, np.uint8).reshape(shape)
        return max(self.find(image), key=lambda face: face.area, default=None)


def _face(found: Any) -> Face:
    left, top, right, bottom = (float(edge) for edge in found.bbox)
    return Face((left, top, right, bottom), np.asarray(found.normed_embedding, np.float32))
