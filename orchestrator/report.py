"""report.html of a task and index.html of a run: static pages that work from a disk, with JavaScript off, for years.

All text from outside (names, judges' words, error messages) is escaped by the template, and a content security policy
lets no script run but the page's own, by its hash.
"""

import base64
import datetime
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.charts import kind_of, search_curve, timeline
from orchestrator.metrics_file import CandidateMetrics, Metrics, busy_seconds, grouped_reasons
from orchestrator.thumbnails import Pictures, region
from shared.artifacts import candidates_folder, task_folder
from shared.outcome import TaskOutcome, TaskState
from shared.types import CRITERIA, RunId

_FAILED_FIRST = (TaskState.FAILED, TaskState.CANCELLED)


@dataclass(frozen=True)
class Bar:
    """One score of 0-10; `value` is `None` when it is missing, with the `reason`."""

    name: str
    value: float | None
    reason: str = ""
    defaulted: bool = False


@dataclass(frozen=True)
class Card:
    """One candidate as the grid shows it."""

    candidate: CandidateMetrics
    #: Place in the search's order.
    order: int
    #: Link to the full image, relative to the page.
    image: str | None
    thumbnail: str | None
    kind: str
    badges: tuple[tuple[str, str], ...]
    bars: tuple[Bar, ...]
    #: Scores that are not on the scale of 0-10.
    measures: tuple[tuple[str, float], ...]
    reasons: tuple[str, ...]
    #: Potential minus the parent's.
    gain: float | None
    seconds: float


def render_report(metrics: Metrics, pictures: Pictures) -> bytes:
    """One task's page, to stand in the task's folder beside the images it links to."""
    cards = _cards(metrics, pictures)
    page = _environment().get_template("report.html.j2")
    provenance = metrics.model_dump(mode="json", include={"inputs", "settings", "versions", "usage_by_judge"})
    return page.render(
        metrics=metrics,
        cards=cards,
        winner=next((card for card in cards if card.candidate.id == metrics.best_id), None),
        pictures=pictures,
        curve=search_curve(metrics),
        timeline=timeline(metrics),
        stages=_stages(metrics),
        most=_most(metrics),
        funnel=_funnel(metrics),
        criteria=_criteria(metrics),
        provenance=json.dumps(provenance, indent=2, ensure_ascii=False),
        shape=_shape(metrics),
        cut=_cut(metrics),
        states=sorted({card.kind for card in cards}),
        script=_script(),
        script_hash=_hash(_script()),
        style=_text("style.css"),
    ).encode()


def render_index(run_id: RunId, outcomes: Sequence[TaskOutcome]) -> bytes:
    """The page of a run, to stand at the store's root: a row for each task, failed ones first."""
    rows = sorted(outcomes, key=lambda one: (one.state not in _FAILED_FIRST, one.task_id))
    page = _environment().get_template("index.html.j2")
    potentials = [one.best_potential for one in outcomes if one.best_potential is not None]
    return page.render(
        run_id=run_id,
        rows=[(one, task_folder(one.task_id)) for one in rows],
        counts={state: sum(one.state is state for one in outcomes) for state in TaskState if _any(state, outcomes)},
        candidates=sum(one.total_candidates for one in outcomes),
        mean=sum(potentials) / len(potentials) if potentials else None,
        script=_script(),
        script_hash=_hash(_script()),
        style=_text("style.css"),
    ).encode()


def _any(state: TaskState, outcomes: Iterable[TaskOutcome]) -> bool:
    return any(one.state is state for one in outcomes)


def _cards(metrics: Metrics, pictures: Pictures) -> tuple[Card, ...]:
    """All candidates, the winner first, those without a potential last."""
    by_id = {one.id: one for one in metrics.candidates}
    places = {one.id: place for place, one in enumerate(metrics.candidates)}
    ordered = sorted(metrics.candidates, key=lambda one: (one.rank is None, one.rank or 0, one.potential is None))
    folder = candidates_folder(metrics.task_id).removeprefix(f"{task_folder(metrics.task_id)}/")
    images = {one.id: f"{folder}/{one.image.name.rpartition('/')[2]}" for one in ordered if one.image}
    return tuple(
        _card(one, by_id.get(one.parent or ""), metrics, places[one.id], images.get(one.id), pictures)
        for one in ordered
    )


