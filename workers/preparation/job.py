"""Celery's side of preparation: inputs into the artifact store, and stale results out of the way."""

import logging

from shared.artifacts import (
    ArtifactStore,
    candidates_folder,
    parse_record_name,
    task_file,
    task_folder,
)
from shared.errors import InpaintError
from shared.images import encode_png
from shared.messages import GenerationRecord, PrepareJob, TaskPrepared, TaskRefused, inputs_key
from shared.types import Failure, Prepared
from workers.preparation.fetch import Fetcher
from workers.preparation.prepare import prepare

logger = logging.getLogger(__name__)


def prepare_task(job: PrepareJob, fetcher: Fetcher) -> TaskPrepared | TaskRefused:
    """Do the job. A task whose inputs cannot be used is refused with the reason, whatever the reason is.

    Raises Retryable when the artifact store does not answer.
    """
    store = ArtifactStore(job.store)
    try:
        images = prepare(job.task, fetcher)
    except InpaintError as error:
        # Wherever a task's failure is shown, the task is named beside it.
        failure = Failure(kind="input", message=str(error).removeprefix(f"task {job.task.id}: "))
        return TaskRefused(run=job.run, task=job.task.id, failure=failure)
    task_id = job.task.id
    prepared = Prepared(
        init=store.write(task_file(task_id, "init.png"), encode_png(images.init)),
        mask=store.write(task_file(task_id, "mask.png"), encode_png(images.mask)),
        character=store.write(task_file(task_id, "character.png"), encode_png(images.character)),
        width=images.init.shape[1],
        height=images.init.shape[0],
        mask_fraction=images.mask_fraction,
        mask_box=images.mask_box,
        notes=images.notes,
    )
    if job.force:
        store.delete(candidates_folder(task_id))
    else:
        _set_aside(store, task_id, inputs_key(job.generation_hash, prepared))
    return TaskPrepared(run=job.run, task=task_id, prepared=prepared)


def _set_aside(store: ArtifactStore, task_id: str, current: str) -> None:
    """Move candidates of other inputs or other generator settings to `previous/`: nothing is overwritten."""
    folder = candidates_folder(task_id)
    records = [name for name in store.list(folder) if parse_record_name(name)]
    if not records:
        return
    try:
        record = GenerationRecord.model_validate_json(store.read(records[0]))
    except ValueError:
        stale = "unreadable"
    else:
        if record.inputs_key == current:
            return
        stale = record.inputs_key[:12]
    target = f"{task_folder(task_id)}/previous/{stale}"
    store.delete(target)
    store.move(folder, target)
    logger.info(
        "candidates of another configuration set aside in %s",
        store.where(target),
        extra={"action": "candidates_set_aside", "task": task_id},
    )
