"""Blending a posed character into a scene.

Colour transfer: Reinhard, Ashikhmin, Gooch, Shirley, "Color transfer between images", 2001.
Poisson clone: Perez, Gangnet, Blake, "Poisson image editing", 2003.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from workers.generation.cutout import Cutout, Floats
from workers.generation.layout import Layout
from workers.generation.pose import Pose

#: Even at full strength some of the character's own colours stay: they are part of who it is.
COLOUR_LIMIT = 0.85
HARMONY_LIMIT = 0.6
SHADOW_LIMIT = 0.6
#: Longest side of the map on which it is measured how much of a character lies in the mask.
ROOM_SIZE = 64
#: The Poisson equation is solved on at most so many pixels a side.
CLONE_SIZE = 256


def compose(layout: Layout, cutout: Cutout, pose: Pose) -> Floats:
    """The window of the scene with the character in it: h x w x 3, float32, 0-1; untouched at the mask's edge."""
    matched = match_colours(cutout, layout.colours, pose.colour * COLOUR_LIMIT)
    rgb, alpha = _warp(matched, cutout, layout, pose)
    size = pose.scale * layout.height
    if pose.soften > 0.02:
        rgb = cv2.GaussianBlur(rgb, (0, 0), 0.2 + 1.0 * pose.soften)
    width = (0.4 + 1.6 * pose.feather) * max(0.5, size / 250)
    soft = np.clip(cv2.GaussianBlur(alpha, (0, 0), width) * 1.5 - 0.5, 0, 1)
    falloff = np.clip(layout.depth / max(4.0, 3 * width), 0, 1)
    falloff = falloff * falloff * (3 - 2 * falloff)
    soft = soft * falloff
    scene = layout.scene * (1 - pose.shadow * SHADOW_LIMIT * _shadow(alpha, size) * falloff)[..., None]
    if pose.clone != "feather" and pose.harmony > 0:
        share = pose.harmony * HARMONY_LIMIT
        rgb = (1 - share) * rgb + share * _poisson(rgb, soft, layout.scene, pose.clone)
    return np.asarray(scene * (1 - soft[..., None]) + rgb * soft[..., None], dtype=np.float32)


def misfit(layout: Layout, cutout: Cutout, pose: Pose) -> float:
    """Share of the character that the mask would cut off, plus a little for a size other than the fitting one."""
    factor = ROOM_SIZE / max(layout.depth.shape)
    size = (max(1, round(layout.depth.shape[1] * factor)), max(1, round(layout.depth.shape[0] * factor)))
    room = cv2.resize((layout.depth > 0).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    shrink = 48 / max(cutout.alpha.shape)
    shape = (max(1, round(cutout.alpha.shape[1] * shrink)), max(1, round(cutout.alpha.shape[0] * shrink)))
    small = cv2.resize(cutout.alpha, shape, interpolation=cv2.INTER_AREA)
    matrix = _matrix(layout, cutout, pose, small.shape) * factor
    grown = abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])
    inside = float((cv2.warpAffine(small, matrix, size) * room).sum()) / max(float(small.sum() * grown), 1e-6)
    return 1 - min(1.0, inside) + 0.1 * abs(1 - pose.scale)


def match_colours(cutout: Cutout, target: tuple[Floats, Floats], strength: float) -> Floats:
    """The character's RGB with its Lab mean and spread moved towards the target's by `strength`, 0-1."""
    lab = cv2.cvtColor(cutout.rgb, cv2.COLOR_RGB2LAB)
    own = lab[cutout.alpha > 0.5]
    if not own.size:
        return cutout.rgb
    mean, spread = own.mean(axis=0), own.std(axis=0) + 1e-3
    gain = 1 + strength * (np.clip(target[1] / spread, 0.5, 1.5) - 1)
    moved = (lab - mean) * gain + mean + strength * (target[0] - mean)
    return np.asarray(np.clip(cv2.cvtColor(moved.astype(np.float32), cv2.COLOR_LAB2RGB), 0, 1), dtype=np.float32)


