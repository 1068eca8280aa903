"""What a generator is, and what it is given.

A generator never touches the queue, Redis or the artifact store: it gets arrays and returns arrays. The device worker
around it (`workers.device`) loads inputs, writes artifacts, reports, and survives.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from shared.types import CandidateSpec

#: H x W x 3, uint8, RGB.
RGB = NDArray[np.uint8]
#: H x W x 4, uint8, RGBA (straight alpha).
RGBA = NDArray[np.uint8]
#: H x W, uint8, 0 or 255 (255 = edit).
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class TaskImages:
    """A task's prepared inputs. `init` and `mask` have the same height and width; `character` has its own."""

    task_id: str
    character_name: str
    init: RGB
    mask: Mask
    character: RGBA
    #: Hash over the three images: the key under which a generator may keep what it encoded of them.
    key: str


@dataclass(frozen=True)
class Parent:
    """What a `refine` or `resume` starts from."""

    spec: CandidateSpec
    image: RGB
    params: Mapping[str, JsonValue]
    #: The parent's further artifacts by kind, as bytes (`latents`: a safetensors file).
    extras: Mapping[str, bytes]


@dataclass(frozen=True)
class GenerationRequest:
    """One candidate to make. `parent` is set when `spec.start` is `refine` or `resume`."""

    images: TaskImages
    spec: CandidateSpec
    parent: Parent | None = None


@dataclass(frozen=True)
class GeneratedImage:
    """One candidate, made. `image` has the init image's size and equals it wherever the mask is 0."""

    image: RGB
    params: Mapping[str, JsonValue] = field(default_factory=dict)
    #: Further artifacts to store beside the image, by kind, as bytes.
    extras: Mapping[str, bytes] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    model_evaluations: int = 0
    notes: tuple[str, ...] = ()


class Control(Protocol):
    """The generator's line to the worker around it."""

    def step(self, done: int, total: int) -> None:
        """Report progress. Raises shared.errors.Cancelled when the candidate is no longer wanted: let it through."""


class Unwatched:
    """A control with no worker around: nobody is told, and nothing is cancelled."""

    def step(self, done: int, total: int) -> None:
        """Nobody is told."""


class Generator(Protocol):
    """Makes candidates on one device, one call at a time.

    Class attribute `name` is the registry name. Construction is cheap and imports no heavy package; `load` does all
    that costs time or memory, and is called once, before any `generate`.
    """

    name: str

    def fingerprint(self) -> Mapping[str, JsonValue]:
        """Everything of it that changes what it draws: its version, model, revision, steps.

        Asked before `load`. An image on disk is used again only if its generator said the same of itself.
        """

    def load(self) -> None:
        """Load weights and warm up. Raises DeviceError, MissingDependency or ConfigurationError with the fix."""

    def generate(self, request: GenerationRequest, control: Control) -> GeneratedImage:
        """Make one candidate; the same request gives the same image.

        Raises Retryable (worth another attempt, perhaps elsewhere), Permanent (this candidate cannot be made), or
        shared.errors.Cancelled.
        """
