"""Which tasks a command is about."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from inpaint_eacps.arguments import Arguments
from inpaint_eacps.selection import select_tasks
from shared.errors import ConfigurationError, InputError
from shared.settings import Settings
from shared.settings.load import load_settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with three images."""
    monkeypatch.chdir(tmp_path)
    for name in ("init.png", "mask.png", "character.png"):
        (tmp_path / name).write_bytes(b"not decoded here")
    return tmp_path


def item(task_id: str) -> dict[str, object]:
    images = {"init_image_url": "init.png", "mask_image_url": "mask.png", "character_image_url": "character.png"}
    return {"id": 1, "data": {"id": task_id, "character_name": "Mira", **images}}


def export(folder: Path, *ids: str, name: str = "export.json") -> Path:
    file = folder / name
    file.write_text(json.dumps([item(task_id) for task_id in ids]), encoding="utf-8")
    return file


def chosen(arguments: Arguments, settings: Settings | None = None) -> list[str]:
    return [task.id for task in select_tasks(arguments, settings or Settings(), {}).tasks]


def test_all_tasks_of_an_export(folder: Path) -> None:
    assert chosen(Arguments(tasks=export(folder, "a", "b"))) == ["a", "b"]


def test_ids_pick_in_their_order_and_unknown_ones_are_reported(folder: Path) -> None:
    arguments = Arguments(tasks=export(folder, "a", "b", "c"), tasks_wanted=("c",), task_id=("a", "nope", "c"))
    selection = select_tasks(arguments, Settings(), {})
    assert [task.id for task in selection.tasks] == ["c", "a"]
    assert [problem.task_id for problem in selection.problems] == ["nope"]


def test_ids_from_a_file_with_remarks(folder: Path) -> None:
    (folder / "ids.txt").write_text("a # first\n\n# none\nc\n", encoding="utf-8")
    arguments = Arguments(tasks=export(folder, "a", "b", "c"), from_file=folder / "ids.txt")
    assert chosen(arguments) == ["a", "c"]


def test_ids_from_stdin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("b\n"))
    assert chosen(Arguments(tasks=export(folder, "a", "b"), tasks_wanted=("-",))) == ["b"]


def test_an_empty_file_of_ids_is_not_all_tasks(folder: Path) -> None:
    (folder / "ids.txt").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="no task id"):
        chosen(Arguments(tasks=export(folder, "a"), from_file=folder / "ids.txt"))


@pytest.mark.parametrize("arguments", [Arguments(tasks_wanted=("-",)), Arguments(from_file=Path("-"))])
def test_no_id_on_stdin_is_not_all_tasks(folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: Arguments) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("# nothing\n"))
    with pytest.raises(ConfigurationError, match="no task id on stdin"):
        chosen(replace(arguments, tasks=export(folder, "a")))


def test_the_usual_export_is_taken(folder: Path) -> None:
    export(folder, "a", name="project-label.json")
    assert chosen(Arguments()) == ["a"]


@pytest.mark.usefixtures("folder")
def test_without_anything_the_message_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"--tasks EXPORT\.json, or --init"):
        chosen(Arguments())


def test_not_one_task_left_is_an_error_with_the_reasons(folder: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)Not one task.*task nope"):
        chosen(Arguments(tasks=export(folder, "a"), task_id=("nope",)))


def test_the_configured_field_names_are_used(folder: Path) -> None:
    data = {"id": "a", "character_name": "Mira", "scene": "init.png", "mask": "mask.png", "character_image": "c.png"}
    (folder / "export.json").write_text(json.dumps([{"data": data}]), encoding="utf-8")
    settings = load_settings([], {"INPAINT_EACPS_INPUT__FIELDS": "init=scene"}).settings
    assert chosen(Arguments(tasks=folder / "export.json"), settings) == ["a"]


SINGLE = Arguments(init="init.png", mask="mask.png", character="character.png", name="Mira")


def test_a_single_task(folder: Path) -> None:
    (task,) = select_tasks(SINGLE, Settings(), {}).tasks
    assert (task.id, task.character_name) == ("init", "Mira")
    assert task.init == str(folder / "init.png")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ("https://host/a%20b/Scene (1).png?sig=x", "Scene-1"),
        ("https://host/", "task"),
        ("https://host/x.y.webp", "x.y"),
    ],
)
def test_the_id_of_a_single_task_comes_from_its_image(init: str, expected: str) -> None:
    arguments = Arguments(init=init, mask="mask.png", character="character.png", name="Mira")
    assert chosen(arguments) == [expected]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (Arguments(init="init.png", name="Mira"), "needs --mask, --character too"),
        (Arguments(name="Mira"), "needs --init, --mask, --character too"),
        (Arguments(init="init.png", mask="mask.png", character="character.png"), "needs --name too"),
        (Arguments(init="init.png", mask="mask.png", character="character.png", name="M", id="a/b"), "--id must be"),
        (Arguments(init="init.png", mask="mask.png", character="character.png", name=" "), "--name must be"),
        (Arguments(init="init.png", mask="mask.png", character="c.png", name="M"), "--character: there is no file"),
        (
            Arguments(tasks=Path("x.json"), init="init.png", mask="mask.png", character="character.png", name="M"),
            "not both",
        ),
    ],
)
def test_a_wrong_single_task_is_refused(arguments: Arguments, words: str) -> None:
    with pytest.raises((ConfigurationError, InputError), match=words):
        chosen(arguments)
