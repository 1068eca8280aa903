"""Opens ONNX models on one device, and says in one sentence what is wrong with those that cannot be opened.

ONNX Runtime goes on silently on the CPU when a GPU cannot be used; here that is an error.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigurationError, DeviceError, DeviceLost, MissingDependency, Retryable

Floats = NDArray[np.float32]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_CUDA_OPTIONS = {
    # The default tries algorithms out and takes the fastest, which need not be the same one next time.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Another model shares the card: take what is needed, not the next power of two.
    "arena_extend_strategy": "kSameAsRequested",
}


def require_packages(user: str, extra: str) -> None:
    """Raises MissingDependency, naming `extra`, when `user` cannot have ONNX Runtime, onnx or OpenCV."""
    try:
        import cv2  # noqa: F401
        import onnx  # noqa: F401

        _runtime()
    except ImportError as error:
        raise MissingDependency(
            f"{user} needs {error.name or 'ONNX Runtime'}: pip install 'inpaint-eacps[{extra}]' "
            f"(on a GPU, onnxruntime-gpu in place of onnxruntime)."
        ) from error


def provider(device: str) -> tuple[str, dict[str, str]]:
    """The execution provider, with its options, of a device as torch names it: `cpu`, `cuda`, `cuda:N`.

    Raises DeviceError when this ONNX Runtime cannot use a GPU, ConfigurationError for another kind of device.
    """
    if device == "cpu":
        return _CPU, {}
    found = re.fullmatch(r"cuda(?::(\d+))?", device)
    if found is None:
        raise ConfigurationError(f"ONNX models run on cpu or cuda:N, not on {device!r}.")
    if _CUDA not in _runtime().get_available_providers():
        raise DeviceError(
            f"{device} was asked for, and the installed ONNX Runtime knows no CUDA: "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu."
        )
    return _CUDA, {"device_id": found[1] or "0", **_CUDA_OPTIONS}


def read_graph(file: Path, setting: str) -> Any:
    """The graph of an ONNX file. Raises ConfigurationError, naming `setting`, for a file that is not one."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(str(file), load_external_data=False).graph
    except OSError as error:
        raise ConfigurationError(f"{setting}: {file} cannot be read ({error.strerror}).") from error
    except DecodeError as error:
        raise ConfigurationError(f"{setting}: {file} is no ONNX model, or was cut short; fetch it again.") from error
    if not graph.output:
        raise ConfigurationError(f"{setting}: {file} is no ONNX model, or was cut short; fetch it again.")
    return graph


def open_session(file: Path, setting: str, device: str) -> Any:
    """An `onnxruntime.InferenceSession` that runs on `device` and nowhere else.

    Raises DeviceError when the device cannot be used, ConfigurationError, naming `setting`, when the model cannot.
    """
    onnxruntime = _runtime()
    name, options = provider(device)
    if name == _CUDA:
        # CUDA's and cuDNN's libraries come with torch or the nvidia packages, where the loader does not look.
        onnxruntime.preload_dlls()
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 3
    session_options.use_deterministic_compute = True
    # Several workers share one CPU: threads that wait by spinning would take it from the others.
    session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(file), session_options, providers=[(name, options)])
    except Exception as error:  # onnxruntime's exceptions share no base below this one
        message = f"{setting}: {file} cannot be loaded on {device}: {_first_line(error)}"
        raise (DeviceError if name == _CUDA else ConfigurationError)(message) from error
    if session.get_providers()[0] != name:
        raise DeviceError(f"{setting}: ONNX Runtime would not run {file} on {device}; check its CUDA and cuDNN.")
    session.disable_fallback()
    return session


def run(session: Any, feeds: Mapping[str, Floats], device: str) -> list[Floats]:
    """All outputs of a model. Raises Retryable when the device is out of memory, DeviceLost when CUDA is broken."""
    with _translated(device):
        outputs: list[Floats] = session.run(None, dict(feeds))
    return outputs


def _runtime() -> Any:
    """ONNX Runtime. Its builds tell Microsoft how they are used unless this is set before they are loaded."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


@contextmanager
def _translated(device: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime's exceptions share no base below this one
        text = str(error)
        if "out of memory" in text or "Failed to allocate memory" in text:
            raise Retryable(f"{device} ran out of memory: {_first_line(error)}") from error
        if "CUDA failure" in text:
            raise DeviceLost(f"{device}: {_first_line(error)}; this process must be started again") from error
        raise


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
