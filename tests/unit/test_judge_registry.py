"""Judges by name, their settings, and where keys come from."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from inpaint_eacps.choice import choose_here
from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.types import CRITERIA, Judgement
from tests.judge_support import KEY, context
from workers.scoring.base import ScoreRequest
from workers.scoring.context import ScoringContext
from workers.scoring.keys import api_key, has_api_key
from workers.scoring.registry import (
    can_compare,
    comparer_of,
    criteria_of,
    judge_names,
    make_comparer,
    make_scorer,
    resolve_auto,
)


class OwnJudge:
    """A judge of somebody's own."""

    name = "own"
    criteria = frozenset({"quality"})

    def __init__(self, settings: Settings, context: ScoringContext) -> None:
        self.context = context

    def cache_key(self) -> str:
        return "own-1"

    def load(self) -> None:
        return None

    def score(self, request: ScoreRequest) -> Judgement:
        return Judgement(judge=self.name, scores={"quality": 4.0})


OWN = f"{__name__}:OwnJudge"


def judged_by(*judges: str) -> Settings:
    return Settings.model_validate({"scoring": {"judges": judges}})


@pytest.mark.parametrize("variable", ["GEMINI_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY_FILE"])
def test_auto_is_gemini_where_a_key_is_set(variable: str) -> None:
    assert resolve_auto(Settings(), {variable: "x"}) == ("gemini",)
    assert resolve_auto(Settings(), {variable: " "}) == ("local",)
    assert resolve_auto(Settings(), {}) == ("local",)


def test_auto_keeps_the_order_and_names_each_judge_once() -> None:
    assert resolve_auto(judged_by("arcface", "auto", "local"), {}) == ("arcface", "local")
    settings = Settings.model_validate({"scoring": {"criteria": {"identity": ["arcface", "auto"]}}})
    assert resolve_auto(settings, {"GEMINI_API_KEY": "x"}) == ("gemini", "arcface")


@pytest.mark.parametrize("name", ["gpt", "Gemini", "os", "a:b:c", "../x:Y"])
def test_an_unknown_judge_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"scoring\.judges"):
        resolve_auto(judged_by(name), {})


def test_a_judge_of_ones_own_is_made_by_its_dotted_name() -> None:
    assert resolve_auto(judged_by(OWN), {}) == (OWN,)
    assert criteria_of(OWN, Settings()) == {"quality"}
    made = make_scorer(OWN, Settings(), context())
    assert type(made).__name__ == "OwnJudge"
    with pytest.raises(ConfigurationError, match="cannot be imported"):
        criteria_of("no_such_package.judge:Judge", Settings())
    with pytest.raises(ConfigurationError, match="has no"):
        criteria_of(f"{__name__}:Nobody", Settings())
    with pytest.raises(ConfigurationError, match="cannot compare"):
        make_comparer(OWN, Settings(), context())


@pytest.mark.parametrize("name", judge_names())
def test_the_registry_tells_the_truth_about_criteria(name: str) -> None:
    made = make_scorer(name, Settings(), context())
    assert made.name == name
    assert made.criteria == criteria_of(name, Settings())
    assert made.cache_key() == make_scorer(name, Settings(), context()).cache_key()


@pytest.mark.parametrize("name", judge_names())
def test_the_registry_tells_the_truth_about_who_can_compare(name: str) -> None:
    assert can_compare(name) is hasattr(make_scorer(name, Settings(), context()), "compare")


def test_finals_without_a_judge_that_can_compare_are_refused_at_once() -> None:
    finals = Settings.model_validate({"scoring": {"finals": "pairwise"}})
    assert comparer_of(("local", "gemini"), finals) == "gemini"
    assert comparer_of(("local",), Settings()) is None
    with pytest.raises(ConfigurationError, match=r"scoring\.finals: pairwise .* none of local, \S+OwnJudge can"):
        comparer_of(("local", OWN), finals)


