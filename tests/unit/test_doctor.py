"""What doctor finds, and which devices there are."""

import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from inpaint_eacps import devices
from inpaint_eacps.arguments import Arguments
from inpaint_eacps.commands.doctor import Finding, examine
from inpaint_eacps.devices import GraphicsCard, choose_devices, cpu_workers, visible
from shared.errors import ConfigurationError
from shared.settings.load import Override


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def findings(env: dict[str, str] | None = None, arguments: Arguments | None = None) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(arguments or Arguments(), env or {})}


def setting(name: str, value: object) -> Arguments:
    return Arguments(overrides=(Override(name, value, "--set"),))


def test_a_plain_machine_has_what_a_run_needs() -> None:
    found = findings()
    assert not [finding for finding in found.values() if finding.state == "missing"]
    assert found["broker"].found.startswith("embedded")
    assert found["gemini key"].state == "note"
    assert "GEMINI_API_KEY" in found["gemini key"].fix


def test_every_extra_that_a_user_may_want_is_examined() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].keys() - {"dev", "bench", "gemini-legacy"}
    assert {f"extra {name}" for name in extras} == {name for name in findings() if name.startswith("extra ")}


def test_a_wrong_setting_is_the_last_thing_examined() -> None:
    found = findings(arguments=setting("search.k_global", 0))
    assert found["configuration"].state == "missing"
    assert "broker" not in found


def test_a_broker_that_does_not_answer() -> None:
    found = findings(arguments=setting("broker.url", "redis://:hunter22@127.0.0.1:1/0"))
    assert found["broker"].state == "missing"
    assert "hunter22" not in repr(found)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = findings(arguments=setting("input.cache_dir", str(tmp_path / "file" / "cache")))
    assert found["cache"].state == "missing"
    assert "--cache-dir" in found["cache"].fix


@pytest.fixture
def gemini() -> Iterator[tuple[str, list[int]]]:
    """A server in Gemini's place; it answers with the status last put into the list."""
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            right = self.headers["x-goog-api-key"] == "right" and self.path.startswith("/v1beta/models/")
            self.send_response(statuses[-1] if right else 500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", statuses
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        (200, "ok", "accepted"),
        (403, "missing", "refused (403)"),
        (404, "missing", "no model"),
        (503, "note", "answered 503"),
    ],
)
def test_online_asks_gemini(gemini: tuple[str, list[int]], status: int, state: str, words: str) -> None:
    url, statuses = gemini
    statuses.append(status)
    arguments = Arguments(online=True, overrides=(Override("scoring.gemini.base_url", url, "--set"),))
    found = findings({"GEMINI_API_KEY": "right"}, arguments)["gemini key"]
    assert found.state == state
    assert words in found.found


def test_offline_asks_nobody() -> None:
    found = findings({"GEMINI_API_KEY": "right"}, setting("scoring.gemini.base_url", "http://127.0.0.1:1"))
    assert found["gemini key"].state == "ok"


def test_a_key_file_that_is_missing(tmp_path: Path) -> None:
    found = findings({"GEMINI_API_KEY_FILE": str(tmp_path / "nowhere")})
    assert found["gemini key"].state == "missing"


CARDS = tuple((f"GPU-{letter * 4}", GraphicsCard(index, "H", 80, 79, str(index))) for index, letter in enumerate("abc"))


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, ["GPU-aaaa", "GPU-bbbb", "GPU-cccc"]),
        ("2,0", ["GPU-cccc", "GPU-aaaa"]),
        ("GPU-bb", ["GPU-bbbb"]),
        ("", []),
        ("-1", []),
        ("1,9,0", ["GPU-bbbb"]),
    ],
)
def test_visible_cards_are_those_that_cuda_would_show(variable: str | None, expected: list[str]) -> None:
    cards = [(uuid, GraphicsCard(card.index, uuid, 80, 79, "")) for uuid, card in CARDS]
    found = visible(cards, variable)
    assert [card.name for card in found] == expected
    assert [card.index for card in found] == list(range(len(expected)))


@pytest.fixture
def _two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "graphics_cards", lambda: tuple(card for _, card in CARDS[:2]))


@pytest.mark.usefixtures("_two_cards")
@pytest.mark.parametrize(
    ("wanted", "needs_gpu", "expected"),
    [
        ((), True, ("cuda:0",)),
        ((), False, ("cpu",)),
        (("all",), True, ("cuda:0", "cuda:1")),
        (("cuda:1,cpu",), False, ("cuda:1", "cpu")),
        (("cuda", "cuda:0"), True, ("cuda:0",)),
    ],
)
def test_devices_on_a_machine_with_two_cards(
    wanted: tuple[str, ...], needs_gpu: bool, expected: tuple[str, ...]
) -> None:
    assert choose_devices(wanted, needs_gpu) == expected


def test_devices_on_a_machine_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "graphics_cards", tuple)
    assert choose_devices((), needs_gpu=True) == ("cpu",)
    assert choose_devices(("all",), needs_gpu=True) == ("cpu",)
    with pytest.raises(ConfigurationError, match="this machine has no NVIDIA GPU"):
        choose_devices(("cuda:0",), needs_gpu=True)


@pytest.mark.parametrize("word", ["gpu", "cuda:x", "0", "cuda:-1"])
def test_a_device_of_another_name_is_refused(word: str) -> None:
    with pytest.raises(ConfigurationError, match="cuda:N, cpu or all"):
        choose_devices((word,), needs_gpu=True)


def test_workers_default_to_the_cores_up_to_four() -> None:
    assert cpu_workers(7) == 7
    assert 1 <= cpu_workers(None) <= 4
