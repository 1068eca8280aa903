"""A whole search through the real queue, drawn by the real Qwen generator on a tiny checkpoint, on two CPU devices."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

from inpaint_eacps.child import ChildPlan
from inpaint_eacps.embedded import EmbeddedCluster
from orchestrator.client import Submitted
from shared.outcome import TaskState
from shared.queues import device_name
from shared.types import CRITERIA, Task
from tests.fleet import SCORER, Fleet, make_tasks
from tests.tiny_qwen import save_checkpoint

pytestmark = [pytest.mark.valkey, pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(600)]
GENERATOR = "tests.tiny_qwen:TinyQwen"
STEPS = 10


class QwenFleet(Fleet):
    """The embedded cluster with two devices that draw with a tiny checkpoint."""

    def __init__(self, folder: Path, **search: Any) -> None:
        qwen = {"model": str(save_checkpoint(folder / "model")), "steps": STEPS, "reference_pixels": 4096}
        threads = {"OMP_NUM_THREADS": "1"}
        super().__init__(folder, generation={"qwen": qwen}, search=search, env=threads)
        plans = [
            ChildPlan(role="device", settings=self.settings, device=device_name("sim", number), generators=(GENERATOR,))
            for number in range(2)
        ]
        self.cluster = EmbeddedCluster(self.settings, folder / "cluster", plans, env=self._variables)

    def submit(self, tasks: tuple[Task, ...], **more: Any) -> Submitted:
        """Submit with the tiny checkpoint and the simulated judge."""
        return self.client.submit(
            tasks, self.settings, generator=GENERATOR, judges={SCORER: frozenset(CRITERIA)}, **more
        )


def _evaluations(metrics: dict[str, Any]) -> int:
    return int(metrics["model_evaluations"])


def test_eacps_with_refinement_from_stored_latents(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    with QwenFleet(tmp_path) as fleet:
        outcomes = fleet.outcomes(fleet.submit(tasks).run, timeout=400)
    assert [outcome.state for outcome in outcomes] == [TaskState.DONE] * 2
    fleet.check(tasks)
    for task in tasks:
        metrics = fleet.metrics(task.id)
        assert _evaluations(metrics) == (4 * STEPS + 4 * round(0.55 * STEPS)) * 2
        assert len({each["image"]["sha256"] for each in metrics["candidates"]}) == 8


def test_eacps_with_pruning_costs_what_it_says(tmp_path: Path) -> None:
    (task,) = make_tasks(tmp_path / "in", 1)
    with QwenFleet(tmp_path, prune_at=0.3, prune_keep=2) as fleet:
        outcomes = fleet.outcomes(fleet.submit((task,)).run, timeout=400)
    assert outcomes[0].state is TaskState.DONE
    metrics = fleet.metrics(task.id)
    previews, resumed, refined = 4 * 3, 2 * 7, 4 * round(0.55 * STEPS)
    assert _evaluations(metrics) == (previews + resumed + refined) * 2
    assert metrics["best_phase"] in ("global", "local")
