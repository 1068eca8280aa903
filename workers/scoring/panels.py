"""What a judge that sees is shown: the masked region outlined, cropped, and scaled to a sane size."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from shared.images import to_rgb
from shared.masks import bounding_box

#: Colour of the outline: rare in photos.
OUTLINE = (255, 0, 255)
_MARGIN = 0.25
_SMALLEST_CROP = 512
_QUALITY = 95

Pixels = NDArray[np.uint8]


def outlined(image: Pixels, mask: Pixels) -> Pixels:
    """H x W x 3 with a line drawn just outside the mask's edge (uint8, 0 or 255), so that nothing in it is hidden."""
    width = max(3, round(max(image.shape[:2]) / 300) | 1)
    grown = np.asarray(Image.fromarray(mask).filter(ImageFilter.MaxFilter(2 * (width // 2) + 3)))
    marked = image.copy()
    marked[(grown > 0) & (mask == 0)] = OUTLINE
    return marked


def crop_box(mask: Pixels, margin: float = _MARGIN) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the mask's bounding box and a margin (share of its longer side)."""
    left, top, right, bottom = bounding_box(mask)
    extra = round(max(right - left, bottom - top) * margin)
    height, width = mask.shape
    return max(0, left - extra), max(0, top - extra), min(width, right + extra), min(height, bottom + extra)


def crop(image: Pixels, mask: Pixels, margin: float = _MARGIN) -> Pixels:
    """The masked region of an image with its surroundings."""
    left, top, right, bottom = crop_box(mask, margin)
    return image[top:bottom, left:right]


def fitted(image: Pixels, max_side: int, min_side: int = 1) -> Image.Image:
    """Scaled so that its longer side is `min_side` to `max_side` pixels; transparency is laid onto white."""
    picture = Image.fromarray(np.ascontiguousarray(to_rgb(image)))
    longer = max(picture.size)
    scale = min(max_side, max(longer, min_side)) / longer
    if scale == 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def jpeg(image: Pixels, max_side: int, enlarge: bool = False) -> bytes:
    """JPEG bytes (quality 95, full colour resolution); `enlarge` brings small crops to a size worth looking at."""
    stream = io.BytesIO()
    smallest = min(_SMALLEST_CROP, max_side) if enlarge else 1
    fitted(image, max_side, smallest).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return stream.getvalue()


def side_by_side(left: Pixels, right: Pixels, side: int) -> Image.Image:
    """Two images in one, each in a white square of `side` pixels: for judges that see only one image."""
    sheet = Image.new("RGB", (2 * side, side), "white")
    for index, image in enumerate((left, right)):
        panel = fitted(image, side, side)
        sheet.paste(panel, (index * side + (side - panel.width) // 2, (side - panel.height) // 2))
    return sheet
