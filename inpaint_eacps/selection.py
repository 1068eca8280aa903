"""Which tasks a command is about: those of an export, or a single one given by its images."""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pydantic import ValidationError

from inpaint_eacps.arguments import Arguments
from shared.errors import ConfigurationError, InputError
from shared.labelstudio import Problem, locate, read_export, select
from shared.settings import Settings
from shared.types import Task
from workers.preparation.drawn import mask_maker

#: Taken when neither an export nor images are given.
USUAL_EXPORT = Path("project-label.json")


@dataclass(frozen=True)
class Selection:
    """The tasks to do, and what is wrong with the rest; one bad task never stops the others."""

    tasks: tuple[Task, ...]
    problems: tuple[Problem, ...] = ()


def select_tasks(arguments: Arguments, settings: Settings, env: Mapping[str, str]) -> Selection:
    """The tasks that the flags name.

    Raises ConfigurationError when the flags contradict each other or name nothing, InputError when an export cannot
    be read or not one task is left.
    """
    single = {"--init": arguments.init, "--mask": arguments.mask, "--character": arguments.character}
    ids = wanted_ids(arguments)
    if any(single.values()) or arguments.name or arguments.id:
        return Selection((_single_task(arguments, single, ids),))
    export = read_export(
        _export(arguments),
        settings.input.fields,
        label_studio_url=env.get("LABEL_STUDIO_URL") or None,
        mask_maker=mask_maker(settings.input),
    )
    chosen = select(export, ids) if ids else export
    if not chosen.tasks:
        reasons = "\n".join(f"  {problem}" for problem in chosen.problems)
        raise InputError(f"Not one task of {export.origin} can be done:\n{reasons}")
    return Selection(chosen.tasks, chosen.problems)


def wanted_ids(arguments: Arguments) -> tuple[str, ...]:
    """Task ids from arguments, --task-id, --from-file and, for `-`, stdin; each once, in this order."""
    ids: list[str] = []
    for word in (*arguments.tasks_wanted, *arguments.task_id):
        ids += _ids_from_stdin() if word == "-" else [word]
    if arguments.from_file is not None:
        ids += _ids_from_stdin() if str(arguments.from_file) == "-" else _ids_from_file(arguments.from_file)
    return tuple(dict.fromkeys(ids))


def _ids_from_stdin() -> list[str]:
    """Raises ConfigurationError where there are none: no id is not every id."""
    if ids := _lines(sys.stdin):
        return ids
    raise ConfigurationError("-: there is no task id on stdin; leave the `-` out to do all tasks.")


def _ids_from_file(file: Path) -> list[str]:
    try:
        ids = _lines(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(f"--from-file: cannot read {file}: {reason}.") from error
    if not ids:
        raise ConfigurationError(f"--from-file: there is no task id in {file}.")
    return ids


def _lines(lines: Iterable[str]) -> list[str]:
    """One id per line; what follows a # is a remark."""
    return [text for line in lines if (text := line.partition("#")[0].strip())]


def _export(arguments: Arguments) -> Path:
    if arguments.tasks is not None:
        return arguments.tasks
    if USUAL_EXPORT.is_file():
        return USUAL_EXPORT
    raise ConfigurationError(
        "No tasks: give --tasks EXPORT.json, or --init, --mask, --character and --name for a single one; "
        f"without either, {USUAL_EXPORT} in the working directory is read, and there is none."
    )


def _single_task(arguments: Arguments, images: Mapping[str, str | None], ids: tuple[str, ...]) -> Task:
    missing = [flag for flag, value in {**images, "--name": arguments.name}.items() if not value]
    if missing:
        raise ConfigurationError(f"A single task needs {', '.join(missing)} too.")
    if arguments.tasks is not None or len(ids) > 1:
        raise ConfigurationError("Give either --tasks or a single task's images, not both.")
    where = {flag: locate(value or "", Path(), flag) for flag, value in images.items()}
    for flag, place in where.items():
        if "://" not in place and not Path(place).is_file():
            raise InputError(f"{flag}: there is no file {place}.")
    try:
        return Task(
            id=arguments.id or (ids[0] if ids else _id_from(where["--init"])),
            character_name=arguments.name or "",
            init=where["--init"],
            mask=where["--mask"],
            character=where["--character"],
        )
    except ValidationError as error:
        wrong = "--name" if error.errors()[0]["loc"] == ("character_name",) else "--id"
        rule = "1 to 200 characters" if wrong == "--name" else "1 to 64 of A-Z a-z 0-9 . _ -"
        raise ConfigurationError(f"{wrong} must be {rule}.") from error


def _id_from(place: str) -> str:
    stem = PurePosixPath(urlsplit(place).path if "://" in place else place).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")[:64] or "task"
