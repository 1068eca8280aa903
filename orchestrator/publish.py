"""Write a task's results into its folder, so that they can be read while workers run and after they are gone.

metrics.json is the commit: it is taken away first and written last, so where it stands, all it speaks of stands too.
Publishing twice changes nothing; publishing other results leaves nothing of the earlier ones.
"""

import logging
import re
from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from orchestrator.metrics_file import Metrics, TaskHistory, metrics_of
from orchestrator.report import render_index, render_report
from orchestrator.thumbnails import Pictures, pictures_of
from orchestrator.usage import RunMetrics
from shared.artifacts import ArtifactCorrupt, ArtifactMissing, ArtifactStore, task_file, task_folder
from shared.outcome import TaskOutcome, TaskState
from shared.types import ArtifactRef, RunId, TaskId

logger = logging.getLogger(__name__)

RESULT, METRICS, REPORT, PREVIEW = "result.png", "metrics.json", "report.html", "preview.webp"
_TOP = re.compile(r"candidate_[0-9]+_seed[0-9]+\.png")


def publish(store: ArtifactStore, history: TaskHistory) -> TaskOutcome:
    """Write result.png, the best candidates by rank, report.html and metrics.json of a task.

    A task without a winner gets no result.png; its metrics.json and its report say why. Raises Retryable or
    Permanent as the store does; a second call takes up where the first one stopped.
    """
    metrics = metrics_of(history)
    task_id = metrics.task_id
    store.delete(task_file(task_id, METRICS))
    images = _images(store, metrics, history.settings.publish.top)
    _clear(store, task_id, keep=images)
    for name, data in images.items():
        store.write(task_file(task_id, name), data)
    if history.settings.publish.report:
        _write_report(store, metrics)
    store.write(task_file(task_id, METRICS), _json(metrics))
    outcome = metrics.outcome(_result(metrics))
    logger.info(
        "Task %s is %s",
        task_id,
        outcome.state,
        extra={
            "action": "task_published",
            "task": task_id,
            "state": outcome.state,
            "potential": outcome.best_potential,
        },
    )
    return outcome


def read_metrics(store: ArtifactStore, task_id: TaskId) -> Metrics | None:
    """What was published of a task; `None` when nothing was, or nothing that this version understands."""
    try:
        return Metrics.model_validate_json(store.read(task_file(task_id, METRICS)))
    except (ArtifactMissing, ValidationError):
        return None


def published_outcome(store: ArtifactStore, task_id: TaskId, config_hash: str) -> TaskOutcome | None:
    """The outcome of a task that was done before with this very configuration, marked as unchanged; else `None`."""
    metrics = read_metrics(store, task_id)
    if metrics is None or metrics.state is not TaskState.DONE or metrics.config_hash != config_hash:
        return None
    unpaid = {"state": TaskState.UNCHANGED, "usage_by_judge": {}}
    return metrics.outcome(_result(metrics)).model_copy(update=unpaid)


def republish_report(store: ArtifactStore, task_id: TaskId) -> bool:
    """Write report.html again from metrics.json and the candidates; false when the task was never published."""
    metrics = read_metrics(store, task_id)
    if metrics is not None:
        _write_report(store, metrics)
    return metrics is not None


def publish_index(
    store: ArtifactStore, run_id: RunId, outcomes: Iterable[TaskOutcome], name: str = "index.html"
) -> str:
    """Write the page that lists a run's tasks, at the store's root. Returns where it is, as a person would open it."""
    store.write(name, render_index(run_id, tuple(outcomes)))
    return store.where(name)


def publish_run_metrics(store: ArtifactStore, metrics: RunMetrics) -> None:
    """Write a run's metrics.json next to its manifest."""
    store.write(f"runs/{metrics.run_id}/{METRICS}", _json(metrics))


def _images(store: ArtifactStore, metrics: Metrics, top: int) -> Mapping[str, bytes]:
    """Names in the task's folder, and the bytes: the winner and the best few, as they were generated."""
    if metrics.best_id is None:
        return {}
    ranked = sorted((one for one in metrics.candidates if one.rank is not None), key=lambda one: one.rank or 0)
    images = {}
    for candidate in ranked[: max(top, 1)]:
        if candidate.image is None:
            raise ArtifactMissing(f"Candidate {candidate.id} of task {metrics.task_id} was scored but has no image.")
        data = store.read(candidate.image)
        if candidate.rank == 1:
            images[RESULT] = data
        if (candidate.rank or 0) <= top:
            images[f"candidate_{candidate.rank}_seed{candidate.seed}.png"] = data
    return images


def _clear(store: ArtifactStore, task_id: TaskId, keep: Iterable[str]) -> None:
    """Take away what an earlier publication left and this one does not replace."""
    folder = task_folder(task_id)
    for name in store.list(folder):
        file = name.removeprefix(f"{folder}/")
        if (file in {RESULT, REPORT, PREVIEW} or _TOP.fullmatch(file)) and file not in keep:
            store.delete(name)


def _write_report(store: ArtifactStore, metrics: Metrics) -> None:
    pictures = _pictures(store, metrics)
    store.write(task_file(metrics.task_id, REPORT), render_report(metrics, pictures))
    if pictures.preview is not None:
        store.write(task_file(metrics.task_id, PREVIEW), pictures.preview)


def _pictures(store: ArtifactStore, metrics: Metrics) -> Pictures:
    """Small pictures for the report; what cannot be read is left out there, and logged."""
    if metrics.inputs is None:
        return Pictures()

    def read(artifact: ArtifactRef) -> bytes | None:
        try:
            return store.read(artifact)
        except (ArtifactMissing, ArtifactCorrupt) as error:
            logger.warning("%s", error, extra={"action": "report_without_picture", "task": metrics.task_id})
            return None

    return pictures_of(metrics, read)


def _result(metrics: Metrics) -> ArtifactRef | None:
    best = metrics.best
    if best is None or best.image is None:
        return None
    return ArtifactRef(name=task_file(metrics.task_id, RESULT), sha256=best.image.sha256)


def _json(metrics: Metrics | RunMetrics) -> bytes:
    return (metrics.model_dump_json(indent=2) + "\n").encode()
