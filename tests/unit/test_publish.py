"""Publishing a task: the right files with the right bytes, and a metrics.json that tells the truth."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from orchestrator.metrics_file import metrics_of, shown_source
from orchestrator.publish import (
    publish,
    publish_index,
    publish_run_metrics,
    published_outcome,
    read_metrics,
    republish_report,
)
from orchestrator.usage import RunMetrics, run_metrics, total
from shared.artifacts import ArtifactStore
from shared.errors import Retryable
from shared.images import read_png_text
from shared.messages import CandidatesCompared
from shared.outcome import TaskState
from shared.settings import Settings
from shared.types import ArtifactRef, CandidateState, Failure, Start, Usage
from tests.unit.publish_support import Scores, defaulted, failed, generated, history, only, scored, spec, unscored


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path))


def files(store: ArtifactStore) -> set[str]:
    """Files directly in the task's folder."""
    return {name.removeprefix("task_7/") for name in store.list("task_7") if name.count("/") == 1}


def metrics_json(store: ArtifactStore) -> dict[str, Any]:
    read = json.loads(store.read("task_7/metrics.json"))
    assert isinstance(read, dict)
    return read


def test_a_finished_task_has_all_its_files(store: ArtifactStore) -> None:
    outcome = publish(store, history(store))
    assert files(store) == {
        "init.png",
        "mask.png",
        "character.png",
        "result.png",
        "candidate_1_seed50312.png",
        "candidate_2_seed5031.png",
        "candidate_3_seed50311.png",
        "candidate_4_seed5000.png",
        "metrics.json",
        "report.html",
        "preview.webp",
    }
    result = store.read("task_7/result.png")
    assert result == store.read("task_7/candidate_1_seed50312.png") == store.read("task_7/candidates/l01.1.png")
    assert store.read("task_7/candidate_2_seed5031.png") == store.read("task_7/candidates/g01-2.png")
    assert read_png_text(result) == {"seed": "50312"}
    assert outcome.result is not None
    assert store.read(outcome.result) == result
    assert outcome.state is TaskState.DONE
    assert (outcome.best_id, outcome.best_potential, outcome.failed_candidates) == ("l01.1", 34.0, 1)


def test_readers_of_older_results_find_their_fields(store: ArtifactStore) -> None:
    publish(store, history(store))
    read = metrics_json(store)
    assert list(read)[:7] == [
        "task_id",
        "character_name",
        "best_seed",
        "best_phase",
        "best_potential",
        "best_scores",
        "total_candidates",
    ]
    assert {name: read[name] for name in list(read)[:7]} == {
        "task_id": "7",
        "character_name": "Mira",
        "best_seed": 50312,
        "best_phase": "local",
        "best_potential": 34.0,
        "best_scores": {"gemini_identity": 9.0, "gemini_quality": 8.0, "gemini_consistency": 8.0},
        "total_candidates": 6,
    }


def test_every_candidate_is_explained(store: ArtifactStore) -> None:
    publish(store, history(store))
    candidates = {one["id"]: one for one in metrics_json(store)["candidates"]}
    assert list(candidates) == ["g00", "g01", "g02", "g03", "l01.0", "l01.1"]
    assert candidates["g01"]["children"] == ["l01.0", "l01.1"]
    assert candidates["g01"]["attempts"] == 2
    assert candidates["l01.1"]["parent"] == "g01"
    assert candidates["l01.1"]["judgements"][0]["words"] == "well placed"
    assert candidates["l01.1"]["params"] == {"scale": 1.25, "flip": False}
    assert candidates["g02"]["missing"] == {"identity": "no face", "quality": "no face"}
    assert candidates["g02"]["potential"] is None
    assert candidates["g02"]["rank"] is None
    assert candidates["g03"]["failure"]["message"] == "out of memory"
    assert len(candidates["g03"]["earlier"]) == 3
    assert {one["id"]: one["rank"] for one in candidates.values() if one["rank"]} == {
        "l01.1": 1,
        "g01": 2,
        "l01.0": 3,
        "g00": 4,
    }


def test_costs_are_summed_and_cached_ones_are_not(store: ArtifactStore) -> None:
    base = history(store)
    again = scored(generated(store, spec("g04", 5124, (0, 4))), Scores(1, 1, 1), usage=Usage(calls=5), cached=True)
    metrics = metrics_of(replace(base, candidates=(*base.candidates, again)))
    assert metrics.usage.judgements == 6
    assert metrics.usage.cached == 1
    assert metrics.usage.calls == 4
    assert metrics.usage.input_tokens == 3600
    assert metrics.usage.cost_usd == pytest.approx(0.004)
    assert metrics.usage_by_judge["gemini"] == metrics.usage
    assert metrics.model_evaluations == 6 * 40
    assert metrics.device_seconds == pytest.approx(6 * 0.5)
    assert metrics.seconds == pytest.approx(9.0)


