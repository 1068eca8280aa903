"""The face swapper `inswapper_128`: one face of a picture gets another identity.

The model is published by InsightFace without a paper; what it expects and answers is how
https://github.com/deepinsight/insightface (python-package, model_zoo/inswapper.py) calls it. The blend is our own.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigurationError
from workers import onnx_models
from workers.faces import FACE_SIDE, TEMPLATE, similarity
from workers.generation import feather
from workers.generation.base import RGB
from workers.onnx_models import Floats

#: Side of the square that is swapped.
SIDE = 128
#: ArcFace's template, not enlarged: in the middle of the wider square, and its top edge at the square's.
POINTS: Floats = TEMPLATE + np.array([(SIDE - FACE_SIDE) / 2, 0], np.float32)
#: Share of the square's side over which the swapped face fades into the picture.
_SOFT = 1 / 8


class InSwapper:
    """The model in `file`, on one device. `setting` names the file in messages.

    Raises ConfigurationError for a file that holds no face swapper, DeviceError for a device that cannot be used.
    """

    def __init__(self, file: Path, setting: str, device: str) -> None:
        file = file.expanduser()
        if not file.is_file():
            raise ConfigurationError(
                f"{setting}: there is no {file}. Fetch inswapper_128.onnx of InsightFace (for non-commercial research "
                f"only), or set {setting}."
            )
        self._emap = _emap(file, setting)
        self._device = device
        self._session = onnx_models.open_session(file, setting, device)
        self._target, self._source = _inputs(self._session, file, setting, self._emap.shape[1])

    @property
    def identity_size(self) -> int:
        """Length of the embeddings that it takes."""
        return int(self._emap.shape[0])

    def swap(self, picture: RGB, points: Floats, identity: Floats) -> RGB:
        """`picture` with the face at `points` (5 x 2: column, row) redrawn as `identity`, an embedding of length 1.

        The turned square around the face fades into the picture towards its border.
        """
        matrix = similarity(points, POINTS)
        crop = cv2.warpAffine(picture, matrix, (SIDE, SIDE))
        back = cv2.invertAffineTransform(matrix)
        size = picture.shape[1], picture.shape[0]
        patch = cv2.warpAffine(np.full((SIDE, SIDE), 255, np.uint8), back, size, flags=cv2.INTER_NEAREST)
        face = cv2.warpAffine(self.redraw(crop, identity), back, size)
        width = round(_SOFT * SIDE * float(np.hypot(*back[:, 0])))
        return feather.composite(picture, face, patch, width)

    def redraw(self, crop: RGB, identity: Floats) -> RGB:
        """An aligned face (SIDE x SIDE x 3) as `identity`."""
        latent = identity @ self._emap
        latent /= max(float(np.linalg.norm(latent)), 1e-12)
        feeds = {
            self._target: np.ascontiguousarray(crop.transpose(2, 0, 1)[None].astype(np.float32) / 255.0),
            self._source: latent[None].astype(np.float32),
        }
        (answer,) = onnx_models.run(self._session, feeds, self._device)
        drawn: NDArray[np.uint8] = np.rint(np.clip(answer[0].transpose(1, 2, 0), 0.0, 1.0) * 255).astype(np.uint8)
        return drawn


def _emap(file: Path, setting: str) -> Floats:
    """The matrix (E x L) that brings embeddings into the model's own space: the last tensor stored in it."""
    from onnx import numpy_helper

    stored = onnx_models.read_graph(file, setting).initializer
    last = stored[-1] if stored else None
    if last is None or len(last.dims) != 2:
        raise _no_swapper(file, setting, "its last stored tensor is no matrix (`emap`)")
    return np.asarray(numpy_helper.to_array(last), np.float32)


def _inputs(session: Any, file: Path, setting: str, latent: int) -> tuple[str, str]:
    """Names of the inputs for the face (1 x 3 x SIDE x SIDE) and the identity (1 x `latent`)."""
    found = {tuple(one.shape[1:]): one.name for one in session.get_inputs()}
    target, source = found.get((3, SIDE, SIDE)), found.get((latent,))
    if target is None or source is None or len(found) != 2 or len(session.get_outputs()) != 1:
        raise _no_swapper(file, setting, f"it does not take a face of {SIDE} x {SIDE} and an identity of {latent}")
    return target, source


def _no_swapper(file: Path, setting: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{setting}: {file} is no inswapper_128: {reason}; fetch that, or set {setting}.")
