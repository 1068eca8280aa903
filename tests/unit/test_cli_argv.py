"""The command line before anything reads it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint_eacps.argv import asks_for_more, normalise, take_secrets

KEY = "AIzaNotARealKey"


@pytest.mark.parametrize(
    ("given_words", "expected"),
    [
        (["--task_id", "7_a"], ["--task-id", "7_a"]),
        (["--task_id=7_a"], ["--task-id=7_a"]),
        (["--gemini_api_key"], ["--gemini-api-key"]),
        (["a_b", "-v", "x__y"], ["a_b", "-v", "x__y"]),
        (["--k_global", "--", "--k_global"], ["--k-global", "--", "--k_global"]),
    ],
)
def test_flags_may_be_written_with_underscores(given_words: list[str], expected: list[str]) -> None:
    assert list(normalise(given_words)) == expected


@given(st.lists(st.text(alphabet="-_=ab", max_size=8)))
def test_normalising_twice_is_normalising_once(words: list[str]) -> None:
    assert normalise(normalise(words)) == normalise(words)


@pytest.mark.parametrize(
    "words",
    [
        ["--gemini-api-key", KEY],
        ["--gemini_api_key", KEY],
        [f"--gemini-api-key={KEY}"],
        [f"--gemini_api_key={KEY}"],
    ],
)
def test_a_key_moves_into_the_environment(words: list[str]) -> None:
    cleaned = take_secrets(["python3", "run.py", "--task_id", "7", *words, "--force"])
    assert cleaned.argv == ("python3", "run.py", "--task_id", "7", "--force")
    assert cleaned.moved == {"GEMINI_API_KEY": KEY}
    (warning,) = cleaned.warnings
    assert "GEMINI_API_KEY_FILE" in warning
    assert KEY not in warning


def test_a_broker_url_moves_only_with_a_password() -> None:
    open_url = ["x", "--broker-url", "redis://host/0"]
    assert take_secrets(open_url).argv == tuple(open_url)
    closed = take_secrets(["x", "--broker_url=redis://:hunter22@host/0", "-v"])
    assert closed.argv == ("x", "-v")
    assert closed.moved == {"INPAINT_EACPS_BROKER__URL": "redis://:hunter22@host/0"}
    assert "hunter22" not in closed.warnings[0]


@pytest.mark.parametrize("words", [["--gemini-api-key"], ["--gemini-api-key="], ["--broker-url"]])
def test_a_flag_without_value_stays_for_the_parser_to_refuse(words: list[str]) -> None:
    assert take_secrets(words).argv == tuple(words)


@pytest.mark.parametrize(
    ("words", "more"),
    [(["run", "-v"], True), (["run", "-vv"], True), (["--verbose"], True), (["run", "-q", "--name", "Viv"], False)],
)
def test_tracebacks_are_for_those_who_ask_for_more(words: list[str], more: bool) -> None:
    assert asks_for_more(words) is more


def test_without_secrets_nothing_moves() -> None:
    words = ["python3", "-m", "inpaint_eacps", "run", "--task_id", "7"]
    cleaned = take_secrets(words)
    assert (cleaned.argv, cleaned.moved, cleaned.warnings) == (tuple(words), {}, ())
