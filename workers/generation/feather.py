"""Puts a drawn window back onto the original pixels, blended inside the mask's edge only."""

import cv2
import numpy as np
from numpy.typing import NDArray

from workers.generation.base import RGB, Mask


def alpha(mask: Mask, width: int) -> NDArray[np.float32]:
    """Opacity in [0, 1] for `mask` (H x W, 0 or 255): 0 wherever the mask is 0, and no jump at its edge.

    It rises with the distance to the edge as a smoothstep over `width` pixels, less where the mask is thinner than
    twice that, so that its middle is always fully drawn. `width` 0 gives the mask itself. The picture's border is no
    edge: what lies there is continued, not blended.
    """
    inside = mask > 0
    if width == 0:
        return inside.astype(np.float32)
    padded = np.pad(inside.astype(np.uint8), 1, mode="edge")
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    reach = min(float(width), float(distance.max()))
    ramp = np.clip(distance / reach, 0.0, 1.0)
    return np.where(inside, ramp * ramp * (3.0 - 2.0 * ramp), 0.0).astype(np.float32)


def composite(init: RGB, drawn: RGB, mask: Mask, width: int) -> RGB:
    """`drawn` over `init` (both H x W x 3) inside `mask`; byte-equal to `init` wherever the mask is 0.

    Blends in 8-bit sRGB, as the judges see it.
    """
    opacity = alpha(mask, width)[..., None]
    mixed = init.astype(np.float32) * (1.0 - opacity) + drawn.astype(np.float32) * opacity
    return np.where(mask[..., None] > 0, np.rint(mixed), init).astype(np.uint8)
