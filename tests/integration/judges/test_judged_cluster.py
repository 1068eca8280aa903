"""A whole cluster with a remote judge: failures as configured, finals, gates, cache, accounts, and no key anywhere."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.usage import run_metrics
from shared.images import decode, to_rgb
from shared.outcome import TaskOutcome, TaskState
from shared.settings import Settings
from shared.types import CRITERIA, Task
from tests import gemini_server as gs
from tests.fleet import GENERATOR, Fleet, make_tasks
from tests.gemini_server import GeminiServer, Reply, Seen
from tests.integration.test_flower import serving, until
from tests.judge_support import KEY, QUICK, OlderMeasures
from workers.scoring.panels import jpeg
from workers.scoring.registry import comparer_of, criteria_of

pytestmark = [pytest.mark.valkey, pytest.mark.slow]

#: Candidates of a task: four fresh ones, and two refinements of the best.
SEARCH = {"k_global": 4, "m_global": 1, "k_local": 2}
CANDIDATES = 6


class Court(Fleet):
    """A fleet of which the tests choose the judges, run by run."""

    def go(self, tasks: tuple[Task, ...], url: str = "", *, force: bool = False, **scoring: Any) -> "Trial":
        """Run tasks to their end."""
        judges = scoring.setdefault("judges", ["gemini"])
        plain = self.settings.model_dump(mode="json", exclude={"broker"})
        gemini = {"base_url": url or None, **QUICK, **scoring.pop("gemini", {})}
        changed = {"gates": False, "gemini": gemini, **scoring}
        settings = Settings.model_validate(
            {**plain, "search": SEARCH, "publish": {**plain["publish"], "report": True}, "scoring": changed}
        )
        run = self.client.submit(
            tasks,
            settings,
            generator=GENERATOR,
            judges={name: criteria_of(name, settings) for name in judges},
            comparer=comparer_of(judges, settings),
            force=force,
        ).run
        return Trial(self, run, tuple(self.outcomes(run)))


class Trial:
    """How a run went."""

    def __init__(self, court: Court, run: str, outcomes: tuple[TaskOutcome, ...]) -> None:
        self._court, self.run, self.outcomes = court, run, outcomes

    @property
    def outcome(self) -> TaskOutcome:
        (one,) = self.outcomes
        return one

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self._court.metrics(self.outcome.task_id)

    @property
    def winner(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = next(c for c in self.metrics["candidates"] if c["id"] == self.metrics["best_id"])
        return found

    def shown(self, candidate: Mapping[str, Any]) -> bytes:
        """A candidate's image as the judge was shown it."""
        return jpeg(to_rgb(decode(self._court.store.read(candidate["image"]["name"])).pixels), 1024)


