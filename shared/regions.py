"""What annotators draw in Label Studio, as a mask.

Coordinates are in percent of the image and angles in degrees clockwise; a rectangle turns about its top left corner,
an ellipse about its centre (https://labelstud.io/tags/). Brush strokes are run-length coded, bitmasks PNG data URLs.
"""

import base64
import binascii
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import BaseModel, Field, ValidationError

from shared.errors import InputError
from shared.images import ImageLimits, Pixels, decode, to_rgba
from shared.masks import THRESHOLD
from shared.rle import decode_brush

Percent = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
Angle = Annotated[float, Field(ge=-3600, le=3600, allow_inf_nan=False)]
Area = NDArray[np.bool_]


class _Rectangle(BaseModel):
    x: Percent
    y: Percent
    width: Percent
    height: Percent
    rotation: Angle = 0.0


class _Ellipse(BaseModel):
    x: Percent
    y: Percent
    radiusX: Percent  # noqa: N815 (Label Studio's name)
    radiusY: Percent  # noqa: N815
    rotation: Angle = 0.0


class _Polygon(BaseModel):
    points: Annotated[list[tuple[Percent, Percent]], Field(min_length=3, max_length=100_000)]


class _Brush(BaseModel):
    format: Literal["rle"] = "rle"
    rle: list[int]


class _Bitmask(BaseModel):
    imageDataURL: str  # noqa: N815


class _Region(BaseModel):
    """One result of an annotation that marks an area."""

    kind: str
    to_name: str = ""
    original_width: Annotated[int, Field(gt=0)]
    original_height: Annotated[int, Field(gt=0)]
    image_rotation: float = 0.0
    item_index: int = 0
    value: dict[str, Any]


@dataclass(frozen=True)
class DrawnMask:
    """The union of the areas of one annotation."""

    #: H x W, 0 or 255 (255 = edit), in the size of the image that was drawn on.
    pixels: Pixels
    note: str


def drawn_mask(item: Mapping[str, Any], limits: ImageLimits | None = None) -> DrawnMask | None:
    """The area that an item's annotation marks, or None when none marks any.

    Of several annotations the one marked as ground truth counts, else the newest; cancelled ones do not.
    Raises InputError for areas on several images, on a turned image, or that cannot be decoded.
    """
    limits = limits or ImageLimits()
    found = item.get("annotations")
    annotations = [a for a in found if isinstance(a, dict)] if isinstance(found, list) else []
    usable = [a for a in annotations if not a.get("was_cancelled") and any(_area_results(a))]
    if not usable:
        return None
    chosen = max(usable, key=lambda a: (bool(a.get("ground_truth")), str(a.get("updated_at") or a.get("created_at"))))
    name = f"annotation {chosen.get('id', '?')}"
    try:
        regions = [_Region.model_validate(result | {"kind": kind}) for kind, result in _area_results(chosen)]
    except ValidationError as error:
        raise InputError(f"{name}: {_first(error)}") from error
    first = regions[0]
    width, height = first.original_width, first.original_height
    if any(
        (r.original_width, r.original_height, r.to_name, r.item_index) != (width, height, first.to_name, 0)
        for r in regions
    ):
        raise InputError(f"{name} marks areas on several images: give the mask as an image.")
    if any(region.image_rotation % 360 for region in regions):
        raise InputError(f"{name} is drawn on a turned image: give the mask as an image.")
    if width * height > limits.max_pixels:
        raise InputError(f"{name} is drawn on {width} x {height} pixels, above the cap of {limits.max_pixels} in all.")
    area = np.zeros((height, width), bool)
    for region in regions:
        try:
            area |= _DRAW[region.kind](region.value, width, height, f"{name}: {region.kind}")
        except ValidationError as error:
            raise InputError(f"{name}: {region.kind}: {_first(error)}") from error
    which = (
        f"; it is the {'ground truth' if chosen.get('ground_truth') else 'newest'} of {len(usable)}"
        if len(usable) > 1
        else ""
    )
    return DrawnMask(area.astype(np.uint8) * np.uint8(255), f"the mask is drawn in {name}{which}")


def _area_results(annotation: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    results = annotation.get("result")
    for result in results if isinstance(results, list) else ():
        kind = str(result.get("type")).removesuffix("labels") if isinstance(result, dict) else ""
        if kind in _DRAW:
            yield kind, result


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}."


def _turned(
    x: float, y: float, degrees: float, width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pixel centres in the axes of a shape at (x, y) turned clockwise."""
    right = (np.arange(width, dtype=np.float32) + np.float32(0.5 - x))[None, :]
    down = (np.arange(height, dtype=np.float32) + np.float32(0.5 - y))[:, None]
    cosine, sine = np.float32(math.cos(math.radians(degrees))), np.float32(math.sin(math.radians(degrees)))
    return right * cosine + down * sine, down * cosine - right * sine


def _rectangle(value: Mapping[str, Any], width: int, height: int, name: str) -> Area:
    shape = _Rectangle.model_validate(value)
    x, y = _turned(shape.x * width / 100, shape.y * height / 100, shape.rotation, width, height)
    return (x >= 0) & (x < shape.width * width / 100) & (y >= 0) & (y < shape.height * height / 100)


def _ellipse(value: Mapping[str, Any], width: int, height: int, name: str) -> Area:
    shape = _Ellipse.model_validate(value)
    across, along = shape.radiusX * width / 100, shape.radiusY * height / 100
    if across <= 0 or along <= 0:
        return np.zeros((height, width), bool)
    x, y = _turned(shape.x * width / 100, shape.y * height / 100, shape.rotation, width, height)
    return (x / across) ** 2 + (y / along) ** 2 <= 1


def _polygon(value: Mapping[str, Any], width: int, height: int, name: str) -> Area:
    canvas = Image.new("1", (width, height))
    corners = [(x * width / 100 - 0.5, y * height / 100 - 0.5) for x, y in _Polygon.model_validate(value).points]
    ImageDraw.Draw(canvas).polygon(corners, fill=1)
    return np.array(canvas)


def _brush(value: Mapping[str, Any], width: int, height: int, name: str) -> Area:
    return decode_brush(_Brush.model_validate(value).rle, width, height, name) > THRESHOLD


def _bitmask(value: Mapping[str, Any], width: int, height: int, name: str) -> Area:
    kind, _, code = _Bitmask.model_validate(value).imageDataURL.partition(",")
    if kind != "data:image/png;base64":
        raise InputError(f"{name} is no PNG data URL.")
    try:
        data = base64.b64decode(code, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{name} is no base64 text ({error}).") from error
    picture = decode(data, name, ImageLimits(max_pixels=width * height))
    if picture.size != (width, height):
        raise InputError(f"{name} has {picture.size[0]} x {picture.size[1]} pixels and its image {width} x {height}.")
    return to_rgba(picture.pixels)[..., 3] > THRESHOLD


_DRAW: Mapping[str, Callable[[Mapping[str, Any], int, int, str], Area]] = {
    "rectangle": _rectangle,
    "ellipse": _ellipse,
    "polygon": _polygon,
    "brush": _brush,
    "bitmask": _bitmask,
}
