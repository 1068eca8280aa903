"""A run's progress and outcomes as text and as a picture."""

import io

import pytest
from rich.console import Console

from inpaint_eacps.dashboard import dashboard
from inpaint_eacps.follow import exit_code
from inpaint_eacps.lines import duration, judging_lines, outcome_line, progress_line, summary_line
from orchestrator.progress import Eta, RunProgress
from orchestrator.usage import run_metrics
from shared.errors import ExitCode
from shared.heartbeat import DeviceState, Heartbeat
from shared.outcome import TaskOutcome, TaskState, UsageMetrics
from shared.types import Failure

BUSY = Heartbeat(
    device="host.0",
    host="host",
    pid=1,
    incarnation="a",
    state=DeviceState.READY,
    generators=("composite",),
    current="run|71651078|l01.0|2",
    step=7,
    total=40,
    done=5,
    busy_seconds=9.0,
    ready_seconds=10.0,
)
IDLE = BUSY.model_copy(update={"device": "host.1", "current": None, "step": 0, "total": 0})
PROGRESS = RunProgress(
    run="20260101-000000-abcdef",
    total=3,
    tasks={"done": 1, "failed": 1, "searching": 1},
    candidates={"global": {"scored": 8, "generated": 2, "failed": 1}, "local": {"pending": 3}},
    devices=(BUSY, IDLE),
    silent=("other.0",),
    score_queue=2,
    prepare_queue=0,
    elapsed=75.0,
    eta=Eta(seconds=50.0, error=12.4),
)


def outcome(state: TaskState, task_id: str = "7", failure: Failure | None = None) -> TaskOutcome:
    good = state in (TaskState.DONE, TaskState.UNCHANGED)
    return TaskOutcome(
        task_id=task_id,
        character_name="Mira",
        state=state,
        best_id="l01.0" if good else None,
        best_potential=31.204 if good else None,
        failure=failure,
    )


def test_a_line_says_what_matters() -> None:
    assert progress_line(PROGRESS, 24) == (
        "tasks 2/3, 1 failed; candidates 10/24; devices 1 of 2 busy; judging 2; silent: other.0; "
        "about 50 s left (± 12 s)"
    )


def test_a_cluster_without_devices_says_so() -> None:
    line = progress_line(PROGRESS.model_copy(update={"devices": (), "silent": (), "eta": None}), 24)
    assert "no device is up yet" in line
    assert "left" not in line


@pytest.mark.parametrize("width", [60, 120])
def test_the_dashboard_shows_every_device_and_what_it_has_in_hand(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(dashboard(PROGRESS, 24))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("2/3", "10/24", "host.0", "71651078", "l01.0", "7/40", "90 %", "host.1", "other.0", "silent"):
        assert words in text


def test_the_dashboard_of_an_empty_run() -> None:
    console = Console(file=io.StringIO(), width=80)
    empty = PROGRESS.model_copy(update={"total": 0, "tasks": {}, "candidates": {}, "devices": (), "eta": None})
    console.print(dashboard(empty, 0))
    assert "0/0" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (1800, "30 min"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_an_outcome_names_the_winner_or_the_reason() -> None:
    assert outcome_line(outcome(TaskState.DONE), "/out/result.png") == "7  done  31.20  l01.0  /out/result.png"
    failure = Failure(kind="input", message="The mask is empty.")
    assert outcome_line(outcome(TaskState.FAILED, failure=failure), "") == "7  failed  The mask is empty."


def test_the_summary_counts_and_says_how_to_run_unchanged_tasks_again() -> None:
    outcomes = (outcome(TaskState.DONE), outcome(TaskState.UNCHANGED), outcome(TaskState.FAILED))
    line = summary_line(outcomes, 75, "/out/index.html")
    assert line.startswith("Tasks: 1 done, 1 done before")
    assert "--force" in line
    assert "1 failed, in 1 min 15 s. Results are in /out/index.html" in line


def test_the_summary_names_what_was_paid_and_warns_of_winners_on_a_default() -> None:
    usage = UsageMetrics(judgements=3, cached=1, calls=4, input_tokens=1000, output_tokens=200, cost_usd=0.0125)
    real = outcome(TaskState.DONE).model_copy(update={"usage_by_judge": {"gemini": usage, "local": UsageMetrics()}})
    assert judging_lines(run_metrics("r", (real,))) == (
        "Judge gemini: 4 calls, 1200 tokens, $0.0125; 1 answers from the cache.",
    )
    default = outcome(TaskState.DONE).model_copy(update={"best_defaulted": ("identity",)})
    (warning,) = judging_lines(run_metrics("r", (default, default, default, default, default, default)))
    assert warning.startswith("Warning: the winner was chosen on a default score")
    assert warning.endswith("7 and 1 more.")


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ((TaskState.DONE, TaskState.UNCHANGED), ExitCode.OK),
        ((TaskState.DONE, TaskState.FAILED), ExitCode.SOME_FAILED),
        ((TaskState.CANCELLED,), ExitCode.SOME_FAILED),
    ],
)
def test_the_exit_code_is_0_only_when_every_task_has_a_result(states: tuple[TaskState, ...], code: ExitCode) -> None:
    assert exit_code([outcome(state) for state in states]) is code
