"""Which devices this machine has, without torch."""

import ctypes
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

from shared.errors import ConfigurationError, DeviceError

CPU = "cpu"
#: Generators that get a GPU where there is one and no device was named.
NEEDS_GPU = frozenset({"qwen-image-edit", "insightface-swap"})
MOST_CPU_WORKERS = 4


@dataclass(frozen=True)
class GraphicsCard:
    """One NVIDIA GPU as this process may use it; `index` counts among the visible ones."""

    index: int
    name: str
    total_gb: float
    free_gb: float
    #: What CUDA_VISIBLE_DEVICES must say to show this one alone.
    visible_as: str


def graphics_cards(env: Mapping[str, str] | None = None) -> tuple[GraphicsCard, ...]:
    """The GPUs that NVML sees and CUDA_VISIBLE_DEVICES leaves; empty without a driver.

    Raises DeviceError when a driver is there and NVML cannot be used.
    """
    if not _has_driver():
        return ()
    if find_spec("pynvml") is None:
        raise DeviceError("There is an NVIDIA driver, but no nvidia-ml-py to look at it; pip install nvidia-ml-py.")
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            cards = [_card(index) for index in range(pynvml.nvmlDeviceGetCount())]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise DeviceError(f"NVML does not answer ({error}); check that nvidia-smi works.") from error
    return visible(cards, (os.environ if env is None else env).get("CUDA_VISIBLE_DEVICES"))


def choose_devices(wanted: Sequence[str], needs_gpu: bool) -> tuple[str, ...]:
    """The devices that `--device` names: `cuda:N`, `cpu`, `all`; by default `cuda:0` where it is of use, else `cpu`.

    Raises ConfigurationError for a name or a GPU that does not exist, DeviceError when NVML does not answer.
    """
    words = [part for word in wanted for part in word.split(",") if part] or ["auto"]
    chosen: list[str] = []
    for word in words:
        if word == "auto":
            chosen.append("cuda:0" if needs_gpu and graphics_cards() else CPU)
        elif word == "all":
            chosen += [f"cuda:{card.index}" for card in graphics_cards()] or [CPU]
        elif word == CPU:
            chosen.append(CPU)
        elif re.fullmatch(r"cuda(:[0-9]{1,4})?", word):
            chosen.append(_existing(word))
        else:
            raise ConfigurationError(f"--device {word}: write cuda:N, cpu or all.")
    return tuple(dict.fromkeys(chosen))


def cpu_workers(wanted: int | None) -> int:
    """Device workers on a CPU: as many as wanted, else one per usable core up to four."""
    return wanted or min(MOST_CPU_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def _existing(word: str) -> str:
    index = int(word.partition(":")[2] or 0)
    cards = graphics_cards()
    if index not in {card.index for card in cards}:
        there = ", ".join(f"cuda:{card.index}" for card in cards) or "no NVIDIA GPU"
        raise ConfigurationError(f"--device {word}: there is no such GPU here; this machine has {there}.")
    return f"cuda:{index}"


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _card(index: int) -> tuple[str, GraphicsCard]:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    card = GraphicsCard(
        index, str(pynvml.nvmlDeviceGetName(handle)), int(memory.total) / 1e9, int(memory.free) / 1e9, str(index)
    )
    return str(pynvml.nvmlDeviceGetUUID(handle)), card


def visible(cards: Sequence[tuple[str, GraphicsCard]], visible: str | None) -> tuple[GraphicsCard, ...]:
    """Those that CUDA_VISIBLE_DEVICES names, in its order and with its numbers; a name unknown ends the list."""
    if visible is None:
        return tuple(card for _, card in cards)
    chosen: list[GraphicsCard] = []
    for name in filter(None, (part.strip() for part in visible.split(","))):
        found = next(
            (c for uuid, c in cards if name == str(c.index) or (name.startswith("GPU-") and uuid.startswith(name))),
            None,
        )
        if found is None:
            break
        chosen.append(replace(found, index=len(chosen), visible_as=name))
    return tuple(chosen)