@pytest.fixture(scope="module")
def court(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    folder = tmp_path_factory.mktemp("court")
    running = Court(folder, env={"GEMINI_API_KEY": KEY}, generate=0.02, dispatch={"events": True})
    with running:
        yield running


_numbers = itertools.count()


@pytest.fixture
def task(tmp_path: Path) -> tuple[Task, ...]:
    """One task that no test before had."""
    return make_tasks(tmp_path / "in", 1, first=next(_numbers))


def weight(image: bytes) -> int:
    """A number that is the same for the same image."""
    return hashlib.sha256(image).digest()[0]


def test_a_stopped_judge_falls_back_to_the_next_in_the_list(
    court: Court, server: GeminiServer, task: tuple[Task, ...]
) -> None:
    server.script([], then=gs.failure(403))
    trial = court.go(task, server.url, judges=["gemini", "local"])
    assert trial.outcome.state is TaskState.DONE
    assert set(trial.metrics["best_scores"]) == {f"local_{name}" for name in CRITERIA}
    assert not trial.winner["missing"]
    first = trial.winner["judgements"][0]
    assert first["judge"] == "gemini"
    assert all("HTTP 403" in reason for reason in first["missing"].values())
    # Those that were under way together when the first answer came; the refinements asked nobody.
    assert trial.metrics["usage"]["calls"] == len(server.seen) <= 4


def test_on_failure_missing_ends_the_task_with_the_reason_and_no_winner(
    court: Court, server: GeminiServer, task: tuple[Task, ...]
) -> None:
    server.script([], then=gs.failure(401))
    trial = court.go(task, server.url)
    assert trial.outcome.state is TaskState.FAILED
    assert trial.outcome.failure is not None
    assert "HTTP 401" in trial.outcome.failure.message
    assert trial.metrics["best_id"] is None
    assert {candidate["potential"] for candidate in trial.metrics["candidates"]} == {None}


def test_on_failure_fail_ends_the_run(court: Court, server: GeminiServer, tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 3, first=100)
    server.script([], then=gs.refusal())
    trial = court.go(tasks, server.url, on_failure="fail")
    assert [outcome.state for outcome in trial.outcomes] == [TaskState.FAILED] * 3
    failures = {outcome.failure.message for outcome in trial.outcomes if outcome.failure}
    assert len(failures) == 1
    assert "on_failure is fail" in failures.pop()
    # What was paid until then is not forgotten.
    assert run_metrics(trial.run, trial.outcomes).usage.calls >= 2
    court.check_queues()


def test_a_default_ranks_below_every_real_score(court: Court, server: GeminiServer, task: tuple[Task, ...]) -> None:
    def half(seen: Seen) -> Reply:
        return gs.refusal() if weight(seen.images[2]) % 2 else gs.verdict(0.1, 0.1, 0.1)

    server.answer = half
    trial = court.go(task, server.url, on_failure="default", default_score=9.0)
    candidates = trial.metrics["candidates"]
    flagged = [candidate for candidate in candidates if candidate["defaulted"]]
    assert 0 < len(flagged) < len(candidates) == CANDIDATES
    for candidate in candidates:
        assert bool(weight(trial.shown(candidate)) % 2) is bool(candidate["defaulted"])
        assert candidate["potential"] == pytest.approx(36.0 if candidate["defaulted"] else 0.4)
    assert not trial.winner["defaulted"]
    assert trial.outcome.best_potential == pytest.approx(0.4)
    assert max(c["rank"] for c in candidates if not c["defaulted"]) < min(c["rank"] for c in flagged)
    refined = {candidate["parent"] for candidate in candidates if candidate["parent"]}
    assert not refined & {candidate["id"] for candidate in flagged}, "nothing is refined on a default"


def test_a_winner_on_a_default_is_flagged_everywhere(
    court: Court, server: GeminiServer, task: tuple[Task, ...]
) -> None:
    server.script([], then=gs.refusal())
    trial = court.go(task, server.url, on_failure="default")
    assert trial.outcome.state is TaskState.DONE
    assert set(trial.outcome.best_defaulted) == set(trial.metrics["best_defaulted"]) == set(CRITERIA)
    assert set(trial.metrics["best_scores"]) == {f"default_{name}" for name in CRITERIA}
    assert any("default score" in note for note in trial.outcome.notes)
    assert run_metrics(trial.run, trial.outcomes).defaulted == (task[0].id,)
    assert b'badge default">' in court.store.read(f"task_{task[0].id}/report.html")


def test_a_gated_candidate_costs_no_call_and_says_why(
    court: Court, server: GeminiServer, task: tuple[Task, ...]
) -> None:
    trial = court.go(task, server.url, gates=True, gate={"contrast": 255.0})
    assert server.seen == []
    assert trial.outcome.state is TaskState.FAILED
    for candidate in trial.metrics["candidates"]:
        assert all("flat inside the mask" in reason for reason in candidate["missing"].values())
    assert trial.metrics["usage"]["calls"] == 0


def test_finals_decide_among_the_best_and_are_paid_for_honestly(
    court: Court, server: GeminiServer, task: tuple[Task, ...]
) -> None:
    """The judge gives everybody the same score; compared, it prefers the image of the larger weight."""

    def answer(seen: Seen) -> Reply:
        if len(seen.images) == 4:
            return gs.verdict(5, 5, 5)
        first, second = weight(seen.images[2]), weight(seen.images[4])
        return gs.choice("A" if first > second else "B" if second > first else "tie")

    server.answer = answer
    trial = court.go(task, server.url, finals="pairwise", finals_top=4, tie_margin=1.0)
    compared = [seen for seen in server.seen if len(seen.images) == 6]
    assert len(compared) == 4 * 3
    assert len(trial.metrics["comparisons"]) == 12
    finalists = [c for c in trial.metrics["candidates"] if c["id"] in trial.metrics["finals"]]
    assert len(finalists) == 4
    by_weight = sorted(finalists, key=lambda candidate: weight(trial.shown(candidate)))
    assert trial.metrics["best_id"] == by_weight[-1]["id"]
    assert {candidate["potential"] for candidate in finalists} == {20.0}, "the pointwise potential stays"
    assert not set(trial.metrics["ties"]) & set(trial.metrics["finals"]), "the finals have told them apart"
    usage = trial.metrics["usage"]
    assert (usage["calls"], usage["comparisons"]) == (len(server.seen), 12)
    assert usage["input_tokens"] == gs.INPUT_TOKENS * len(server.seen)
    assert run_metrics(trial.run, trial.outcomes).usage.calls == len(server.seen)


def test_a_judge_that_prefers_the_place_has_said_nothing(
    court: Court, server: GeminiServer, task: tuple[Task, ...]
) -> None:
    server.answer = lambda seen: gs.verdict(5, 5, 5) if len(seen.images) == 4 else gs.choice("A")
    trial = court.go(task, server.url, finals="pairwise", finals_top=2)
    assert len(trial.metrics["comparisons"]) == 2
    assert trial.metrics["best_id"] == trial.metrics["finals"][0] == "g00", "of equals the first"
    assert trial.metrics["finals"][1] in trial.metrics["ties"]


def test_the_same_images_cost_nothing_again_not_even_for_another_redis(
    court: Court, server: GeminiServer, task: tuple[Task, ...]
) -> None:
    first = court.go(task, server.url)
    paid = len(server.seen)
    assert first.metrics["usage"]["calls"] == paid == CANDIDATES
    scores = first.metrics["best_scores"]
    for key in court.client.ledger.redis.keys("inpaint-eacps:*"):
        court.client.ledger.redis.delete(key)
    again = court.go(task, server.url, force=True)
    assert again.outcome.state is TaskState.DONE
    assert len(server.seen) == paid
    usage = again.metrics["usage"]
    assert (usage["calls"], usage["cost_usd"], usage["cached"]) == (0, 0.0, CANDIDATES)
    assert (
        again.metrics["best_scores"] == scores == {"gemini_identity": 7, "gemini_quality": 6, "gemini_consistency": 5}
    )


def test_the_older_objective_is_a_configuration(court: Court, task: tuple[Task, ...]) -> None:
    trial = court.go(task, judges=[OlderMeasures.name], potential={"clip_text": 1.0, "clip_image": 10.0, "lpips": -3.0})
    assert trial.outcome.state is TaskState.DONE
    potentials = {}
    for candidate in trial.metrics["candidates"]:
        said = candidate["judgements"][0]["measures"]
        potentials[candidate["id"]] = said["clip_text"] + 10 * said["clip_image"] - 3 * said["lpips"]
        assert candidate["potential"] == pytest.approx(potentials[candidate["id"]], abs=1e-5)
    assert trial.metrics["best_id"] == max(potentials, key=lambda name: potentials[name])
    assert set(trial.metrics["best_scores"]) == {
        f"{OlderMeasures.name}_{name}" for name in ("clip_text", "clip_image", "lpips")
    }


def test_the_key_is_nowhere_to_be_seen(
    court: Court, server: GeminiServer, task: tuple[Task, ...], tmp_path: Path
) -> None:
    """Logs, messages, results, process lists and every page of Flower, while a judge echoes the key in its errors."""
    server.script([gs.failure(500, f"broken: {KEY}"), gs.throttled(0.1)] * 2, then=gs.verdict())
    with serving(court.cluster.url, tmp_path) as (flower, _):
        until(lambda: bool(flower.get("/api/workers", params={"refresh": "1"}).json()), tmp_path / "flower.log")
        trial = court.go(task, server.url)
        server.script([], then=gs.failure(403, f"the key {KEY} may not"))
        court.go(make_tasks(tmp_path / "in", 1, first=500), server.url)
        until(lambda: "workers.score" in flower.get("/api/tasks").text, tmp_path / "flower.log")
        found = flower.get("/api/tasks").json()
        pages = ["/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks", "/metrics"]
        pages += [f"/task/{name}" for name, about in found.items() if about["name"] == "workers.score"]
        shown = {page: flower.get(page).raise_for_status().text for page in pages}
        lists = {str(p.pid): " ".join(p.cmdline()) for name in court.pids for p in court.group(name)}
        ours = psutil.Process()
        lists |= {str(p.pid): " ".join(p.cmdline()) for p in ours.children(recursive=True)}
    assert len(pages) > 10
    assert trial.outcome.state is TaskState.DONE
    assert {seen.key for seen in server.seen} == {KEY}, "the judge did get it"
    redis = court.client.ledger.redis
    shown |= {str(key): repr(redis.dump(key)) + str(key) for key in redis.keys("*")}
    shown |= lists
    for folder in (court.folder, tmp_path):
        files = [file for file in folder.rglob("*") if file.is_file()]
        shown |= {str(file): file.read_bytes().decode("utf-8", "replace") for file in files}
    assert json.loads(shown[str(court.folder / "out" / f"task_{task[0].id}" / "metrics.json")])
    assert [name for name, text in shown.items() if KEY in text] == []
