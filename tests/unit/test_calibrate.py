"""Agreement of a judge with people and with itself: the numbers, and the choices read from an export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from inpaint_eacps.agreement import Choice, agreement, auc, confusion, reliability, repeatability, wilson
from inpaint_eacps.human_choices import read_choices
from shared.errors import InputError
from shared.settings import Settings

GOOD, WRONG, ERROR = Choice.NO_ISSUES, Choice.INCONSISTENT, Choice.ERROR
INPUT = Settings().input


def test_auc_counts_pairs_and_halves_ties() -> None:
    assert auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert auc(np.array([1.0]), np.array([2.0])) == 0


@hypothesis_settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_auc_is_the_statistic_of_mann_and_whitney(good: list[int], bad: list[int]) -> None:
    expected = mannwhitneyu(good, bad).statistic / (len(good) * len(bad))
    assert auc(np.array(good, float), np.array(bad, float)) == pytest.approx(expected)


def test_agreement_tells_kinds_of_issues_apart() -> None:
    values = [(GOOD, 8.0), (GOOD, 9.0), (GOOD, 7.0), (WRONG, 7.5), (WRONG, 8.5), (ERROR, 1.0)]
    found = agreement(values)
    assert (found.good, found.bad) == (3, 3)
    assert found.auc_against == {"Inconsistent Character": pytest.approx(0.5), "Error": 1.0}
    assert found.auc == pytest.approx((0.5 * 6 + 3) / 9)
    assert found.auc is not None
    assert found.auc_interval is not None
    assert found.auc_interval[0] <= found.auc <= found.auc_interval[1]
    assert found.mean_by_choice == {"No Issues": 8.0, "Inconsistent Character": 8.0, "Error": 1.0}
    assert agreement(values) == found


def test_without_both_kinds_there_is_no_auc() -> None:
    assert agreement([(GOOD, 1.0)]).auc is None
    assert agreement([]).auc_interval is None
    assert confusion([(GOOD, 1.0)]) is None


def test_confusion_uses_the_threshold_that_tells_best_apart() -> None:
    table = confusion([(GOOD, 8.0), (GOOD, 9.0), (WRONG, 8.5), (ERROR, 1.0), (ERROR, 2.0)])
    assert table is not None
    assert table.threshold == 8.0
    assert table.at_or_above == {"No Issues": 2, "Inconsistent Character": 1, "Error": 0}
    assert table.below == {"No Issues": 0, "Inconsistent Character": 0, "Error": 2}


def test_reliability_rises_for_a_judge_that_knows() -> None:
    values = [(GOOD if value >= 50 else ERROR, float(value)) for value in range(100)]
    bins = reliability(values)
    assert len(bins) == 10
    assert [one.count for one in bins] == [10] * 10
    assert [one.share for one in bins] == [0.0] * 5 + [1.0] * 5
    assert all(one.low <= one.share <= one.high for one in bins)
    assert sum(one.count for one in reliability(values[:7])) == 7
    assert reliability([]) == ()


def test_wilson_against_a_published_value() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-4)
    assert wilson(0, 5)[0] == 0
    assert wilson(5, 5)[1] == 1


def test_repeatability_is_the_pooled_deviation_within_results() -> None:
    found = repeatability([[1.0, 3.0], [5.0, 5.0], [7.0]])
    assert found is not None
    assert found.results == 2
    assert found.within == pytest.approx(1.0)
    assert found.smallest_difference == pytest.approx(1.96 * np.sqrt(2), abs=1e-3)
    assert repeatability([[1.0], []]) is None


def test_repeatability_finds_the_noise_that_was_put_in() -> None:
    random = np.random.default_rng(3)
    rounds = (random.uniform(0, 40, (400, 1)) + random.normal(0, 1.5, (400, 2))).tolist()
    found = repeatability(rounds)
    assert found is not None
    assert found.within == pytest.approx(1.5, rel=0.08)


def item(task: str, *choices: list[str], **data: Any) -> dict[str, Any]:
    fields = {
        "id": task,
        "character_name": "Mira",
        "image_url": "out.png",
        "init_image_url": "init.png",
        "mask_image_url": "mask.png",
        "character_image_url": "c.png",
    }
    annotations = [{"result": [{"type": "choices", "value": {"choices": each}}]} for each in choices]
    return {"id": 1, "data": fields | data, "annotations": annotations}


def read(tmp_path: Path, *items: Any) -> Any:
    file = tmp_path / "export.json"
    file.write_text(json.dumps(items))
    return read_choices(file, INPUT)


def test_choices_are_read_with_their_results(tmp_path: Path) -> None:
    found = read(tmp_path, item("1", ["No Issues"]), item("2", ["Inconsistent Character"]), item("3", ["Error"]))
    assert {one.task.id: one.choice for one in found.labelled} == {"1": GOOD, "2": WRONG, "3": ERROR}
    assert {one.result for one in found.labelled} == {str(tmp_path / "out.png")}


def test_the_majority_decides_and_a_draw_is_left_out(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        item("1", ["No Issues"], ["Error"], ["No Issues"]),
        item("2", ["No Issues"], ["Error"]),
        item("3", ["No Issues", "Error"]),
    )
    assert {one.task.id: one.choice for one in found.labelled} == {"1": GOOD, "3": ERROR}
    assert any("task 2" in problem and "disagree" in problem for problem in found.problems)


def test_cancelled_unjudged_and_odd_items_do_not_count(tmp_path: Path) -> None:
    cancelled = item("2", ["Error"])
    cancelled["annotations"][0]["was_cancelled"] = True
    odd: list[Any] = [{"result": [{"value": {"choices": "Error"}}]}, {"result": None}, "x", {"result": [3]}]
    strange = item("4")
    strange["annotations"] = odd
    found = read(
        tmp_path,
        item("1", ["No Issues"]),
        cancelled,
        item("3"),
        strange,
        item("5", ["Nice"]),
        item("6", ["Error"], image_url=""),
    )
    assert [one.task.id for one in found.labelled] == ["1"]


def test_an_export_without_choices_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Inconsistent Character"):
        read(tmp_path, item("1"))
