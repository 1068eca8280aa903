"""What a front door asks of a cluster besides running: estimates, tasks by id."""

from pathlib import Path

import pytest

from orchestrator.estimate import estimate
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
