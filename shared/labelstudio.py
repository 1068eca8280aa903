"""Label Studio exports as tasks.

What is read is the full JSON export: a list of items, each with its fields under `data` (items without `data` are read
as if they were it). A task's id is `data.id`; the item's own `id` belongs to Label Studio. `data.prompt` speaks to
annotators and is never read.
"""

import difflib
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.errors import InputError
from shared.types import Task, is_task_id

#: The fields looked for, the first that is filled wins.
USUAL_FIELDS: Mapping[str, tuple[str, ...]] = {
    "id": ("id",),
    "name": ("character_name",),
    "init": ("init_image_url", "init_image"),
    "mask": ("mask_image_url", "mask_image", "mask"),
    "character": ("character_image_url", "character_image"),
    "character_id": ("character_id",),
}

MAX_EXPORT_BYTES = 512 * 2**20

_SERVER_PATHS = ("/data/upload/", "/data/local-files/", "/storage-data/", "upload/")
_JSON_MIN_FIELDS = frozenset({"annotation_id", "annotator", "lead_time"})

#: Gives the location of a mask for an item that names none but was drawn on; raises InputError when it cannot.
MaskMaker = Callable[[Mapping[str, Any], str], str | None]


@dataclass(frozen=True)
class Problem:
    """Why an item became no task, or an id chose none."""

    #: The item, such as `item 3 of export.json`, or the id asked for.
    where: str
    message: str
    #: The task id concerned, if it is known.
    task_id: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Export:
    """The tasks of an export in its order, and what is wrong with the rest."""

    origin: str
    tasks: tuple[Task, ...]
    problems: tuple[Problem, ...] = ()
    #: Label Studio's own ids (`id`, `inner_id`) and whose they are: such as `{"9000001": ("id", "71651078")}`.
    item_ids: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def read_export(
    path: Path,
    fields: Mapping[str, str] | None = None,
    *,
    label_studio_url: str | None = None,
    mask_maker: MaskMaker | None = None,
) -> Export:
    """Read the tasks of a JSON export; what is wrong with an item is reported and the others go on.

    `fields` names the field of an item for `id`, `name`, `init`, `mask`, `character` or `character_id`, in place of
    `USUAL_FIELDS`. Relative paths count from the export's folder. Paths on a Label Studio server (`/data/upload/…`)
    are completed with `label_studio_url`. `mask_maker` is asked for a mask where an item has none.

    Raises InputError when the file is no such export at all.
    """
    items = _items(path)
    if any(isinstance(item, dict) and "data" not in item and item.keys() & _JSON_MIN_FIELDS for item in items):
        raise InputError(f"{path} is a JSON_MIN export, which loses task ids and mask sizes: export as JSON instead.")
    reader = _Reader(
        path, {**USUAL_FIELDS, **{k: (v,) for k, v in (fields or {}).items()}}, label_studio_url, mask_maker
    )
    tasks: dict[str, Task] = {}
    taken: dict[str, int] = {}
    item_ids: dict[str, tuple[str, str]] = {}
    problems: list[Problem] = []
    for number, item in enumerate(items, start=1):
        where, task_id = f"item {number} of {path.name}", None
        try:
            data = _data(item)
            task_id = reader.task_id(data)
            if data is not item:
                item_ids |= {str(item[key]): (key, task_id) for key in ("inner_id", "id") if item.get(key) is not None}
            if task_id in taken:
                problems.append(
                    Problem(where, f"id {task_id} is taken by item {taken[task_id]}, which is kept.", task_id)
                )
                continue
            tasks[task_id] = reader.task(task_id, data, item)
            taken[task_id] = number
        except InputError as error:
            problems.append(Problem(where, str(error), task_id))
    return Export(str(path), tuple(tasks.values()), tuple(problems), item_ids)


def select(export: Export, ids: Iterable[str]) -> Export:
    """The tasks with these ids, in this order, and the problems that concern them; ids unknown become problems."""
    known = {task.id: task for task in export.tasks}
    tasks: list[Task] = []
    problems: list[Problem] = []
    for task_id in dict.fromkeys(ids):
        own = [problem for problem in export.problems if problem.task_id == task_id]
        problems += own
        if task_id in known:
            tasks.append(known[task_id])
        elif not own:
            problems.append(Problem(f"task {task_id}", _hint(task_id, export, known), task_id))
    return Export(export.origin, tuple(tasks), tuple(problems), export.item_ids)


def _hint(task_id: str, export: Export, known: Mapping[str, Task]) -> str:
    missing = f"there is no such data.id in {export.origin}"
    if task_id in export.item_ids:
        key, wanted = export.item_ids[task_id]
        return f"{missing}; it is Label Studio's own `{key}` of the item with data.id {wanted}: ask for {wanted}."
    if close := difflib.get_close_matches(task_id, known, n=1):
        return f"{missing}; did you mean {close[0]}?"
    some = ", ".join(list(known)[:5]) or "none"
    return f"{missing}; it has {some}{' and others' if len(known) > 5 else ''}."


