"""The judge `clip`: how well the result agrees with a text and with the character image, in CLIP's embedding.

CLIP: Radford et al., ICML 2021 (arXiv:2103.00020). Weak at identity and at edits as people see them, but part of the
older objective `PF + 10 CONS - 3 LPIPS`, which `potential: {clip_text: 1, clip_image: 10, lpips: -3}` is.
"""

import hashlib
import json
import threading
import time
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import ConfigurationError, DeviceError, MissingDependency
from shared.images import to_rgb
from shared.settings import Settings
from shared.types import Judgement
from workers.scoring.base import ScoreRequest
from workers.scoring.context import ScoringContext
from workers.scoring.panels import crop

#: Channel means and deviations of CLIP's training images (0-1).
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class ClipScorer:
    """Measures, no scores: `clip_text` and `clip_image`, cosine similarities from -1 to 1.

    Both look at the masked region with its surroundings; `clip_text` against `scoring.clip.prompt`, `clip_image`
    against the character image.
    """

    name = "clip"
    criteria = frozenset({"clip_text", "clip_image"})

    def __init__(self, settings: Settings, context: ScoringContext) -> None:
        del context
        self._settings = settings.scoring.clip
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    def cache_key(self) -> str:
        """Hash over model, revision and prompt."""
        parts = self._settings.model_dump(mode="json", exclude={"device"})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def load(self) -> None:
        """Load the model. Raises MissingDependency, ConfigurationError or DeviceError."""
        with self._lock:
            if self._loaded is None:
                settings = self._settings
                self._loaded = _loaded(settings.model, settings.revision, settings.device)

    def score(self, request: ScoreRequest) -> Judgement:
        """Measure one result."""
        import torch

        self.load()
        assert self._loaded is not None
        model, tokenizer = self._loaded
        began = time.monotonic()
        text = self._settings.prompt.replace("{name}", request.character_name)
        images = [crop(request.result, request.mask), request.character]
        side = int(model.config.vision_config.image_size)
        pixels = torch.from_numpy(np.stack([_prepared(image, side) for image in images])).to(self._settings.device)
        longest = int(model.config.text_config.max_position_embeddings)
        tokens = tokenizer([text], return_tensors="pt", truncation=True, max_length=longest).to(self._settings.device)
        with self._lock, torch.inference_mode():
            output = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels)
        seen = torch.nn.functional.normalize(output.image_embeds.float(), dim=-1)
        said = torch.nn.functional.normalize(output.text_embeds.float(), dim=-1)
        return Judgement(
            judge=self.name,
            model=self._settings.model,
            measures={"clip_text": float(seen[0] @ said[0]), "clip_image": float(seen[0] @ seen[1])},
            seconds=time.monotonic() - began,
        )


@lru_cache(maxsize=1)
def _loaded(name: str, revision: str, device: str) -> tuple[Any, Any]:
    """Model and tokenizer, once for all runs that a worker serves."""
    try:
        from transformers import AutoTokenizer, CLIPModel
    except ImportError as error:
        raise MissingDependency(
            "The judge clip needs transformers, and a torchvision that fits torch if there is one: "
            f"pip install 'inpaint-eacps[clip]' ({error})."
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        model = CLIPModel.from_pretrained(name, revision=revision, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"scoring.clip.model {name} cannot be loaded: {error}") from error
    try:
        return model.to(device).eval(), tokenizer
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"scoring.clip.device {device} cannot be used: {error}") from error


def _prepared(image: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """3 x side x side, normalised: the whole image, padded to a square with white rather than cropped."""
    rgb = Image.fromarray(np.ascontiguousarray(to_rgb(image)))
    longer = max(rgb.size)
    square = Image.new("RGB", (longer, longer), "white")
    square.paste(rgb, ((longer - rgb.width) // 2, (longer - rgb.height) // 2))
    scaled = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255.0
    return np.ascontiguousarray(((scaled - _MEAN) / _DEVIATION).transpose(2, 0, 1).astype(np.float32))
