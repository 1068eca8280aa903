"""A run's progress and outcomes as lines of text: pure functions of what the client reports."""

import json

from orchestrator.progress import Eta, RunProgress
from orchestrator.usage import RunMetrics
from shared.outcome import TaskOutcome, TaskState


def outcome_line(outcome: TaskOutcome, place: str) -> str:
    """A task that is over: id, state, potential, winner, and where its result is or why there is none."""
    if outcome.failure is not None and outcome.best_id is None:
        return f"{outcome.task_id}  {outcome.state}  {outcome.failure.message}"
    potential = "no potential" if outcome.best_potential is None else f"{outcome.best_potential:.2f}"
    return f"{outcome.task_id}  {outcome.state}  {potential}  {outcome.best_id}  {place}"


def outcome_json(outcome: TaskOutcome, place: str) -> str:
    """The same for programs: one object, with the place of its result."""
    return json.dumps({**outcome.model_dump(mode="json"), "path": place or None}, ensure_ascii=False)


def progress_line(progress: RunProgress, expected: int) -> str:
    """A run at one moment, in one line."""
    failed = progress.tasks.get(TaskState.FAILED, 0)
    busy = sum(beat.current is not None for beat in progress.devices)
    parts = [
        f"tasks {progress.finished}/{progress.total}" + (f", {failed} failed" if failed else ""),
        f"candidates {progress.candidates_made}/{expected}",
        f"devices {busy} of {len(progress.devices)} busy" if progress.devices else "no device is up yet",
        f"judging {progress.score_queue}" if progress.score_queue else "",
        f"silent: {', '.join(progress.silent)}" if progress.silent else "",
        eta_words(progress.eta),
    ]
    return "; ".join(part for part in parts if part)


def eta_words(eta: Eta | None) -> str:
    """`about 3 min left (± 20 s)`, or nothing while there is no pace yet."""
    if eta is None:
        return ""
    return f"about {duration(eta.seconds)} left (± {duration(eta.error)})"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 10 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(whole / 60)} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def summary_line(outcomes: tuple[TaskOutcome, ...], seconds: float, where: str) -> str:
    """How a run ended."""
    counts = {state: sum(outcome.state is state for outcome in outcomes) for state in TaskState}
    words = {
        TaskState.DONE: "done",
        TaskState.UNCHANGED: "done before with this very configuration (--force runs them again)",
        TaskState.FAILED: "failed",
        TaskState.CANCELLED: "cancelled",
    }
    parts = ", ".join(f"{counts[state]} {text}" for state, text in words.items() if counts[state])
    return f"Tasks: {parts or 'none'}, in {duration(seconds)}. Results are in {where}"


def judging_lines(metrics: RunMetrics) -> tuple[str, ...]:
    """What a run paid its judges, and a warning where a default score stands in for a judgement."""
    lines = [
        f"Judge {judge}: {usage.calls} calls, {usage.input_tokens + usage.output_tokens} tokens, "
        f"${usage.cost_usd:.4f}; {usage.cached} answers from the cache."
        for judge, usage in metrics.usage_by_judge.items()
        if usage.calls
    ]
    if count := len(metrics.defaulted):
        shown = ", ".join(metrics.defaulted[:5]) + (f" and {count - 5} more" if count > 5 else "")
        lines.append(f"Warning: the winner was chosen on a default score and not on a judgement in {shown}.")
    return tuple(lines)
