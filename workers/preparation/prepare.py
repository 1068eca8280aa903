"""A task's images, fetched, checked and brought into the one form that generators and scorers get."""

from dataclasses import dataclass

from shared.errors import InputError
from shared.images import Picture, Pixels, decode, has_transparency, to_rgb, to_rgba
from shared.masks import mask_from
from shared.types import Task
from workers.preparation.fetch import Fetcher, shown


@dataclass(frozen=True)
class PreparedImages:
    """What a candidate is made from. Init and mask have the same size; the character has its own."""

    #: H x W x 3, uint8, RGB.
    init: Pixels
    #: H x W, uint8, 0 or 255 (255 = edit), neither empty nor full.
    mask: Pixels
    #: h x w x 4, uint8, RGBA (straight alpha), not wholly transparent.
    character: Pixels
    #: Share of pixels to edit, 0 < fraction < 1.
    mask_fraction: float
    #: Bounding box of the edited pixels: left, top, right, bottom (right and bottom exclusive).
    mask_box: tuple[int, int, int, int]
    #: What was changed on the way, such as `mask: resized from …`.
    notes: tuple[str, ...] = ()


def prepare(task: Task, fetcher: Fetcher) -> PreparedImages:
    """Fetch and check the three images of a task.

    Raises InputError when an image cannot be used, naming task, image and source; Retryable when a server failed.
    """
    init = _picture(task, "init", task.init, fetcher)
    drawn = _picture(task, "mask", task.mask, fetcher)
    character = _picture(task, "character", task.character, fetcher)
    mask = mask_from(drawn.pixels, init.size, f"task {task.id}: mask ({shown(task.mask)})")
    rgba = to_rgba(character.pixels)
    if not rgba[..., 3].any():
        raise InputError(
            f"task {task.id}: character ({shown(task.character)}) is wholly transparent: there is nothing to insert."
        )
    flattened = ("its transparency is laid onto white",) if has_transparency(init.pixels) else ()
    notes = {"init": (*init.notes, *flattened), "mask": (*drawn.notes, *mask.notes), "character": character.notes}
    return PreparedImages(
        init=to_rgb(init.pixels),
        mask=mask.pixels,
        character=rgba,
        mask_fraction=mask.fraction,
        mask_box=mask.box,
        notes=tuple(f"{role}: {note}" for role, own in notes.items() for note in own),
    )


def _picture(task: Task, role: str, source: str, fetcher: Fetcher) -> Picture:
    name = f"task {task.id}: {role}"
    return decode(fetcher.fetch(source, name).data, f"{name} ({shown(source)})", fetcher.limits)
