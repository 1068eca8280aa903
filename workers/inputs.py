"""Reading a task's images from the artifact store, each only once per process."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.artifacts import ArtifactStore
from shared.images import decode, to_rgb, to_rgba
from shared.messages import stable_hash
from shared.types import ArtifactRef, Prepared
from workers.generation.base import TaskImages

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The values used last, at most `size` of them. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], Value]) -> Value:
        """The value of `key`, made if it is not here. Two threads may make the same value at once; one is kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        return value

    def keys(self) -> tuple[str, ...]:
        """Keys at hand, the one used last at the end."""
        with self._lock:
            return tuple(self._values)


class Inputs:
    """Task images and stores at hand in this process."""

    def __init__(self, tasks: int = 8) -> None:
        self._images: Recent[TaskImages] = Recent(tasks)
        self._stores: Recent[ArtifactStore] = Recent(8)

    def store(self, url: str) -> ArtifactStore:
        """The artifact store at `url`."""
        return self._stores.get(url, lambda: ArtifactStore(url))

    def task(self, url: str, task_id: str, character_name: str, prepared: Prepared) -> TaskImages:
        """A task's inputs as arrays. Raises Retryable or Permanent when they cannot be read as they were written."""
        key = stable_hash([prepared.init.sha256, prepared.mask.sha256, prepared.character.sha256])

        def load() -> TaskImages:
            store = self.store(url)
            return TaskImages(
                task_id=task_id,
                character_name=character_name,
                init=read_rgb(store, prepared.init),
                mask=_read_only(decode(store.read(prepared.mask), prepared.mask.name).pixels),
                character=_read_only(to_rgba(decode(store.read(prepared.character), prepared.character.name).pixels)),
                key=key,
            )

        return self._images.get(f"{task_id}:{character_name}:{key}", load)


def read_rgb(store: ArtifactStore, ref: ArtifactRef) -> NDArray[np.uint8]:
    """An artifact as H x W x 3 RGB."""
    return _read_only(to_rgb(decode(store.read(ref), ref.name).pixels))


def _read_only(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Arrays at hand are shared by all candidates: nobody may paint on them."""
    pixels = np.ascontiguousarray(pixels)
    pixels.setflags(write=False)
    return pixels