def _items(path: Path) -> Sequence[Any]:
    try:
        if path.stat().st_size > MAX_EXPORT_BYTES:
            raise InputError(f"{path} is larger than {MAX_EXPORT_BYTES} bytes: export fewer tasks at a time.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text: export from Label Studio as JSON.") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        first_line = text.lstrip().split("\n", 1)[0]
        if path.suffix.lower() in {".csv", ".tsv"} or ("," in first_line and not first_line.startswith(("[", "{"))):
            raise InputError(f"{path} looks like CSV: export from Label Studio as JSON instead.") from error
        raise InputError(f"{path} is no valid JSON ({error}): export it from Label Studio again.") from error
    if isinstance(content, dict) and "data" in content:
        content = [content]
    if not isinstance(content, list):
        raise InputError(f"{path} holds no list of items: export from Label Studio as JSON.")
    if not content:
        raise InputError(f"{path} holds no items.")
    return content


def _data(item: Any) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise InputError("it is no object with fields.")
    data = item.get("data", item)
    if not isinstance(data, dict):
        raise InputError("its `data` is no object with fields.")
    return data


@dataclass(frozen=True)
class _Reader:
    path: Path
    fields: Mapping[str, tuple[str, ...]]
    label_studio_url: str | None
    mask_maker: MaskMaker | None

    def value(self, data: Mapping[str, Any], name: str) -> Any:
        return next((data[key] for key in self.fields[name] if data.get(key) not in (None, "")), None)

    def called(self, name: str) -> str:
        return " or ".join(f"`{key}`" for key in self.fields[name])

    def task_id(self, data: Mapping[str, Any]) -> str:
        value = self.value(data, "id")
        if value is None:
            raise InputError(f"it has no {self.called('id')} in its data, which is the task's id: add one.")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InputError(f"its id {value!r} is neither text nor a whole number.")
        text = str(value).strip()
        if not is_task_id(text):
            raise InputError(f"its id {text[:80]!r} must be 1 to 64 letters, digits, dots, dashes or underscores.")
        return text

    def task(self, task_id: str, data: Mapping[str, Any], item: Mapping[str, Any]) -> Task:
        character_id = self.value(data, "character_id")
        try:
            return Task(
                id=task_id,
                character_name=self.text(data, "name"),
                init=self.location(data, "init"),
                mask=self.mask(task_id, data, item),
                character=self.location(data, "character"),
                character_id=None if character_id is None else str(character_id),
                origin=str(self.path),
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}.") from error

    def text(self, data: Mapping[str, Any], name: str) -> str:
        value = self.value(data, name)
        if value is None:
            raise InputError(f"it has no {self.called(name)}; fill it, or name another field in `input.fields.{name}`.")
        if not isinstance(value, str) or any(unicodedata.category(c) in {"Cc", "Cs"} for c in value.strip()):
            raise InputError(f"its {self.called(name)} is no text of a single line.")
        return value.strip()

    def location(self, data: Mapping[str, Any], name: str) -> str:
        return locate(self.text(data, name), self.path.parent, self.called(name), self.label_studio_url)

    def mask(self, task_id: str, data: Mapping[str, Any], item: Mapping[str, Any]) -> str:
        if self.value(data, "mask") is None and self.mask_maker is not None:
            drawn = self.mask_maker(item, task_id)
            if drawn is not None:
                return drawn
        return self.location(data, "mask")


def locate(value: str, folder: Path, name: str, label_studio_url: str | None = None) -> str:
    """An http(s) URL as it is, a path made absolute from `folder`; `name` is what messages call it.

    Raises InputError for other kinds of addresses.
    """
    scheme, separator, _ = value.partition("://")
    if separator and scheme.lower() in {"http", "https"}:
        return value
    if separator:
        raise InputError(f"{name} is a {scheme}:// address; only http(s) URLs and local paths are read.")
    if value.startswith("data:"):
        raise InputError(f"{name} is a data: URL; save it as a file and give its path.")
    path = Path(os.path.normpath((folder / value).absolute()))
    if value.startswith(_SERVER_PATHS) and not path.exists():
        if label_studio_url is None:
            raise InputError(
                f"{name} is a path on a Label Studio server: set LABEL_STUDIO_URL to the server's address."
            )
        return f"{label_studio_url.rstrip('/')}/{_on_server(value)}"
    return str(path)


def _on_server(value: str) -> str:
    return f"data/{value}" if value.startswith("upload/") else value.lstrip("/")
