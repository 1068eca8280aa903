"""Small pictures for the report, made from the artifacts and carried inside the page."""

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from orchestrator.metrics_file import CandidateMetrics, Metrics
from shared.errors import InputError
from shared.images import decode, to_rgb
from shared.types import ArtifactRef

#: Gives an artifact's bytes, or `None` if it cannot be read.
Read = Callable[[ArtifactRef], bytes | None]
#: Left, top, right, bottom.
Box = tuple[int, int, int, int]

_THUMBNAIL = 320
_OVERLAY = 1024
_PREVIEW = 192
#: More candidates than this are shown by their full images, loaded when scrolled to.
_EMBEDDED = 96
#: Width of the mask's outline in pixels.
_OUTLINE = 2
_MASK_COLOUR = (255, 64, 96)


@dataclass(frozen=True)
class Pictures:
    """Pictures as `data:` URIs; what could not be made is missing."""

    #: Same shape as the init image: the mask's outline and a tint, on nothing.
    overlay: str | None = None
    #: The region around the mask, of the init image and of each candidate by id.
    region_init: str | None = None
    regions: Mapping[str, str] = field(default_factory=dict)
    #: Init and result side by side (the init alone without a result), as WebP bytes.
    preview: bytes | None = None


def pictures_of(metrics: Metrics, read: Read) -> Pictures:
    """Make the pictures of one task."""
    if metrics.inputs is None:
        return Pictures()
    box = region(metrics.inputs.mask_box, (metrics.inputs.width, metrics.inputs.height))
    init = _open(metrics.inputs.init.artifact, read)
    mask = _open(metrics.inputs.mask.artifact, read)
    regions: dict[str, str] = {}
    result = None
    for candidate in sorted(metrics.candidates, key=_importance)[:_EMBEDDED]:
        picture = _open(candidate.image, read) if candidate.image else None
        if picture is None:
            continue
        regions[candidate.id] = _uri(_small(picture.crop(box), _THUMBNAIL))
        if candidate.id == metrics.best_id:
            result = picture
    return Pictures(
        overlay=_overlay(mask) if mask else None,
        region_init=_uri(_small(init.crop(box), _THUMBNAIL)) if init else None,
        regions=regions,
        preview=_preview(init, result) if init else None,
    )


def region(mask_box: Box, size: tuple[int, int]) -> Box:
    """The mask's surroundings: its box and a third of its longer side all around, or all if that is most of it."""
    left, top, right, bottom = mask_box
    width, height = size
    margin = max(right - left, bottom - top) // 3 + 8
    box = (max(left - margin, 0), max(top - margin, 0), min(right + margin, width), min(bottom + margin, height))
    share = (box[2] - box[0]) * (box[3] - box[1]) / (width * height)
    return (0, 0, width, height) if share > 0.6 else box


def _importance(candidate: CandidateMetrics) -> tuple[bool, int, bool, float]:
    return (candidate.rank is None, candidate.rank or 0, candidate.potential is None, -(candidate.potential or 0.0))


def _open(artifact: ArtifactRef, read: Read) -> Image.Image | None:
    data = read(artifact)
    if data is None:
        return None
    try:
        return Image.fromarray(to_rgb(decode(data, artifact.name).pixels))
    except InputError:
        return None


def _small(picture: Image.Image, longest: int) -> Image.Image:
    small = picture.copy()
    small.thumbnail((longest, longest), Image.Resampling.HAMMING, reducing_gap=1.5)
    return small


def _overlay(mask: Image.Image) -> str:
    """The mask as a tint with a firm outline, transparent elsewhere."""
    inside = np.asarray(_small(mask.convert("L"), _OVERLAY)) > 127
    padded = np.pad(inside, _OUTLINE)
    height, width = inside.shape
    shifts = ((0, 1), (2, 1), (1, 0), (1, 2))
    inner = np.logical_and.reduce(
        [padded[_OUTLINE * y : _OUTLINE * y + height, _OUTLINE * x : _OUTLINE * x + width] for y, x in shifts]
    )
    layer = np.zeros((height, width, 4), np.uint8)
    layer[inside] = (*_MASK_COLOUR, 255)
    layer[inner & inside, 3] = 84
    return _uri(Image.fromarray(layer), lossless=True)


def _preview(init: Image.Image, result: Image.Image | None) -> bytes:
    pictures = [_small(picture, _PREVIEW) for picture in (init, result) if picture is not None]
    width = sum(picture.width for picture in pictures) + 4 * (len(pictures) - 1)
    sheet = Image.new("RGBA", (width, pictures[0].height))
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + 4
    return _webp(sheet, lossless=False)


def _webp(picture: Image.Image, *, lossless: bool) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=20 if lossless else 80, method=1, lossless=lossless)
    return stream.getvalue()


def _uri(picture: Image.Image, *, lossless: bool = False) -> str:
    return "data:image/webp;base64," + base64.b64encode(_webp(picture, lossless=lossless)).decode()
