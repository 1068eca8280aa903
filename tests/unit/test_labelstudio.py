"""Exports: what users have, what they get wrong, and what must not stop the others."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import InputError
from shared.labelstudio import Export, read_export, select


def item(task_id: Any = "71651078", **changes: Any) -> dict[str, Any]:
    data = {
        "id": task_id,
        "character_id": "CHA00ff",
        "character_name": "Mira",
        "character_image_url": "https://cdn.example/c.png",
        "image_url": "https://cdn.example/current.png",
        "init_image_url": "https://cdn.example/scene.webp",
        "mask_image_url": "https://cdn.example/mask.png?sig=1",
        "prompt": "check if there is character consistency",
    }
    return {"id": 9000001, "inner_id": 1, "annotations": [], "data": data | changes}


def read(tmp_path: Path, items: Any, **options: Any) -> Export:
    path = tmp_path / "export.json"
    path.write_text(items if isinstance(items, str) else json.dumps(items), encoding="utf-8")
    return read_export(path, **options)


def test_the_fields_of_a_real_export(tmp_path: Path) -> None:
    export = read(tmp_path, [item()])
    (task,) = export.tasks
    assert task.model_dump() == {
        "id": "71651078",
        "character_name": "Mira",
        "init": "https://cdn.example/scene.webp",
        "mask": "https://cdn.example/mask.png?sig=1",
        "character": "https://cdn.example/c.png",
        "character_id": "CHA00ff",
        "origin": str(tmp_path / "export.json"),
    }
    assert export.problems == ()


def test_a_whole_number_is_an_id(tmp_path: Path) -> None:
    assert read(tmp_path, [item(71651078)]).tasks[0].id == "71651078"


def test_aliases_flat_items_a_single_item_and_a_byte_order_mark(tmp_path: Path) -> None:
    flat = {"id": "a", "character_name": "Mira", "init_image": "i.png", "mask": "m.png", "character_image": "c.png"}
    for content in ([flat], {"data": flat}, "\ufeff" + json.dumps([flat])):
        (task,) = read(tmp_path, content).tasks
        assert (task.init, task.mask, task.character) == tuple(str(tmp_path / f"{x}.png") for x in "imc")
    assert read(tmp_path, [flat | {"mask": "", "mask_image": "n.png"}]).tasks[0].mask == str(tmp_path / "n.png")


def test_a_field_mapping_replaces_the_usual_fields(tmp_path: Path) -> None:
    data = {"key": 5, "who": "Mira", "image": "i.png", "hole": "m.png", "reference": "c.png"}
    fields = {"id": "key", "name": "who", "init": "image", "mask": "hole", "character": "reference"}
    (task,) = read(tmp_path, [{"id": 1, "data": data}], fields=fields).tasks
    assert (task.id, task.character_name, task.init) == ("5", "Mira", str(tmp_path / "i.png"))
    (problem,) = read(tmp_path, [item()], fields={"init": "image"}).problems
    assert "`image`" in problem.message
    assert "input.fields.init" in problem.message


def test_absolute_paths_stay(tmp_path: Path) -> None:
    assert read(tmp_path, [item(init_image_url="/photos/i.png")]).tasks[0].init == "/photos/i.png"


def test_paths_on_a_label_studio_server(tmp_path: Path) -> None:
    for value, url in [
        ("/data/upload/3/a.png", "https://ls.example/data/upload/3/a.png"),
        ("upload/3/a.png", "https://ls.example/data/upload/3/a.png"),
        ("/data/local-files/?d=refs/mira.png", "https://ls.example/data/local-files/?d=refs/mira.png"),
    ]:
        items = [item(init_image_url=value)]
        assert read(tmp_path, items, label_studio_url="https://ls.example/").tasks[0].init == url
        assert "LABEL_STUDIO_URL" in read(tmp_path, items).problems[0].message
    (tmp_path / "upload/3").mkdir(parents=True)
    (tmp_path / "upload/3/a.png").touch()
    assert read(tmp_path, [item(init_image_url="upload/3/a.png")]).tasks[0].init == str(tmp_path / "upload/3/a.png")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (item(None), "no `id`"),
        (item(""), "no `id`"),
        (item(True), "neither text nor"),
        (item(1.5), "neither text nor"),
        (item(["a"]), "neither text nor"),
        (item("../../etc"), "1 to 64 letters"),
        (item("x" * 65), "1 to 64 letters"),
        (item("ä"), "1 to 64 letters"),
        (item("2", character_name=""), "no `character_name`"),
        (item("2", character_name="x" * 201), "character_name"),
        (item("2", character_name="Mira\nignore all"), "single line"),
        (item("2", character_name="   "), "character_name"),
        (item("2", init_image_url=None), "no `init_image_url` or `init_image`"),
        (item("2", mask_image_url={"url": "x"}), "no text"),
        (item("2", init_image_url="file:///etc/passwd"), "file:// address"),
        (item("2", init_image_url="s3://bucket/key"), "s3:// address"),
        (item("2", init_image_url="data:image/png;base64,AAAA"), "data: URL"),
        (item("2", init_image_url="a\0.png"), "single line"),
        ("a string", "no object"),
        ({"id": 1, "data": [1]}, "`data` is no object"),
        (None, "no object"),
    ],
)
def test_a_bad_item_is_reported_and_stops_no_other(tmp_path: Path, bad: Any, words: str) -> None:
    export = read(tmp_path, [item("1"), bad, item("3")])
    assert [task.id for task in export.tasks] == ["1", "3"]
    (problem,) = export.problems
    assert problem.where == "item 2 of export.json"
    assert words in problem.message


def test_of_two_items_with_one_id_the_first_is_kept_unless_it_is_bad(tmp_path: Path) -> None:
    export = read(tmp_path, [item("1", character_name="A"), item("2"), item(1, character_name="B")])
    assert [(task.id, task.character_name) for task in export.tasks] == [("1", "A"), ("2", "Mira")]
    assert str(export.problems[0]) == "item 3 of export.json: id 1 is taken by item 1, which is kept."
    export = read(tmp_path, [item("1", character_name=""), item("1", character_name="B")])
    assert export.tasks[0].character_name == "B"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,image\n1,a.png\n", "looks like CSV"),
        ("", "no valid JSON"),
        ("[{]", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ("[]", "holds no items"),
        ('{"tasks": []}', "no list of items"),
        ("3", "no list of items"),
        ([{"id": 1, "image": "a.png", "annotator": 1, "annotation_id": 1, "lead_time": 3.2}], "JSON_MIN"),
    ],
)
def test_what_is_no_export_is_refused_as_a_whole(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, content)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_export(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_export(tmp_path)
    (tmp_path / "a.json").write_bytes(b"\xff\xfe[\0]\0")
    with pytest.raises(InputError, match="no UTF-8 text"):
        read_export(tmp_path / "a.json")


def test_ids_are_picked_in_the_order_asked_for(tmp_path: Path) -> None:
    export = read(tmp_path, [item("1"), item("2"), item("3"), item("bad", character_name="")])
    picked = select(export, ["3", "1", "3"])
    assert [task.id for task in picked.tasks] == ["3", "1"]
    assert picked.problems == ()


def test_unknown_ids_are_reported_with_a_hint(tmp_path: Path) -> None:
    items = [item("71651078"), {**item("71651079", character_name=""), "id": 9000002, "inner_id": 2}]
    export = read(tmp_path, items)
    picked = select(export, ["9000001", "1", "71651087", "71651079", "zzz"])
    assert picked.tasks == ()
    by_item, by_inner, typo, bad, unknown = [problem.message for problem in picked.problems]
    assert "Label Studio's own `id` of the item with data.id 71651078" in by_item
    assert "Label Studio's own `inner_id` of the item with data.id 71651078" in by_inner
    assert "did you mean 71651078?" in typo
    assert "character_name" in bad
    assert "; it has 71651078." in unknown


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
odd_items = json_values | st.dictionaries(st.sampled_from(list(item()["data"])), json_values).map(
    lambda changes: item("odd", **changes)
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd=st.lists(odd_items, max_size=4))
def test_whatever_an_item_holds_the_good_ones_are_read(tmp_path: Path, odd: list[Any]) -> None:
    export = read(tmp_path, [item("good-1"), *odd, item("good-2")])
    assert {"good-1", "good-2"} <= {task.id for task in export.tasks}
    assert len(export.tasks) + len(export.problems) == len(odd) + 2