def test_publishing_twice_changes_no_byte(store: ArtifactStore) -> None:
    base = history(store)
    publish(store, base)
    first = {name: store.read(name) for name in store.list()}
    publish(store, replace(base, candidates=tuple(reversed(base.candidates))))
    assert {name: store.read(name) for name in store.list()} == first


def test_another_result_leaves_nothing_of_the_earlier_one(store: ArtifactStore) -> None:
    base = history(store)
    publish(store, base)
    publish(store, only(base, base.candidates[0]))
    assert files(store) & {"result.png"} == {"result.png"}
    assert sorted(name for name in files(store) if name.startswith("candidate_")) == ["candidate_1_seed5000.png"]
    publish(store, only(base, base.candidates[3]))
    assert files(store) == {"init.png", "mask.png", "character.png", "metrics.json", "report.html", "preview.webp"}
    assert store.exists("task_7/candidates/l01.1.png")


def test_without_a_score_there_is_no_result(store: ArtifactStore) -> None:
    base = history(store)
    missing = {"identity": "quota exhausted", "quality": "quota exhausted", "consistency": "quota exhausted"}
    outcome = publish(
        store,
        only(base, unscored(generated(store, spec("g00", 5000, (0, 0))), missing), failed(spec("g01", 5031, (0, 1)))),
    )
    assert outcome.state is TaskState.FAILED
    assert (outcome.best_id, outcome.best_potential, outcome.result) == (None, None, None)
    assert outcome.failure is not None
    assert outcome.failure.kind == "scoring"
    assert outcome.failure.message == (
        "None of 2 candidates could be scored: identity, quality, consistency: quota exhausted (1 of 2); "
        "out of memory (1 of 2)."
    )
    read = metrics_json(store)
    assert read["best_scores"] == {}
    assert read["best_seed"] is None
    assert read["state"] == "failed"
    assert "result.png" not in files(store)


def test_without_an_image_the_generator_is_to_blame(store: ArtifactStore) -> None:
    outcome = publish(store, only(history(store), failed(spec("g00", 5000, (0, 0)))))
    assert outcome.failure is not None
    assert outcome.failure.kind == "generation"


def test_a_preview_never_wins(store: ArtifactStore) -> None:
    base = history(store)
    early = spec("p00", 5000, (0, 0)).model_copy(update={"stop_at": 0.3})
    late = spec("g00", 5000, (1, 0), "p00").model_copy(update={"start": Start.RESUME, "strength": None})
    outcome = publish(
        store,
        only(
            base,
            scored(generated(store, early), Scores(9, 9, 9)),
            scored(generated(store, late), Scores(6, 6, 6)),
        ),
    )
    assert outcome.best_id == "g00"
    assert metrics_json(store)["candidates"][0]["preview"] is True


def test_a_task_that_could_not_start_says_why(store: ArtifactStore) -> None:
    failure = Failure(kind="input", message="task 7: mask.png is empty; draw the region to edit in white.")
    base = history(ArtifactStore(str(store.local_path("elsewhere"))))
    outcome = publish(store, replace(base, prepared=None, candidates=(), failure=failure))
    assert outcome.state is TaskState.FAILED
    assert outcome.failure == failure
    assert files(store) == {"metrics.json", "report.html"}
    assert metrics_json(store)["inputs"] is None
    assert b"draw the region to edit in white" in store.read("task_7/report.html")


def test_a_cancelled_task_has_no_result_but_its_candidates(store: ArtifactStore) -> None:
    base = history(store)
    outcome = publish(store, replace(base, failure=Failure(kind="cancelled", message="Cancelled by the user.")))
    assert outcome.state is TaskState.CANCELLED
    assert outcome.best_id is None
    assert "result.png" not in files(store)
    assert len(metrics_json(store)["candidates"]) == 6


