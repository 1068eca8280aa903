"""The judge `lpips`: perceptual distance of the result to the init image.

LPIPS: Zhang et al., CVPR 2018 (arXiv:1801.03924).
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import DeviceError, MissingDependency
from shared.settings import Settings
from shared.types import Judgement
from workers.scoring.base import ScoreRequest
from workers.scoring.context import ScoringContext
from workers.scoring.panels import fitted

#: Two H x W x 3 images (uint8) to a map of distances, H x W.
Distance = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]


class LpipsScorer:
    """Measures, no scores: `lpips` of the whole image, `lpips_inside` and `lpips_outside` of the mask (0 = same)."""

    name = "lpips"
    criteria = frozenset({"lpips", "lpips_inside", "lpips_outside"})

    def __init__(self, settings: Settings, context: ScoringContext, distance: Distance | None = None) -> None:
        del context
        self._settings = settings.scoring.lpips
        self._lock = threading.Lock()
        self._distance = distance

    def cache_key(self) -> str:
        """Hash over the network and the size at which images are compared."""
        parts = self._settings.model_dump(mode="json", exclude={"device"})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def load(self) -> None:
        """Load the network. Raises MissingDependency or DeviceError."""
        with self._lock:
            if self._distance is None:
                self._distance = _network(self._settings.net, self._settings.device)

    def score(self, request: ScoreRequest) -> Judgement:
        """Measure one result. Distances are averaged over the pixels of each part."""
        self.load()
        assert self._distance is not None
        began = time.monotonic()
        side = self._settings.max_side
        before, after = (np.asarray(fitted(image, side)) for image in (request.init, request.result))
        height, width = before.shape[:2]
        mask = np.asarray(Image.fromarray(request.mask).resize((width, height), Image.Resampling.NEAREST)) > 0
        with self._lock:
            distances = self._distance(before, after)
        parts = {"lpips": distances, "lpips_inside": distances[mask], "lpips_outside": distances[~mask]}
        return Judgement(
            judge=self.name,
            model=self._settings.net,
            measures={name: float(values.mean()) for name, values in parts.items() if values.size},
            missing={name: "the mask has no pixel there at this size" for name, v in parts.items() if not v.size},
            seconds=time.monotonic() - began,
        )


@lru_cache(maxsize=1)
def _network(net: str, device: str) -> Distance:
    """The network, once for all runs that a worker serves."""
    try:
        import lpips
        import torch
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit torch raises RuntimeError
        raise MissingDependency(
            "The judge lpips needs lpips and a torchvision that fits torch: "
            f"pip install 'inpaint-eacps[lpips]' ({error})."
        ) from error
    try:
        model: Any = lpips.LPIPS(net=net, spatial=True, verbose=False).to(device).eval()
    except (RuntimeError, AssertionError, OSError) as error:
        raise DeviceError(f"scoring.lpips: the network {net} cannot be loaded on {device}: {error}") from error

    def distance(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
        pair = torch.from_numpy(np.stack([before, after]).astype(np.float32) / 127.5 - 1.0).permute(0, 3, 1, 2)
        with torch.inference_mode():
            found = model(pair[:1].to(device), pair[1:].to(device))
        return np.asarray(found[0, 0].float().cpu().numpy(), np.float32)

    return distance
