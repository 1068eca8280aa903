"""Loading a checkpoint: every failure is one sentence with its fix. The hub is a real HTTP server on loopback."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

from huggingface_hub import constants

from shared.errors import ConfigurationError, DeviceError, InpaintError
from shared.settings.qwen import QwenSettings
from workers.generation import memory, qwen_loading
from workers.generation.qwen import QwenImageEditGenerator

pytestmark = pytest.mark.torch
TOKEN = "hf_" + "x" * 34


class Hub(ThreadingHTTPServer):
    """A hub that has nothing, and says why in the way the real one does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Refuse)
        self.status, self.code = 404, "RepoNotFound"
        self.tokens: list[str | None] = []


class _Refuse(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.tokens.append(self.headers["Authorization"])
        self.send_response(self.server.status)
        self.send_header("X-Error-Code", self.server.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    running = Hub()
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{running.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield running
    running.shutdown()
    running.server_close()
    thread.join(5)


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (404, "RepoNotFound", ConfigurationError, "private"),
        (404, "RevisionNotFound", ConfigurationError, "generation.qwen.revision"),
        (403, "GatedRepo", ConfigurationError, "accept its terms"),
    ],
)
def test_a_hub_that_refuses(
    hub: Hub, caplog: pytest.LogCaptureFixture, status: int, code: str, error: type[InpaintError], words: str
) -> None:
    hub.status, hub.code = status, code
    with pytest.raises(error, match=words) as caught:
        qwen_loading.checkpoint_folder(QwenSettings())
    assert TOKEN not in caplog.text + str(caught.value)
    assert "6f3ccc0b56e431dc6a0c2b2039706d7d26f22cb9" in str(caught.value) or code != "RevisionNotFound"


def test_no_network_and_an_empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DeviceError, match=r"hub cannot be reached.*hf download Qwen/Qwen-Image-Edit-2511 --revision"):
        qwen_loading.checkpoint_folder(QwenSettings())
    with pytest.raises(DeviceError, match="downloads are off"):
        qwen_loading.checkpoint_folder(QwenSettings(local_files_only=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "Qwen/Qwen-Image-2.1"}, "accept_other_license"),
        ({"model": "/no/such/folder"}, "no folder"),
        ({"model": "just-a-name"}, "owner/name"),
    ],
)
def test_a_model_that_cannot_be_meant(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        qwen_loading.checkpoint_folder(QwenSettings.model_validate(changes))


def test_folders_that_are_no_checkpoints(tmp_path: Path) -> None:
    settings = QwenSettings(model=str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"model_index\.json"):
        QwenImageEditGenerator(settings, "cpu").load()
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"no .*safetensors"):
        QwenImageEditGenerator(settings, "cpu").load()
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        QwenImageEditGenerator(settings, "cpu").load()


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match="this process sees"):
        QwenImageEditGenerator(QwenSettings(), "cuda:63").load()


def test_too_little_memory_is_said_in_numbers() -> None:
    found = memory.Memory(free=20 * memory.GIB, total=80 * memory.GIB, name="NVIDIA H100", source="NVML")
    memory.check(found, device="cuda:0", weights=10 * memory.GIB, headroom=10 * memory.GIB)
    with pytest.raises(DeviceError, match=r"cuda:0 \(NVIDIA H100\) has 20\.0 GiB of 80\.0 GiB free .* needs 68\.0 GiB"):
        memory.check(found, device="cuda:0", weights=58 * memory.GIB, headroom=10 * memory.GIB)


def test_weights_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.safetensors").write_bytes(b"1" * 70)
    (tmp_path / "b.safetensors").write_bytes(b"1" * 7)
    (tmp_path / "c.json").write_bytes(b"1" * 9)
    assert memory.weights_bytes(tmp_path) == 77
