"""`composite`: places the character by image processing alone. No GPU, no weights.

It cuts the character out of its reference and blends it into the mask with a pose drawn from the seed; a refinement
stays near its parent's pose and nudges the character to where the mask cuts less of it off. What a person without a
GPU can use, and what makes the whole search testable for real.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from pydantic import JsonValue

from shared.errors import MissingDependency, Permanent
from shared.settings.composite import CompositeSettings
from shared.types import Start
from workers.generation.base import Control, GeneratedImage, GenerationRequest, TaskImages
from workers.generation.pose import Pose, draw_pose, jitter_poses, pose_from_params

if TYPE_CHECKING:
    from workers.generation.cutout import Cutout
    from workers.generation.layout import Layout

#: Strength of a refinement that names none.
STRENGTH = 0.55
#: Raised whenever the same pose would draw other pixels than before.
VERSION = 1


class CompositeGenerator:
    """Generator `composite` (see workers.generation.base.Generator). `params` are the pose."""

    name = "composite"

    def __init__(self, settings: CompositeSettings) -> None:
        self._settings = settings
        self._tasks: OrderedDict[str, tuple[Cutout, Layout]] = OrderedDict()
        self._lock = threading.Lock()

    def fingerprint(self) -> Mapping[str, JsonValue]:
        """Settings and version: everything but the inputs that decides the pixels."""
        return {"version": VERSION, **self._settings.model_dump(mode="json", exclude={"cache_tasks"})}

    def load(self) -> None:
        """Import OpenCV and keep it to one core. Raises MissingDependency."""
        try:
            import cv2
        except ImportError as error:
            raise MissingDependency(
                "the composite generator needs OpenCV: install it with `pip install 'inpaint-eacps[cpu]'`"
            ) from error
        cv2.setNumThreads(1)

    def generate(self, request: GenerationRequest, control: Control) -> GeneratedImage:
        """Make one candidate. Raises Permanent for an empty mask, or a refinement without a parent's pose."""
        from workers.generation.blend import compose

        started = time.perf_counter()
        cutout, layout = self._prepared(request.images)
        prepared = time.perf_counter()
        control.step(0, 1)
        pose = self._pose(request, cutout, layout)
        window = compose(layout, cutout, pose)
        image = _inserted(request.images, layout, window)
        control.step(1, 1)
        return GeneratedImage(
            image=image,
            params=pose.model_dump(mode="json"),
            timings={"prepare": prepared - started, "compose": time.perf_counter() - prepared},
            notes=cutout.notes,
        )

    def _pose(self, request: GenerationRequest, cutout: "Cutout", layout: "Layout") -> Pose:
        from workers.generation.blend import misfit

        spec = request.spec
        if spec.start is Start.FRESH:
            return draw_pose(self._settings, spec.seed, may_flip=not cutout.cut & {"left", "right"})
        if request.parent is None:
            raise Permanent(f"candidate {spec.id} starts from its parent, but no parent was given")
        parent = pose_from_params(request.parent.params)
        if spec.start is Start.RESUME:
            return parent
        strength = STRENGTH if spec.strength is None else spec.strength
        near = jitter_poses(self._settings, spec.seed, parent, strength)
        return min(near, key=lambda pose: misfit(layout, cutout, pose))

    def _prepared(self, images: TaskImages) -> "tuple[Cutout, Layout]":
        with self._lock:
            if images.key in self._tasks:
                self._tasks.move_to_end(images.key)
                return self._tasks[images.key]
        from workers.generation.cutout import cut_out
        from workers.generation.layout import lay_out

        if not images.mask.any():
            raise Permanent(f"the mask of task {images.task_id} is empty: there is nowhere to put the character")
        cutout = cut_out(images.character, self._settings.reference_size)
        made = cutout, lay_out(images.init, images.mask, cutout)
        with self._lock:
            self._tasks[images.key] = made
            while len(self._tasks) > self._settings.cache_tasks:
                self._tasks.popitem(last=False)
        return made


def _inserted(images: TaskImages, layout: "Layout", window: np.ndarray) -> np.ndarray:
    """The init image with `window` where the mask is set."""
    image = images.init.copy()
    height, width = window.shape[:2]
    place = slice(layout.top, layout.top + height), slice(layout.left, layout.left + width)
    edit = images.mask[place] > 0
    image[place][edit] = np.rint(np.clip(window, 0, 1) * 255).astype(np.uint8)[edit]
    return image
