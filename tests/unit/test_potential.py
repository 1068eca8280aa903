"""Judges to call, and judgements combined."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.potential import GATE, combine, gate_reason, next_judges
from shared.settings.scoring import ScoringSettings
from shared.types import CRITERIA, Judgement

ALL = frozenset(CRITERIA)
AVAILABLE = {"arcface": frozenset({"identity"}), "gemini": ALL, "local": ALL}


def scoring(**fields: Any) -> ScoringSettings:
    return ScoringSettings.model_validate({"judges": ["arcface", "gemini", "local"], **fields})


def says(judge: str, scores: Mapping[str, float] | None = None, **missing: str) -> Judgement:
    return Judgement(judge=judge, scores=scores or {}, missing=missing)


GEMINI = says("gemini", {"identity": 4.0, "quality": 6.0, "consistency": 8.0})
GATED = Judgement(judge=GATE, missing=dict.fromkeys(CRITERIA, "nothing was inserted"))
PASSED = Judgement(judge=GATE, measures={"seam": 3.0})


def test_the_default_potential_weighs_identity_twice() -> None:
    combined = combine([GEMINI], ScoringSettings(), {"gemini": ALL})
    assert combined.potential == 8.0 + 6.0 + 2 * 4.0
    assert combined.scores == {"identity": 4.0, "quality": 6.0, "consistency": 8.0}
    assert (combined.missing, combined.defaulted) == ({}, ())


def test_only_the_preferred_judges_are_called_first() -> None:
    assert next_judges([], scoring(judges=["gemini", "local"]), AVAILABLE) == ("gemini",)
    assert set(next_judges([], scoring(), AVAILABLE)) == {"arcface", "gemini"}


def test_a_missing_criterion_falls_to_the_next_judge_and_only_that_criterion() -> None:
    settings = scoring(judges=["gemini", "local"])
    partial = says("gemini", {"quality": 6.0, "consistency": 8.0}, identity="no face")
    assert next_judges([partial], settings, AVAILABLE) == ("local",)
    local = says("local", {"identity": 1.0, "quality": 1.0, "consistency": 1.0})
    assert next_judges([partial, local], settings, AVAILABLE) == ()
    assert combine([partial, local], settings, AVAILABLE).scores == {
        "identity": 1.0,
        "quality": 6.0,
        "consistency": 8.0,
    }


def test_a_complete_answer_calls_nobody_else() -> None:
    assert next_judges([GEMINI], scoring(judges=["gemini", "local"]), AVAILABLE) == ()


def test_no_face_hands_identity_to_gemini() -> None:
    settings = scoring(judges=["gemini"], criteria={"identity": ["arcface", "gemini"]})
    assert set(next_judges([], settings, AVAILABLE)) == {"arcface", "gemini"}
    faceless = says("arcface", identity="no face was found")
    assert combine([GEMINI, faceless], settings, AVAILABLE).scores["identity"] == 4.0
    face = says("arcface", {"identity": 9.0})
    assert combine([GEMINI, face], settings, AVAILABLE).potential == 8.0 + 6.0 + 2 * 9.0


def test_without_a_judge_left_the_criterion_is_missing_with_every_reason() -> None:
    settings = scoring(judges=["arcface", "gemini"])
    history = [says("arcface", identity="no face"), says("gemini", {"quality": 6.0}, identity="refused")]
    combined = combine(history, settings, AVAILABLE)
    assert combined.potential is None
    assert combined.missing == {
        "identity": "arcface: no face; gemini: refused",
        "consistency": "gemini: gave no consistency",
    }
    assert next_judges(history, settings, AVAILABLE) == ()


def test_a_criterion_nobody_judges_is_missing() -> None:
    combined = combine([], scoring(potential={"charm": 1.0}), AVAILABLE)
    assert (combined.potential, combined.missing) == (None, {"charm": "no judge of this run judges charm"})


def test_a_gated_candidate_costs_no_call_and_says_why() -> None:
    for on_failure in ("missing", "fail", "default"):
        settings = scoring(on_failure=on_failure)
        assert next_judges([GATED], settings, AVAILABLE) == ()
        combined = combine([GATED, GEMINI], settings, AVAILABLE)
        assert combined.potential is None
        assert combined.missing == dict.fromkeys(CRITERIA, "nothing was inserted")
        assert (combined.scores, combined.defaulted) == ({}, ())
    assert gate_reason([GATED]) == "nothing was inserted"


def test_a_passed_gate_changes_nothing() -> None:
    settings = scoring()
    assert gate_reason([PASSED, GEMINI]) is None
    assert next_judges([PASSED], settings, AVAILABLE) == next_judges([], settings, AVAILABLE)
    assert combine([PASSED, GEMINI], scoring(judges=["gemini"]), AVAILABLE) == combine(
        [GEMINI], scoring(judges=["gemini"]), AVAILABLE
    )


def test_a_default_is_flagged_and_given_only_once_nobody_is_left_to_ask() -> None:
    settings = scoring(judges=["gemini", "local"], on_failure="default", default_score=4.0)
    first = says("gemini", {"quality": 6.0, "consistency": 8.0}, identity="refused")
    waiting = combine([first], settings, AVAILABLE)
    assert (waiting.potential, waiting.defaulted) == (None, ())
    assert waiting.missing == {"identity": "gemini: refused; local: not answered yet"}
    combined = combine([first, says("local", identity="broken")], settings, AVAILABLE)
    assert combined.potential == 6.0 + 8.0 + 2 * 4.0
    assert (combined.defaulted, combined.missing) == (("identity",), {})


def test_raw_measures_have_no_default() -> None:
    settings = scoring(judges=["lpips"], potential={"lpips": -3.0}, on_failure="default")
    combined = combine([says("lpips", lpips="out of memory")], settings, {"lpips": frozenset({"lpips"})})
    assert (combined.potential, combined.defaulted) == (None, ())
    assert combined.missing == {"lpips": "lpips: out of memory"}


def test_the_older_objective_is_a_configuration() -> None:
    settings = scoring(judges=["clip", "lpips"], potential={"clip_text": 1, "clip_image": 10, "lpips": -3})
    available = {"clip": frozenset({"clip_text", "clip_image"}), "lpips": frozenset({"lpips"})}
    assert next_judges([], settings, available) == ("clip", "lpips")
    history = [
        Judgement(judge="clip", measures={"clip_text": 0.25, "clip_image": 0.75}),
        Judgement(judge="lpips", measures={"lpips": 0.5}),
    ]
    assert combine(history, settings, available).potential == 0.25 + 7.5 - 1.5


def test_a_score_goes_before_a_measure_of_the_same_name() -> None:
    both = Judgement(judge="gemini", scores={"quality": 7.0}, measures={"quality": 0.1})
    assert combine([both], scoring(potential={"quality": 1.0}, judges=["gemini"]), AVAILABLE).potential == 7.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_measure_that_is_no_number_is_missing(value: float) -> None:
    settings = scoring(judges=["lpips"], potential={"lpips": -3.0})
    combined = combine([Judgement(judge="lpips", measures={"lpips": value})], settings, {"lpips": frozenset({"lpips"})})
    assert combined.potential is None
    assert f"gave {value}" in combined.missing["lpips"]


def test_weight_zero_asks_nobody_and_misses_nothing_but_keeps_what_was_said() -> None:
    settings = scoring(judges=["arcface", "gemini"], potential={"identity": 0.0, "quality": 1.0})
    assert next_judges([], settings, AVAILABLE) == ("gemini",)
    combined = combine([says("gemini", {"quality": 3.0, "consistency": 2.0})], settings, AVAILABLE)
    assert (combined.potential, combined.missing) == (3.0, {})
    assert combined.scores == {"quality": 3.0, "consistency": 2.0}


def test_weighted_judges_are_called_at_once_and_must_all_answer() -> None:
    rule = {"judges": ["gemini", "local"], "combine": "weighted", "weights": {"gemini": 3}}
    settings = scoring(criteria={"quality": rule}, potential={"quality": 1.0})
    assert next_judges([], settings, AVAILABLE) == ("gemini", "local")
    assert next_judges([says("local", {"quality": 2.0})], settings, AVAILABLE) == ("gemini",)
    local = says("local", {"quality": 2.0})
    assert combine([local, GEMINI], settings, AVAILABLE).potential == (3 * 6.0 + 2.0) / 4
    refused = combine([local, says("gemini", quality="refused")], settings, AVAILABLE)
    assert (refused.potential, refused.missing) == (None, {"quality": "gemini: refused"})
    alone = {"local": ALL}
    assert next_judges([local], settings, alone) == ()
    assert combine([local], settings, alone).missing == {"quality": "gemini: not a judge of this run"}


def test_auto_stands_for_the_judges_of_the_run_in_their_order() -> None:
    settings = ScoringSettings()
    assert next_judges([], settings, {"gemini": ALL, "local": ALL}) == ("gemini",)
    assert next_judges([], settings, {"local": ALL, "gemini": ALL}) == ("local",)


def test_a_judge_that_has_gone_away_is_not_called_and_what_it_said_still_counts() -> None:
    settings = scoring(judges=["gemini", "local"])
    assert next_judges([], settings, {"local": ALL}) == ("local",)
    assert next_judges([GEMINI], settings, {"local": ALL}) == ()
    assert combine([GEMINI], settings, {"local": ALL}).potential == 22.0


def test_geometric_is_the_weighted_geometric_mean() -> None:
    settings = scoring(judges=["gemini"], combine="geometric")
    combined = combine([GEMINI], settings, AVAILABLE)
    assert combined.potential == pytest.approx((8.0 * 6.0 * 4.0**2) ** 0.25)
    zero = says("gemini", {"identity": 0.0, "quality": 10.0, "consistency": 10.0})
    assert combine([zero], settings, AVAILABLE).potential == 0.0


def test_geometric_has_no_place_for_a_negative_measure() -> None:
    settings = scoring(judges=["clip"], combine="geometric", potential={"clip_text": 1.0})
    combined = combine(
        [Judgement(judge="clip", measures={"clip_text": -0.1})], settings, {"clip": frozenset({"clip_text"})}
    )
    assert combined.potential is None
    assert "geometric mean needs 0 or more" in combined.missing["clip_text"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"combine": "geometric", "potential": {"quality": 1, "lpips": -3}}, "lpips is negative"),
        ({"potential": {"quality": 0}}, "at least one weight"),
        ({"potential": {}}, "at least one weight"),
        ({"potential": {"quality": math.nan}}, "finite"),
        ({"potential": {"Quality!": 1}}, "pattern"),
        ({"criteria": {"quality": []}}, "at least 1"),
        ({"criteria": {"quality": {"judges": ["local"], "weights": {"local": 1}}}}, "combine: weighted"),
        (
            {"criteria": {"quality": {"judges": ["local"], "combine": "weighted", "weights": {"gemini": 1}}}},
            "weights name gemini",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        scoring(**fields)


def test_criteria_are_lists_texts_or_sections_and_survive_json() -> None:
    settings = scoring(criteria={"identity": ["moondream", "gemini"], "quality": "gemini, local"})
    assert settings.criteria["quality"].judges == ("gemini", "local")
    assert settings.named_judges == ("arcface", "gemini", "local", "moondream")
    assert ScoringSettings.model_validate_json(settings.model_dump_json()) == settings


names = st.sampled_from(["arcface", "gemini", "local"])
rules = st.builds(
    lambda judges, combine: {"judges": judges, "combine": combine},
    st.lists(names, min_size=1, max_size=3, unique=True),
    st.sampled_from(["first", "weighted"]),
)
settings_strategy = st.builds(
    scoring,
    judges=st.lists(names | st.just("auto"), min_size=1, max_size=3, unique=True),
    criteria=st.dictionaries(st.sampled_from(CRITERIA), rules, max_size=3),
    potential=st.just({"identity": 2.0, "quality": 1.0, "consistency": 0.0}),
    on_failure=st.sampled_from(["missing", "default"]),
    combine=st.sampled_from(["arithmetic", "geometric"]),
)
answers_strategy = st.fixed_dictionaries(
    {
        judge: st.fixed_dictionaries({name: st.none() | st.floats(0, 10) for name in sorted(able)})
        for judge, able in AVAILABLE.items()
    }
)


@given(settings_strategy, answers_strategy, st.sets(names), st.integers(0, 1000))
def test_asking_ends_with_a_potential_or_with_reasons(
    settings: ScoringSettings, answers: Mapping[str, Mapping[str, float | None]], present: set[str], shuffle: int
) -> None:
    available = {judge: able for judge, able in AVAILABLE.items() if judge in present}
    history: list[Judgement] = []
    while asked := next_judges(history, settings, available):
        assert set(asked) <= present - {judgement.judge for judgement in history}
        assert len(set(asked)) == len(asked)
        assert combine(history, settings, available).missing
        history.append(answer(asked[shuffle % len(asked)], answers))
    combined = combine(history, settings, available)
    check(combined.potential, combined.scores, combined.missing, combined.defaulted)
    shuffled = random.Random(shuffle).sample(history, len(history))
    assert combine(shuffled, settings, available) == combined
    if settings.on_failure == "default":
        assert combined.potential is not None
    given_values = {value for by_name in answers.values() for value in by_name.values()}
    if all(rule.combine == "first" for rule in settings.criteria.values()):
        assert all(v in given_values for name, v in combined.scores.items() if name not in combined.defaulted)


def answer(judge: str, answers: Mapping[str, Mapping[str, float | None]]) -> Judgement:
    return Judgement(
        judge=judge,
        scores={name: value for name, value in answers[judge].items() if value is not None},
        missing={name: "no idea" for name, value in answers[judge].items() if value is None},
    )


def check(
    potential: float | None, scores: Mapping[str, float], missing: Mapping[str, str], defaulted: Sequence[str]
) -> None:
    assert (potential is None) == bool(missing)
    assert not scores.keys() & missing.keys()
    assert set(defaulted) <= scores.keys()
    assert {"identity", "quality"} <= scores.keys() | missing.keys()
    assert all(missing.values())
    assert potential is None or math.isfinite(potential)
