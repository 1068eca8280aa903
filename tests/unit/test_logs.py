"""Log lines: JSON elsewhere than on a terminal, with a stable action, and never a secret."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from shared.logs import Redactor, set_up_logging

KEY = "AIza" + "S" * 35


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], level = before[0], before[1]
    root.setLevel(level)
    logging.captureWarnings(False)


def test_json_lines_carry_the_action_and_all_extras() -> None:
    stream = io.StringIO()
    set_up_logging(1, stream=stream, env={})
    logging.getLogger("orchestrator").info("took %s up", "7", extra={"action": "task_taken", "task_id": "7"})
    entry = json.loads(stream.getvalue())
    assert entry["action"] == "task_taken"
    assert (entry["task_id"], entry["level"], entry["message"]) == ("7", "info", "took 7 up")
    assert entry["time"].endswith("Z")


def test_a_terminal_gets_text() -> None:
    stream = Terminal()
    set_up_logging(0, stream=stream, env={})
    logging.getLogger("x").warning("slow", extra={"action": "slow", "seconds": 3})
    assert stream.getvalue().rstrip().endswith("slow  (seconds=3)")


def test_the_variable_decides_over_the_terminal() -> None:
    stream = Terminal()
    set_up_logging(0, stream=stream, env={"INPAINT_EACPS_LOG": "json"})
    logging.getLogger("x").warning("slow")
    assert json.loads(stream.getvalue())["message"] == "slow"


@pytest.mark.parametrize(("verbosity", "expected"), [(-1, 1), (0, 2), (1, 3), (2, 4), (5, 4)])
def test_verbosity(verbosity: int, expected: int) -> None:
    stream = io.StringIO()
    set_up_logging(verbosity, stream=stream, env={})
    for level in ("error", "warning", "info", "debug"):
        getattr(logging.getLogger("x"), level)(level)
    assert len(stream.getvalue().splitlines()) == expected


def test_a_traceback_is_one_line_of_json() -> None:
    stream = io.StringIO()
    set_up_logging(0, stream=stream, env={"GEMINI_API_KEY": "hunter22"})
    try:
        raise ValueError("key=hunter22")
    except ValueError:
        logging.getLogger("x").exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError" in json.loads(line)["traceback"]
    assert "hunter22" not in line


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    "secret",
    [
        "hunter22",
        'quo"te\\22',
        KEY,
    ],
)
def test_secret_values_never_appear(secret: str, as_json: bool) -> None:
    stream = io.StringIO()
    set_up_logging(2, as_json, stream, {"GEMINI_API_KEY": secret})
    logging.getLogger("x").warning("with %s", secret, extra={"action": "a", "header": {"key": secret}})
    text = stream.getvalue()
    assert secret not in text
    assert json.dumps(secret)[1:-1] not in text
    assert "***" in text


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("redis://:hunter22@host:6379/0", "hunter22"),
        ("rediss://me:hunter22@host", "hunter22"),
        ("https://bucket/x.png?X-Amz-Signature=abc123&x=1", "abc123"),
        ("https://host/x?sig=abc123", "abc123"),
        (f"url?key={KEY}", KEY),
        (f"bare {KEY}", KEY),
        ("Authorization: Bearer abcdef123456789", "abcdef123456789"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, secret: str) -> None:
    masked = Redactor({})(text)
    assert secret not in masked
    assert "***" in masked


def test_the_password_of_the_broker_is_known_by_itself() -> None:
    redact = Redactor({"INPAINT_EACPS_BROKER__URL": "redis://:hunter22@host"})
    assert redact("AUTH hunter22 failed") == "AUTH *** failed"


@pytest.mark.parametrize(
    "text", ["/data/out.png", "task 71651078 done", "redis://host:6379/0", "monkey=banana", "token bucket is empty"]
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert Redactor({"SOME_KEY": "abc", "GEMINI_API_KEY_FILE": "/data/out.png"})(text) == text
