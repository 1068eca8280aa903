"""How a character is placed and blended: a point in a small space that seeds draw from and refinements move in."""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, JsonValue, ValidationError

from shared.errors import Permanent
from shared.settings.composite import CompositeSettings
from shared.types import Frozen

Clone = Literal["feather", "normal", "mixed"]
CLONES: tuple[Clone, ...] = ("feather", "normal", "mixed")


class Pose(Frozen):
    """One way to place and blend a character."""

    #: Size, as a share of the size at which the character just fits the mask.
    scale: Annotated[float, Field(gt=0, le=4)]
    #: Shift from the resting place, in widths and heights of the character as it just fits.
    shift_x: Annotated[float, Field(ge=-2, le=2)]
    shift_y: Annotated[float, Field(ge=-2, le=2)]
    #: Degrees, counter-clockwise.
    rotation: Annotated[float, Field(ge=-180, le=180)]
    flip: bool
    #: How far the character's colours move to the scene's, 0-1.
    colour: Annotated[float, Field(ge=0, le=1)]
    clone: Clone
    #: Share of the Poisson clone in the character's colours, 0-1; nothing for `feather`.
    harmony: Annotated[float, Field(ge=0, le=1)]
    #: Width of the soft edge, 0 (hair-thin) to 1 (wide).
    feather: Annotated[float, Field(ge=0, le=1)]
    #: Blur that takes the character to the scene's sharpness, 0 (none) to 1.
    soften: Annotated[float, Field(ge=0, le=1)]
    #: Strength of the shadow that the character casts on what is behind it, 0-1.
    shadow: Annotated[float, Field(ge=0, le=1)]


def ranges(settings: CompositeSettings) -> Mapping[str, tuple[float, float]]:
    """Lowest and highest value of each continuous parameter that a seed draws."""
    return {
        "scale": (settings.scale_min, settings.scale_max),
        "shift_x": (-settings.shift, settings.shift),
        "shift_y": (-settings.shift, settings.shift),
        "rotation": (-settings.rotation, settings.rotation),
        "colour": (0.0, 1.0),
        "harmony": (0.0, 1.0),
        "feather": (0.0, 1.0),
        "soften": (0.0, 1.0),
        "shadow": (0.0, 1.0),
    }


def draw_pose(settings: CompositeSettings, seed: int, *, may_flip: bool) -> Pose:
    """The pose of a fresh seed: uniform over all ranges."""
    rng = np.random.default_rng(seed)
    values = {name: float(rng.uniform(low, high)) for name, (low, high) in ranges(settings).items()}
    clone = CLONES[int(rng.integers(len(CLONES)))]
    flip = bool(rng.random() < 0.5) and settings.flip and may_flip
    return Pose(**values, clone=clone, flip=flip)


def jitter_poses(settings: CompositeSettings, seed: int, parent: Pose, strength: float) -> tuple[Pose, ...]:
    """`refine_tries` poses near `parent`, of which the one that suits the mask best is meant to be used.

    Every continuous parameter moves by a normal step of `strength * refine_spread` ranges, reflected at the ends of
    the range; `flip` and `clone` are the parent's.
    """
    rng = np.random.default_rng(seed)
    return tuple(_jittered(settings, rng, parent, strength) for _ in range(settings.refine_tries))


def _jittered(settings: CompositeSettings, rng: np.random.Generator, parent: Pose, strength: float) -> Pose:
    moved: dict[str, float] = {}
    for name, (low, high) in ranges(settings).items():
        step = float(rng.normal()) * strength * settings.refine_spread * (high - low)
        moved[name] = _reflected(getattr(parent, name) + step, low, high)
    return parent.model_copy(update=moved)


def pose_from_params(params: Mapping[str, JsonValue]) -> Pose:
    """The pose that a parent was made with. Raises Permanent if `params` is not the record of one."""
    try:
        return Pose.model_validate(dict(params))
    except ValidationError as error:
        fields = ", ".join(str(part["loc"][0]) for part in error.errors() if part["loc"])
        raise Permanent(
            f"the parent's params are no pose of the composite generator (see {fields or 'all'})"
        ) from error


def _reflected(value: float, low: float, high: float) -> float:
    if high <= low:
        return low
    span = high - low
    offset = (value - low) % (2 * span)
    return low + (offset if offset <= span else 2 * span - offset)
