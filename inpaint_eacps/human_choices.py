"""What people said of results, from a Label Studio export."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inpaint_eacps.agreement import Choice
from shared.errors import InputError
from shared.labelstudio import locate, read_export
from shared.settings.input import InputSettings
from shared.types import Task

RESULT_FIELD = "image_url"


@dataclass(frozen=True)
class Labelled:
    """A result that people judged: its task, where its image is, and what most of them chose."""

    task: Task
    result: str
    choice: Choice


@dataclass(frozen=True)
class HumanChoices:
    """Everything usable in an export, and what is wrong with the rest, one sentence each."""

    labelled: tuple[Labelled, ...]
    problems: tuple[str, ...]


def read_choices(path: Path, settings: InputSettings, label_studio_url: str | None = None) -> HumanChoices:
    """Read an export's human choices on `data.image_url`. Several people's choices are settled by the majority.

    Items without an image or a choice are passed over in silence: nobody judged them. Raises InputError when the file
    is no export, or nothing in it can be used.
    """
    export = read_export(path, settings.fields, label_studio_url=label_studio_url)
    tasks = {task.id: task for task in export.tasks}
    problems = [str(problem) for problem in export.problems]
    labelled: dict[str, Labelled] = {}
    id_field = settings.fields.get("id", "id")
    for item in _items(path):
        data = item["data"] if isinstance(item.get("data"), Mapping) else item
        task = tasks.get(str(data.get(id_field, "")).strip())
        source = data.get(RESULT_FIELD)
        votes = Counter(_votes(item))
        if task is None or task.id in labelled or not isinstance(source, str) or not source.strip() or not votes:
            continue
        (first, most), *others = votes.most_common()
        if others and others[0][1] == most:
            problems.append(f"task {task.id}: people disagree ({first.value} or {others[0][0].value}); left out.")
            continue
        try:
            where = locate(source.strip(), path.parent, f"`{RESULT_FIELD}`", label_studio_url)
        except InputError as error:
            problems.append(f"task {task.id}: {error}")
            continue
        labelled[task.id] = Labelled(task, where, first)
    if not labelled:
        reasons = "".join(f"\n  {problem}" for problem in problems)
        names = ", ".join(f"“{choice.value}”" for choice in Choice)
        raise InputError(
            f"{path} holds no result that people judged: items need `data.{RESULT_FIELD}` and an annotation with one "
            f"of the choices {names}.{reasons}"
        )
    return HumanChoices(tuple(labelled.values()), tuple(problems))


def _items(path: Path) -> Sequence[Mapping[str, Any]]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    return [item for item in (content if isinstance(content, list) else [content]) if isinstance(item, Mapping)]


def _votes(item: Mapping[str, Any]) -> Iterator[Choice]:
    """One choice per annotation that was not cancelled; several choices in one count as the worst of them."""
    names = {choice.value: choice for choice in Choice}
    for annotation in _list(item.get("annotations")):
        if not isinstance(annotation, Mapping) or annotation.get("was_cancelled"):
            continue
        chosen = {
            names[name]
            for result in _list(annotation.get("result"))
            if isinstance(result, Mapping) and isinstance(result.get("value"), Mapping)
            for name in _list(result["value"].get("choices"))
            if isinstance(name, str) and name in names
        }
        if chosen:
            yield max(chosen, key=list(Choice).index)


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []
