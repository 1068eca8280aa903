"""A run's progress as a live picture on a terminal."""

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from inpaint_eacps.lines import duration, eta_words
from orchestrator.progress import RunProgress
from shared.heartbeat import Heartbeat
from shared.types import CandidateState

_STATES = tuple(CandidateState)
_MOST_DEVICES = 32


def dashboard(progress: RunProgress, expected: int) -> RenderableType:
    """Bars for tasks and candidates, candidates by phase and state, devices with what they have in hand, queues."""
    return Group(_bars(progress, expected), _phases(progress), _devices(progress), _footer(progress))


def _bars(progress: RunProgress, expected: int) -> Table:
    grid = Table.grid(padding=(0, 2))
    made = progress.candidates_made
    for name, done, total in (("tasks", progress.finished, progress.total), ("candidates", made, max(expected, made))):
        grid.add_row(name, ProgressBar(total=max(total, 1), completed=done, width=40), f"{done}/{total}")
    return grid


def _phases(progress: RunProgress) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("phase")
    for state in _STATES:
        table.add_column(state.value, justify="right")
    for phase, counts in sorted(progress.candidates.items()):
        table.add_row(phase, *(str(counts.get(state.value, 0) or "") for state in _STATES))
    return table


def _devices(progress: RunProgress) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("device", "state", "candidate", "step", "made", "busy"):
        table.add_column(name, justify="right" if name in ("step", "made", "busy") else "left")
    for beat in sorted(progress.devices, key=lambda beat: beat.device)[:_MOST_DEVICES]:
        table.add_row(beat.device, beat.state.value, _in_hand(beat), _step(beat), str(beat.done), _busy(beat))
    for name in progress.silent[:_MOST_DEVICES]:
        table.add_row(name, Text("silent", style="red"))
    more = len(progress.devices) - _MOST_DEVICES
    if more > 0:
        table.add_row(f"and {more} more")
    return table


def _in_hand(beat: Heartbeat) -> str:
    if beat.current is None:
        return ""
    _, task, candidate, attempt = beat.current.split("|")
    return f"{task} {candidate}" + (f" (attempt {attempt})" if attempt != "1" else "")


def _step(beat: Heartbeat) -> str:
    return f"{beat.step}/{beat.total}" if beat.total else ""


def _busy(beat: Heartbeat) -> str:
    return f"{100 * min(1.0, beat.busy_seconds / beat.ready_seconds):.0f} %" if beat.ready_seconds else ""


def _footer(progress: RunProgress) -> Text:
    failed = progress.tasks.get("failed", 0)
    parts = [
        f"run {progress.run}",
        f"{failed} failed" if failed else "",
        f"{progress.prepare_queue} to prepare" if progress.prepare_queue else "",
        f"{progress.score_queue} to judge" if progress.score_queue else "",
        f"{duration(progress.elapsed)} so far",
        eta_words(progress.eta),
    ]
    return Text("  ".join(part for part in parts if part), style="dim")
