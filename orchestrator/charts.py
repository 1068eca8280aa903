"""Geometry of the report's drawings: numbers in, positions out. The template draws them as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.metrics_file import CandidateMetrics, Metrics, busy_seconds


@dataclass(frozen=True)
class Tick:
    """A grid line and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Dot:
    """One candidate in the search curve."""

    x: float
    y: float
    id: str
    phase: str
    #: `scored`, `default`, `unscored` or `failed`.
    kind: str
    best: bool
    label: str


@dataclass(frozen=True)
class Curve:
    """Potentials in the search's order, and the best so far as an SVG path."""

    width: float
    height: float
    left: float
    bottom: float
    dots: tuple[Dot, ...]
    best_path: str
    ticks: tuple[Tick, ...]
    #: Height above which the candidates count as tied with the best; `None` without a margin.
    tie_at: float | None
    top_at: float | None


@dataclass(frozen=True)
class Segment:
    """A stretch of time of one candidate: `wait`, `make`, `store` or `judge`."""

    x: float
    width: float
    kind: str
    label: str


@dataclass(frozen=True)
class Row:
    """One candidate's line in the timeline."""

    y: float
    id: str
    device: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Timeline:
    """Who did what when, a line for each candidate, grouped by device."""

    width: float
    height: float
    left: float
    row_height: float
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]


def kind_of(candidate: CandidateMetrics) -> str:
    """How the report speaks of a candidate: scored, default, unscored, failed or cancelled."""
    if candidate.potential is not None:
        return "default" if candidate.defaulted else "scored"
    return candidate.state.value if candidate.state.value in {"failed", "cancelled"} else "unscored"


def search_curve(metrics: Metrics, width: float = 720.0, height: float = 220.0) -> Curve | None:
    """Lay out the search curve; `None` when nothing was scored."""
    potentials = [one.potential for one in metrics.candidates if one.potential is not None]
    if not potentials:
        return None
    left, bottom, margin = 44.0, height - 26.0, 16.0
    low, high, ticks = _scale(min(potentials), max(potentials))

    def at(potential: float) -> float:
        return bottom - 14 - (potential - low) / (high - low) * (bottom - 14 - margin)

    step = (width - left - margin) / max(len(metrics.candidates), 1)
    dots: list[Dot] = []
    path: list[str] = []
    best: float | None = None
    for index, one in enumerate(metrics.candidates):
        x = left + step * (index + 0.5)
        kind = kind_of(one)
        y = bottom if one.potential is None else at(one.potential)
        told = kind if one.potential is None else f"{one.potential:.2f}"
        dots.append(Dot(_r(x), _r(y), one.id, one.phase, kind, one.id == metrics.best_id, f"{one.id}: {told}"))
        if one.rank is not None and one.potential is not None and kind == "scored":
            if best is None:
                path.append(f"M{_r(x)} {_r(at(one.potential))}")
            elif one.potential > best:
                path.append(f"H{_r(x)}V{_r(at(one.potential))}")
            best = one.potential if best is None else max(best, one.potential)
    if path:
        path.append(f"H{_r(width - margin)}")
    margin_at = metrics.best_potential is not None and metrics.tie_margin > 0
    return Curve(
        width=width,
        height=height,
        left=left,
        bottom=bottom,
        dots=tuple(dots),
        best_path="".join(path),
        ticks=tuple(Tick(_r(at(value)), f"{value:g}") for value in ticks),
        tie_at=_r(at(max((metrics.best_potential or 0) - metrics.tie_margin, low))) if margin_at else None,
        top_at=_r(at(metrics.best_potential or 0)) if margin_at else None,
    )


def timeline(metrics: Metrics, width: float = 720.0, most: int = 64) -> Timeline | None:
    """Lay out the timeline of the first `most` candidates made in this run; `None` when times are not known."""
    made = [one for one in metrics.candidates if not one.reused and {"dispatched", "generated"} <= one.times.keys()]
    if not made or metrics.started is None or metrics.finished is None:
        return None
    made = sorted(made, key=lambda one: (one.device or "", one.times["dispatched"]))[:most]
    start, span = metrics.started, max(metrics.finished - metrics.started, 1e-3)
    left, row_height = 150.0, 18.0
    scale = (width - left - 12) / span

    def segment(begin: float, end: float, kind: str, what: str) -> Segment:
        length = max(end - begin, 0.0)
        return Segment(_r(left + (begin - start) * scale), _r(max(length * scale, 0.5)), kind, f"{what} {length:.2f} s")

    rows = []
    for index, one in enumerate(made):
        asked, done = one.times["dispatched"], one.times["generated"]
        busy = busy_seconds(one.timings)
        began = max(done - busy - one.timings.get("encode", 0.0) - one.timings.get("write", 0.0), asked)
        made_at = min(began + busy, done)
        segments = [
            segment(asked, began, "wait", "waited"),
            segment(began, made_at, "make", "generated in"),
            segment(made_at, done, "store", "stored in"),
        ]
        if "scored" in one.times:
            segments.append(segment(done, one.times["scored"], "judge", "judged in"))
        rows.append(Row(8 + index * row_height, one.id, one.device or "", tuple(segments)))
    _, _, ticks = _scale(0.0, span)
    return Timeline(
        width=width,
        height=8 + len(rows) * row_height + 24,
        left=left,
        row_height=row_height,
        rows=tuple(rows),
        ticks=tuple(Tick(_r(left + value * scale), f"{value:g} s") for value in ticks if value <= span),
    )


def _scale(low: float, high: float, lines: int = 5) -> tuple[float, float, Sequence[float]]:
    """Round limits around `low` to `high`, and round values between them (steps of 1, 2 or 5 times a power of 10)."""
    span = max(high - low, 1e-6)
    power = 10.0 ** _floor_log10(span / lines)
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if span / (factor * power) <= lines)
    first, last = int(low // step), int(-(-high // step))
    if first == last:
        last += 1
    values = [round(number * step, 9) for number in range(first, last + 1)]
    return values[0], values[-1], values


def _floor_log10(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def _r(value: float) -> float:
    return round(value, 1)
