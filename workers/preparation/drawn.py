"""Masks that exist only as drawings in Label Studio, as files in the cache."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from shared.images import ImageLimits, encode_png
from shared.regions import drawn_mask
from shared.settings.input import InputSettings
from workers.preparation.cache import Cache

logger = logging.getLogger(__name__)


def mask_maker(settings: InputSettings) -> Callable[[Mapping[str, Any], str], str | None]:
    """What `shared.labelstudio.read_export` asks for a mask: it gives the path of one, or None if nothing is drawn."""
    cache = Cache(settings.cache_dir.absolute())
    limits = ImageLimits(settings.max_bytes, settings.max_pixels)

    def make(item: Mapping[str, Any], task_id: str) -> str | None:
        drawn = drawn_mask(item, limits)
        if drawn is None:
            return None
        logger.info("task %s: %s", task_id, drawn.note, extra={"action": "mask-drawn", "task": task_id})
        return str(cache.store(encode_png(drawn.pixels)))

    return make
