"""Whether a model fits into the free memory of its GPU, asked before it is loaded."""

import logging
from dataclasses import dataclass
from pathlib import Path

from shared.errors import DeviceError

_log = logging.getLogger(__name__)
GIB = 1024**3


@dataclass(frozen=True)
class Memory:
    """A GPU's memory in bytes, of all processes together, as `source` tells it."""

    free: int
    total: int
    name: str
    source: str


def weights_bytes(checkpoint: Path) -> int:
    """Bytes of all `*.safetensors` below a folder: what the weights take in the type they are stored in."""
    return sum(file.stat().st_size for file in checkpoint.rglob("*.safetensors"))


def gpu_memory(index: int) -> Memory:
    """Memory of CUDA device `index`, as this process counts them.

    NVML numbers GPUs by PCI bus and ignores CUDA_VISIBLE_DEVICES, so the GPU is looked up by its UUID. Where NVML is
    absent (some containers), the CUDA runtime is asked instead.
    """
    import pynvml
    import torch

    properties = torch.cuda.get_device_properties(index)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _log.warning("NVML is not available (%s); asking CUDA instead", error, extra={"action": "memory.no_nvml"})
        free, total = torch.cuda.mem_get_info(index)
        return Memory(free=free, total=total, name=properties.name, source="CUDA")
    try:
        info = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}"))
    except pynvml.NVMLError as error:
        _log.warning("NVML does not know this GPU (%s); asking CUDA", error, extra={"action": "memory.no_nvml"})
        free, total = torch.cuda.mem_get_info(index)
        return Memory(free=free, total=total, name=properties.name, source="CUDA")
    finally:
        pynvml.nvmlShutdown()
    return Memory(free=int(info.free), total=int(info.total), name=properties.name, source="NVML")


def check(memory: Memory, *, device: str, weights: int, headroom: int) -> None:
    """Raises DeviceError when `weights` and `headroom` bytes do not fit into what is free."""
    need = weights + headroom
    if memory.free >= need:
        return
    used = memory.total - memory.free
    raise DeviceError(
        f"{device} ({memory.name}) has {memory.free / GIB:.1f} GiB of {memory.total / GIB:.1f} GiB free "
        f"({used / GIB:.1f} GiB in use, by {memory.source}), and the model needs {need / GIB:.1f} GiB "
        f"({weights / GIB:.1f} GiB weights and {headroom / GIB:.1f} GiB headroom). Free the GPU, choose another, or "
        "set generation.qwen.text_encoder to offload or generation.qwen.memory_headroom_gib lower."
    )