def test_the_front_door_chooses_the_judge_of_the_finals() -> None:
    scoring = {"judges": ["local", "gemini"], "finals": "pairwise"}
    settings = Settings.model_validate({"generation": {"generator": "composite"}, "scoring": scoring})
    assert choose_here(settings, {}).comparer == "gemini"
    alone = Settings.model_validate({**settings.model_dump(), "scoring": {**scoring, "judges": ["local"]}})
    with pytest.raises(ConfigurationError, match=r"scoring\.finals"):
        choose_here(alone, {})


def test_names_and_construction_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from shared.settings import Settings\n"
        "from workers.scoring.context import ScoringContext\n"
        "from workers.scoring.registry import criteria_of, judge_names, make_scorer, resolve_auto\n"
        "resolve_auto(Settings(), {})\n"
        "for name in judge_names():\n"
        "    criteria_of(name, Settings())\n"
        "    make_scorer(name, Settings(), ScoringContext('r'))\n"
        "heavy = {'torch', 'transformers', 'google.genai', 'google.generativeai', 'onnxruntime', 'insightface'}\n"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("model", "successor"),
    [
        ("gemini-1.5-flash", "gemini-3.8-flash"),
        ("gemini-1.5-flash-8b", "gemini-3.5-flash-lite"),
        ("gemini-1.5-pro-002", "gemini-3.1-pro-preview"),
        ("models/gemini-1.5-pro", "gemini-3.1-pro-preview"),
        ("gemini-2.0-flash", "gemini-3.8-flash"),
        ("gemini-2.0-flash-001", "gemini-3.8-flash"),
        ("gemini-2.0-flash-lite", "gemini-3.5-flash-lite"),
        ("gemini-pro", "gemini-3.1-pro-preview"),
    ],
)
def test_a_retired_model_is_refused_with_its_successor(model: str, successor: str) -> None:
    with pytest.raises(ValidationError, match=f"use its successor {successor}"):
        Settings.model_validate({"scoring": {"gemini": {"model": model}}})


@pytest.mark.parametrize(
    "model", ["gemini-3.8-flash", "gemini-2.5-flash-lite", "gemini-4-argon", "models/gemini-3.6-flash"]
)
def test_living_models_are_taken(model: str) -> None:
    settings = Settings.model_validate({"scoring": {"gemini": {"model": model}}})
    assert settings.scoring.gemini.model == model.removeprefix("models/")


@pytest.mark.parametrize("model", ["", "../secret", "gemini 3", "gemini-3.8-flash?key=1"])
def test_a_model_name_cannot_change_the_address(model: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"scoring": {"gemini": {"model": model}}})


def test_a_key_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    plain = Settings().scoring.gemini
    named = Settings.model_validate({"scoring": {"gemini": {"api_key_file": str(file)}}}).scoring.gemini
    assert api_key(named, {"GEMINI_API_KEY": "other"}).get_secret_value() == KEY
    assert api_key(plain, {"GEMINI_API_KEY_FILE": str(file)}).get_secret_value() == KEY
    assert api_key(plain, {"GOOGLE_API_KEY": "google", "GEMINI_API_KEY": "gemini"}).get_secret_value() == "gemini"
    assert api_key(plain, {"GOOGLE_API_KEY": "google"}).get_secret_value() == "google"
    assert KEY not in repr(api_key(named, {}))
    assert has_api_key(named, {})


@pytest.mark.parametrize(
    ("content", "words"), [("", "must hold one"), ("two keys", "must hold one"), (None, "cannot be read")]
)
def test_a_bad_key_file_is_named_without_its_content(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        api_key(Settings().scoring.gemini, {"GEMINI_API_KEY_FILE": str(file)})
    assert str(file) in str(caught.value)
    assert "two keys" not in str(caught.value)


def test_no_key_says_where_to_put_one() -> None:
    with pytest.raises(ConfigurationError, match="GEMINI_API_KEY"):
        api_key(Settings().scoring.gemini, {})


def test_gemini_judges_all_criteria() -> None:
    assert criteria_of("gemini", Settings()) == set(CRITERIA)
