"""Finds faces and tells them apart, with the ONNX models of an InsightFace pack such as `buffalo_l`.

Detection: SCRFD (Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", ICLR 2022,
arXiv:2105.04714). Embeddings: ArcFace (Deng et al., CVPR 2019, arXiv:1801.07698). What the models expect and answer is
how https://github.com/deepinsight/insightface (python-package) calls them. That package itself is not used: it brings a
second OpenCV, with a display, which replaces ours. The models are for non-commercial research only; nothing here
downloads them.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigurationError
from workers import onnx_models
from workers.onnx_models import Floats

#: H x W x 3, uint8, RGB.
RGB = NDArray[np.uint8]
#: Eyes, nose and corners of the mouth (columns, rows) in the 112 x 112 pictures that ArcFace was trained on.
TEMPLATE: Floats = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
FACE_SIDE = 112

_STRIDES = (8, 16, 32)
_ANCHORS = 2
#: Boxes that overlap more than this (intersection over union) are one face.
_SAME_FACE = 0.4


@dataclass(frozen=True)
class Face:
    """One found face, in pixels of its picture."""

    #: Left, top, right, bottom; may reach beyond the picture.
    box: tuple[float, float, float, float]
    #: How sure the detector is, 0 to 1.
    score: float
    #: 5 x 2 (column, row): the eyes, the nose, the corners of the mouth, each pair from left to right.
    points: Floats

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


def similarity(points: Floats, wanted: Floats) -> NDArray[np.float64]:
    """The 2 x 3 matrix of scale, turn and shift that brings `points` (N x 2) nearest to `wanted`, in least squares.

    The minimum of Umeyama (PAMI 1991), without reflection; in the plane it is linear in its four numbers.
    """
    x, y = points.astype(np.float64).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    (a, b, right, down), *_ = np.linalg.lstsq(rows, wanted.astype(np.float64).T.ravel(), rcond=None)
    return np.array([[a, -b, right], [b, a, down]])


class FaceFinder:
    """Detector and recogniser of the pack in `folder`, on one device. `setting` names the folder in messages.

    Raises ConfigurationError for a folder without both, DeviceError for a device that cannot be used.
    """

    def __init__(self, folder: Path, setting: str, device: str, detection_size: int, threshold: float) -> None:
        detector, recogniser = _files(folder.expanduser(), setting)
        self._device, self._side, self._threshold = device, detection_size, threshold
        self._detector = onnx_models.open_session(detector, setting, device)
        self._recogniser = onnx_models.open_session(recogniser, setting, device)
        # One picture at a time, whoever asks: more would only fight for the same cores and memory.
        self._lock = threading.Lock()
        _check_side(self._detector, detector, setting, detection_size)

    def find(self, picture: RGB) -> tuple[Face, ...]:
        """All faces in an H x W x 3 RGB picture, the surest first."""
        shown, scale = self._shown(picture)
        outputs = self._run(self._detector, (shown.astype(np.float32) - 127.5) / 128.0)
        scores, boxes, points = (
            np.concatenate([level.reshape(-1, width) for level in outputs[first : first + len(_STRIDES)]])
            for first, width in ((0, 1), (3, 4), (6, 10))
        )
        sure = scores[:, 0] >= self._threshold
        anchors, strides = (values[sure] for values in _anchors(self._side))
        reach = boxes[sure] * strides
        corners = np.concatenate([anchors - reach[:, :2], anchors + reach[:, 2:]], axis=1).astype(np.float32) / scale
        marks = (anchors[:, None] + points[sure].reshape(-1, 5, 2) * strides[:, None]).astype(np.float32) / scale
        sureness = scores[sure][:, 0]
        return tuple(_face(corners[at], sureness[at], marks[at]) for at in _distinct(corners, sureness))

    def embed(self, picture: RGB, face: Face) -> Floats:
        """The embedding (one row, of length 1) of a face that was found in `picture`."""
        import cv2

        matrix = similarity(face.points, TEMPLATE)
        crop = cv2.warpAffine(picture, matrix, (FACE_SIDE, FACE_SIDE))
        (answer,) = self._run(self._recogniser, (crop.astype(np.float32) - 127.5) / 127.5)
        row = answer.reshape(-1).astype(np.float32)
        return row / max(float(np.linalg.norm(row)), 1e-12)

    def _shown(self, picture: RGB) -> tuple[RGB, float]:
        """The picture as the detector sees it: shrunk or enlarged into the top left corner of a black square."""
        import cv2

        height, width = picture.shape[:2]
        scale = self._side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        square = np.zeros((self._side, self._side, 3), np.uint8)
        square[: size[1], : size[0]] = cv2.resize(np.ascontiguousarray(picture), size)
        return square, scale

    def _run(self, session: Any, pixels: Floats) -> list[Floats]:
        name = session.get_inputs()[0].name
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
        with self._lock:
            return onnx_models.run(session, {name: batch}, self._device)


def _face(corners: Floats, score: np.float32, points: Floats) -> Face:
    left, top, right, bottom = (float(edge) for edge in corners)
    return Face((left, top, right, bottom), float(score), points)


def _anchors(side: int) -> tuple[Floats, Floats]:
    """Places (N x 2: column, row) of all anchors in a picture of `side` x `side`, and their strides (N x 1)."""
    places, strides = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: side // stride, : side // stride]
        grid = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float32) * stride
        places.append(np.repeat(grid, _ANCHORS, axis=0))
        strides.append(np.full((len(places[-1]), 1), stride, np.float32))
    return np.concatenate(places), np.concatenate(strides)


def _distinct(corners: Floats, scores: Floats) -> list[int]:
    """Indices of the faces that are left when each face is kept once, the surest first (non-maximum suppression)."""
    areas = np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0.0), axis=1)
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while left.size:
        best, left = int(left[0]), left[1:]
        kept.append(best)
        low = np.maximum(corners[best, :2], corners[left, :2])
        high = np.minimum(corners[best, 2:], corners[left, 2:])
        shared = np.prod(np.maximum(high - low, 0.0), axis=1)
        union = np.maximum(areas[best] + areas[left] - shared, 1e-9)
        left = left[shared / union <= _SAME_FACE]
    return kept


def _files(folder: Path, setting: str) -> tuple[Path, Path]:
    """The detector and the recogniser among a pack's files, told by their inputs and outputs, not by their names."""
    files = sorted(folder.glob("*.onnx"))
    if not files:
        raise ConfigurationError(
            f"{setting}: no ONNX models in {folder}. Download a pack such as buffalo_l from InsightFace (for "
            f"non-commercial research only) into it, or set {setting}."
        )
    found: dict[str, Path] = {}
    for file in files:
        kind = _kind(onnx_models.read_graph(file, setting))
        if kind is not None:
            found.setdefault(kind, file)
        if len(found) == 2:
            return found["face detector"], found["face recogniser"]
    missing = next(kind for kind in ("face detector", "face recogniser") if kind not in found)
    raise ConfigurationError(f"{setting}: {folder} holds no {missing}; a whole pack such as buffalo_l does.")


def _kind(graph: Any) -> str | None:
    weights = {weight.name for weight in graph.initializer}
    inputs = [one for one in graph.input if one.name not in weights]
    if len(inputs) != 1:
        return None
    if len(graph.output) == 3 * len(_STRIDES):
        return "face detector"
    shape = [one.dim_value for one in inputs[0].type.tensor_type.shape.dim]
    return "face recogniser" if len(graph.output) == 1 and shape[1:] == [3, FACE_SIDE, FACE_SIDE] else None


def _check_side(session: Any, file: Path, setting: str, side: int) -> None:
    fixed = {size for size in session.get_inputs()[0].shape[2:] if isinstance(size, int)}
    if fixed - {side}:
        raise ConfigurationError(
            f"{setting}: {file} takes pictures of {max(fixed)} pixels only: set detection_size to that."
        )
