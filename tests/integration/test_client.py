"""What a front door asks of a cluster besides running: estimates, tasks by id."""

from pathlib import Path

import pytest

from orchestrator.estimate import estimate
from shared.ledger import Keys
from tests.fleet import GENERATOR, SCORER, Fleet, make_tasks

pytestmark = pytest.mark.valkey


def test_an_estimate_comes_from_what_the_cluster_measured(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    with Fleet(tmp_path, generate=0.2) as fleet:
        before = estimate(fleet.client.ledger, 5, fleet.settings, GENERATOR, {SCORER: ()}, 2)
        assert (before.candidates, before.judge_calls, before.device_seconds) == (40, {SCORER: 40}, None)
        fleet.outcomes(fleet.submit(tasks).run)
        after = estimate(fleet.client.ledger, 5, fleet.settings, GENERATOR, {SCORER: ()}, 2)
    assert after.candidate_seconds is not None
    assert 0.2 <= after.candidate_seconds < 1
    assert after.device_seconds == pytest.approx(40 * after.candidate_seconds)


def test_a_task_is_found_in_the_run_that_works_on_it_and_in_no_other(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    with Fleet(tmp_path, generate=0.1) as fleet:
        done = fleet.submit(tasks[:1])
        fleet.outcomes(done.run)
        assert fleet.client.runs_of(tasks[0].id) == ()
        fleet.submit(tasks[1:])
        (run,) = fleet.client.runs_of(tasks[1].id)
        assert fleet.client.cancel(run, tasks[1].id) == 1
        assert fleet.client.runs_of(tasks[1].id) == ()


def test_a_submission_that_dies_half_way_does_not_keep_its_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    with Fleet(tmp_path, devices=1, generate=1.0) as fleet:
        owner = Keys.owner(fleet.store.where(), tasks[0].id)

        def dies(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
            broken.setattr(fleet.client, "_enter", dies)
            fleet.submit(tasks[:1])
        assert 0 < fleet.client.ledger.redis.ttl(owner) <= 900
        again = fleet.submit(tasks)
        assert again.accepted == (tasks[1].id,)
        assert "just being submitted" in again.refused[tasks[0].id]
        fleet.client.ledger.redis.expire(owner, 0)
        once_more = fleet.submit(tasks[:1])
        assert once_more.accepted == (tasks[0].id,)
        assert fleet.client.ledger.redis.ttl(owner) == -1
        for run in (again, once_more):
            fleet.client.cancel(run.run)