def test_a_default_is_flagged_wherever_it_is_shown(store: ArtifactStore) -> None:
    outcome = publish(store, only(history(store), defaulted(generated(store, spec("g00", 5000, (0, 0))))))
    read = metrics_json(store)
    assert outcome.state is TaskState.DONE
    assert read["best_defaulted"] == ["identity"]
    assert read["best_scores"] == {"gemini_quality": 9.0, "gemini_consistency": 9.0, "default_identity": 5.0}
    assert any("default score" in note for note in outcome.notes)
    assert store.read("task_7/report.html").count(b"default score") >= 2


def test_a_default_never_beats_a_score(store: ArtifactStore) -> None:
    outcome = publish(
        store,
        only(
            history(store),
            defaulted(generated(store, spec("g00", 5000, (0, 0)))),
            scored(generated(store, spec("g01", 5031, (0, 1))), Scores(1, 1, 1)),
        ),
    )
    assert outcome.best_id == "g01"
    assert metrics_json(store)["ties"] == []


def both_orders(forth: Literal[-1, 0, 1], back: Literal[-1, 0, 1]) -> tuple[CandidatesCompared, ...]:
    """`l01.1` against `g01`, and the other way round."""
    pairs = (("l01.1", "g01", forth), ("g01", "l01.1", back))
    usage = Usage(calls=2, input_tokens=1000, output_tokens=50, cost_usd=0.002)
    return tuple(
        CandidatesCompared(
            run="run-1", task="7", first=first, second=second, judge="gemini", preference=preference, seconds=3.0,
            usage=usage,
        )
        for first, second, preference in pairs
    )  # fmt: skip


def test_what_the_finals_cost_is_counted(store: ArtifactStore) -> None:
    base = history(store)
    plain, compared = metrics_of(base).usage, metrics_of(replace(base, comparisons=both_orders(1, -1))).usage
    assert (compared.judgements, compared.comparisons) == (plain.judgements, 2)
    assert compared.calls == plain.calls + 4
    assert compared.input_tokens == plain.input_tokens + 2000
    assert compared.cost_usd == pytest.approx(plain.cost_usd + 0.004)
    assert compared.max_seconds == 3.0


def test_a_run_is_the_sum_of_its_tasks(store: ArtifactStore) -> None:
    first = publish(store, history(store))
    second = publish(store, only(history(store), defaulted(generated(store, spec("g00", 5000, (0, 0))))))
    unchanged = first.model_copy(update={"state": TaskState.UNCHANGED, "usage_by_judge": {}})
    found = run_metrics("run-1", [first, second, unchanged])
    assert found.tasks == {TaskState.DONE: 2, TaskState.UNCHANGED: 1}
    assert found.defaulted == ("7",)
    paid = [first.usage_by_judge["gemini"], second.usage_by_judge["gemini"]]
    assert found.usage == found.usage_by_judge["gemini"] == total(paid)
    assert found.usage.calls == sum(each.calls for each in paid) > 0
    assert found.usage.mean_seconds == pytest.approx(found.usage.seconds / found.usage.judgements)
    publish_run_metrics(store, found)
    assert RunMetrics.model_validate_json(store.read("runs/run-1/metrics.json")) == found


def test_ties_are_named(store: ArtifactStore) -> None:
    base = history(store)
    assert metrics_of(base).ties == ()
    settings = Settings.model_validate({"scoring": {"tie_margin": 4.0}})
    assert metrics_of(replace(base, settings=settings)).ties == (), "at the margin is not closer than it"
    settings = Settings.model_validate({"scoring": {"tie_margin": 4.5}})
    metrics = metrics_of(replace(base, settings=settings))
    assert metrics.ties == ("g01", "l01.0")
    assert any("g01, l01.0 came within 4.5" in note for note in metrics.notes)
    finals = replace(base, settings=settings, finals=("l01.1", "g01"))
    assert metrics_of(replace(finals, comparisons=both_orders(1, -1))).ties == ("l01.0",)
    assert metrics_of(replace(finals, comparisons=both_orders(1, 1))).ties == ("g01", "l01.0"), "the finals were a tie"
    exact = metrics_of(only(base, base.candidates[4], base.candidates[1]))
    assert (exact.best_id, exact.ties) == ("g01", ("l01.0",))


def test_finals_decide_among_the_best(store: ArtifactStore) -> None:
    compared = CandidatesCompared(
        run="run-1", task="7", first="l01.1", second="g01", judge="gemini", preference=-1, reason="sharper"
    )
    outcome = publish(store, replace(history(store), finals=("g01", "l01.1"), comparisons=(compared,)))
    assert outcome.best_id == "g01"
    assert store.read("task_7/result.png") == store.read("task_7/candidates/g01-2.png")
    read = metrics_json(store)
    assert [one["id"] for one in sorted(read["candidates"], key=lambda one: one["rank"] or 99)][:3] == [
        "g01",
        "l01.1",
        "l01.0",
    ]
    assert read["comparisons"][0]["reason"] == "sharper"
    assert read["best_potential"] == 30.0
    assert read["ties"] == ["l01.0"]