def _card(
    one: CandidateMetrics,
    parent: CandidateMetrics | None,
    metrics: Metrics,
    order: int,
    image: str | None,
    pictures: Pictures,
) -> Card:
    before = parent.potential if parent else None
    return Card(
        candidate=one,
        order=order,
        image=image,
        thumbnail=pictures.regions.get(one.id, image),
        kind=kind_of(one),
        badges=_badges(one, metrics),
        bars=_bars(one, metrics),
        measures=tuple((name, value) for name, value in one.scores.items() if name not in CRITERIA),
        reasons=(one.failure.message,) if one.failure else grouped_reasons(one.missing),
        gain=one.potential - before if one.potential is not None and before is not None else None,
        seconds=busy_seconds(one.timings),
    )


def _badges(one: CandidateMetrics, metrics: Metrics) -> tuple[tuple[str, str], ...]:
    """Kind and words of each badge."""
    badges = []
    if one.id == metrics.best_id:
        badges.append(("best", "winner"))
    if one.id in metrics.ties:
        badges.append(("tie", "tie"))
    if one.children:
        badges.append(("parent", f"refined ×{len(one.children)}"))
    if kind_of(one) != "scored":
        badges.append((kind_of(one), {"default": "default score"}.get(kind_of(one), kind_of(one))))
    if one.preview:
        badges.append(("preview", "preview"))
    if one.reused:
        badges.append(("reused", "from disk"))
    if one.earlier and one.state.value != "failed":
        badges.append(("retried", f"attempt {one.attempts}"))
    return tuple(badges)


def _bars(one: CandidateMetrics, metrics: Metrics) -> tuple[Bar, ...]:
    return tuple(
        Bar(name, one.scores.get(name), one.missing.get(name, ""), name in one.defaulted)
        for name in _criteria(metrics)
        if name in one.scores or name in one.missing
    )


def _criteria(metrics: Metrics) -> tuple[str, ...]:
    known = {name for one in metrics.candidates for name in (*one.scores, *one.missing)}
    return tuple(name for name in CRITERIA if name in known)


def _most(metrics: Metrics) -> float | None:
    """The greatest potential there can be; `None` where raw measures are weighed."""
    scoring = metrics.settings.get("scoring", {})
    weights: dict[str, float] = scoring.get("potential", {})
    if not weights or any(name not in CRITERIA or weight < 0 for name, weight in weights.items()):
        return None
    return 10.0 if scoring.get("combine") == "geometric" else 10.0 * sum(weights.values())


def _stages(metrics: Metrics) -> tuple[str, ...]:
    """Columns of the timings: the whole generation, its parts, and what the worker does after it."""
    known = dict.fromkeys(stage for one in metrics.candidates for stage in one.timings)
    parts = [stage for stage in known if stage not in {"generate", "encode", "write"}]
    return tuple(stage for stage in ("generate", *parts, "encode", "write") if stage in known)


def _funnel(metrics: Metrics) -> tuple[tuple[str, int], ...]:
    every = metrics.candidates
    return (
        ("asked for", len(every)),
        ("generated", sum(one.image is not None for one in every)),
        ("scored", sum(one.potential is not None for one in every)),
        ("refined", sum(bool(one.children) for one in every)),
    )


def _shape(metrics: Metrics) -> float:
    """Width over height of the pictures in the grid, within what a grid can bear."""
    if metrics.inputs is None:
        return 4 / 3
    left, top, right, bottom = region(metrics.inputs.mask_box, (metrics.inputs.width, metrics.inputs.height))
    return round(min(max((right - left) / (bottom - top), 0.75), 16 / 9), 3)


def _cut(metrics: Metrics) -> float:
    """Where the slider stands at first, in percent of the width: at the left edge of what was edited."""
    if metrics.inputs is None:
        return 50.0
    return round(min(max(100 * metrics.inputs.mask_box[0] / metrics.inputs.width, 6.0), 50.0), 1)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("orchestrator", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = _duration
    environment.filters["moment"] = _moment
    environment.filters["value"] = _value
    return environment


def _text(name: str) -> Markup:
    """A file of ours beside the templates, as it is."""
    return Markup(_read(name))  # noqa: S704 (our own file, no input in it)


@cache
def _read(name: str) -> str:
    return (resources.files("orchestrator") / "templates" / name).read_text(encoding="utf-8")


def _script() -> Markup:
    return _text("report.js")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _duration(seconds: float | None) -> str:
    """Seconds as people say them, unbreakable."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if seconds < 1:
        text = f"{1000 * seconds:.0f} ms"
    elif seconds < 60:
        text = f"{seconds:.1f} s"
    else:
        text = f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
    return text.replace(" ", "\u00a0")


def _moment(seconds: float | None) -> str:
    """Unix seconds as a date in UTC."""
    if seconds is None:
        return "–"
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _value(value: object) -> str:
    """A parameter for a table cell."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
