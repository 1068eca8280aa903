"""Tells the failures of a device apart: out of memory, a broken context, and everything else."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shared.errors import DeviceLost, InpaintError, Retryable

_OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
#: What CUDA and its libraries say once the context is unusable for the rest of the process.
_BROKEN = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "uncorrectable ECC",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "device has been lost",
    "GPU is lost",
)


class OutOfMemory(Retryable):
    """The device ran out of memory while it made a candidate."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator of the device refused."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    )


def is_broken_context(error: BaseException) -> bool:
    """Whether the device's context cannot be used again in this process."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in _BROKEN)


@contextmanager
def translated(device: str) -> Iterator[None]:
    """Raises OutOfMemory or DeviceLost for what torch raises inside; lets everything else through."""
    try:
        yield
    except InpaintError:
        raise
    except RuntimeError as error:
        first_line = str(error).strip().partition("\n")[0]
        if is_out_of_memory(error):
            raise OutOfMemory(f"{device} ran out of memory: {first_line}") from error
        if is_broken_context(error):
            raise DeviceLost(f"{device}: {first_line}; this process must be started again") from error
        raise