def test_no_secret_is_published(store: ArtifactStore) -> None:
    settings = Settings.model_validate({"broker": {"url": "redis://:broker-word@host/0"}})
    publish(store, replace(history(store), settings=settings))
    for name in ("task_7/metrics.json", "task_7/report.html"):
        data = store.read(name)
        for secret in (b"broker-word", b"sig=word", b"u:pw", b"pw@"):
            assert secret not in data
    assert metrics_json(store)["inputs"]["init"]["source"] == "https://host/init.png"


def test_sources_keep_what_is_no_secret() -> None:
    assert shown_source("/data/a b?.png") == "/data/a b?.png"
    assert shown_source("https://x.org:8443/a/b.png?X-Signature=s#f") == "https://x.org:8443/a/b.png"


@pytest.mark.parametrize(("top", "expected"), [(0, 0), (1, 1), (2, 2), (100, 4)])
def test_as_many_candidates_are_copied_as_asked_for(store: ArtifactStore, top: int, expected: int) -> None:
    settings = Settings.model_validate({"publish": {"top": top}})
    publish(store, replace(history(store), settings=settings))
    copies = [name for name in files(store) if re.fullmatch(r"candidate_\d+_seed\d+\.png", name)]
    assert len(copies) == expected
    assert "result.png" in files(store)


def test_the_report_can_be_left_out(store: ArtifactStore) -> None:
    publish(store, history(store))
    settings = Settings.model_validate({"publish": {"report": False}})
    publish(store, replace(history(store), settings=settings))
    assert not files(store) & {"report.html", "preview.webp"}
    assert republish_report(store, "7")
    assert "report.html" in files(store)
    assert not republish_report(store, "8")


def test_what_was_published_is_known_again(store: ArtifactStore) -> None:
    base = history(store)
    assert published_outcome(store, "7", "c0ffee") is None
    outcome = publish(store, base)
    again = published_outcome(store, "7", "c0ffee")
    assert again == outcome.model_copy(update={"state": TaskState.UNCHANGED, "usage_by_judge": {}})
    assert published_outcome(store, "7", "another") is None
    assert read_metrics(store, "7") == metrics_of(base)
    publish(store, only(base, base.candidates[3]))
    assert published_outcome(store, "7", "c0ffee") is None
    store.write("task_7/metrics.json", b'{"task_id": "7"}')
    assert published_outcome(store, "7", "c0ffee") is None


def test_a_publication_cut_short_does_not_look_finished(store: ArtifactStore) -> None:
    base = history(store)
    publish(store, base)
    path = store.local_path("task_7/candidates/g01-2.png")
    assert path is not None
    image = path.read_bytes()
    path.unlink()
    with pytest.raises(Retryable, match=r"g01-2\.png"):
        publish(store, base)
    assert published_outcome(store, "7", "c0ffee") is None
    path.write_bytes(image)
    publish(store, base)
    assert published_outcome(store, "7", "c0ffee") is not None


def test_a_report_does_without_a_picture_that_is_gone(store: ArtifactStore) -> None:
    base = history(store)
    store.delete("task_7/candidates/g02.png")
    store.delete("task_7/mask.png")
    assert publish(store, base).state is TaskState.DONE
    assert b"no face" in store.read("task_7/report.html")


def test_a_scored_candidate_without_an_image_is_not_passed_over(store: ArtifactStore) -> None:
    base = history(store)
    broken = base.candidates[5].model_copy(update={"generated": None, "state": CandidateState.SCORED})
    with pytest.raises(Retryable, match="has no image"):
        publish(store, only(base, broken))


def test_the_run_has_an_index(store: ArtifactStore) -> None:
    base = history(store)
    outcomes = [
        publish(store, base),
        publish(store, replace(only(base, base.candidates[3]), task=base.task.model_copy(update={"id": "9"}))),
    ]
    where = publish_index(store, "run-1", outcomes)
    page = store.read("index.html").decode()
    assert where.endswith("index.html")
    assert page.index("task_9/report.html") < page.index("task_7/report.html")
    assert 'src="task_7/preview.webp"' in page
    assert isinstance(outcomes[0].result, ArtifactRef)