def _centre(layout: Layout, cutout: Cutout, pose: Pose) -> tuple[float, float]:
    """Where the character's centre goes, in pixels of the window.

    A smaller or larger size keeps the feet where they are, or the side at which the reference cut the character off;
    such a side never moves into the scene, where the cut would show.
    """
    tall, wide = layout.height, layout.height * cutout.alpha.shape[1] / cutout.alpha.shape[0]
    shift_x, shift_y = pose.shift_x, pose.shift_y
    anchor_x, anchor_y = 0.0, 0.5
    if "left" in cutout.cut and "right" not in cutout.cut:
        anchor_x, shift_x = -0.5, -abs(shift_x)
    if "right" in cutout.cut and "left" not in cutout.cut:
        anchor_x, shift_x = 0.5, abs(shift_x)
    if "bottom" in cutout.cut:
        shift_y = abs(shift_y)
    elif "top" in cutout.cut:
        anchor_y, shift_y = -0.5, -abs(shift_y)
    return (
        layout.centre[0] + wide * (shift_x + anchor_x * (1 - pose.scale)),
        layout.centre[1] + tall * (shift_y + anchor_y * (1 - pose.scale)),
    )


def _warp(rgb: Floats, cutout: Cutout, layout: Layout, pose: Pose) -> tuple[Floats, Floats]:
    """Colour (bled outwards over its own edge) and alpha of the character, in the window."""
    alpha = cutout.alpha
    tall = pose.scale * layout.height
    factor = tall / alpha.shape[0]
    if factor < 1:
        size = (max(2, round(alpha.shape[1] * factor)), max(2, round(alpha.shape[0] * factor)))
        premultiplied = cv2.resize(rgb * alpha[..., None], size, interpolation=cv2.INTER_AREA)
        alpha = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    else:
        premultiplied = rgb * alpha[..., None]
    matrix = _matrix(layout, cutout, pose, alpha.shape)
    size = (layout.scene.shape[1], layout.scene.shape[0])
    premultiplied = cv2.warpAffine(premultiplied, matrix, size, flags=cv2.INTER_LINEAR)
    alpha = np.clip(cv2.warpAffine(np.ascontiguousarray(alpha), matrix, size, flags=cv2.INTER_LINEAR), 0, 1)
    halo = cv2.GaussianBlur(premultiplied, (0, 0), 3), cv2.GaussianBlur(alpha, (0, 0), 3)
    weight = (alpha + 0.05 * halo[1])[..., None]
    bled = (premultiplied + 0.05 * halo[0]) / np.maximum(weight, 1e-4)
    return np.clip(bled, 0, 1).astype(np.float32), alpha


def _matrix(layout: Layout, cutout: Cutout, pose: Pose, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """2 x 3: from pixels of the cut-out, resampled to `shape`, to pixels of the window."""
    height, width = shape[:2]
    angle, factor = np.deg2rad(pose.rotation), pose.scale * layout.height / height
    turn = factor * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    if pose.flip:
        turn = turn @ np.diag([-1.0, 1.0])
    centre = np.array(_centre(layout, cutout, pose))
    return np.column_stack([turn, centre - turn @ np.array([(width - 1) / 2, (height - 1) / 2])])


def _shadow(alpha: Floats, size: float) -> Floats:
    """A soft shadow, a little below the character: h x w, 0-1."""
    drop = np.array([[1, 0, 0.02 * size], [0, 1, 0.03 * size]], dtype=np.float64)
    moved = cv2.warpAffine(alpha, drop, (alpha.shape[1], alpha.shape[0]))
    return np.asarray(cv2.GaussianBlur(moved, (0, 0), max(1.0, 0.04 * size)), dtype=np.float32)


def _poisson(rgb: Floats, soft: Floats, scene: Floats, clone: str) -> Floats:
    """The character's colours after a gradient-domain clone into the scene."""
    height, width = soft.shape
    factor = min(1.0, CLONE_SIZE / max(height, width))
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    small = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (rgb, scene, soft)]
    source, target = ((np.clip(image, 0, 1) * 255).astype(np.uint8) for image in small[:2])
    region = ((small[2] > 0.3) * 255).astype(np.uint8)
    region[[0, 1, -1, -2]] = 0
    region[:, [0, 1, -1, -2]] = 0
    x, y, w, h = cv2.boundingRect(region)
    if w < 3 or h < 3:
        return rgb
    mode = cv2.NORMAL_CLONE if clone == "normal" else cv2.MIXED_CLONE
    cloned = cv2.seamlessClone(source, target, region, (x + w // 2, y + h // 2), mode).astype(np.float32) / 255
    change = np.where(region[..., None] > 0, cloned - small[0], 0).astype(np.float32)
    whole = cv2.resize(change, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(rgb + whole, 0, 1), dtype=np.float32)
