"""The artifact store on a folder: whole files, checked bytes, no way out of the root."""

import errno
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import artifacts
from shared.artifacts import ArtifactCorrupt, ArtifactMissing, ArtifactName, ArtifactStore
from shared.errors import ConfigurationError, InpaintError, Permanent, Retryable


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


def test_what_is_written_is_read(store: ArtifactStore) -> None:
    reference = store.write("task_1/init.png", b"pixels")
    assert store.read(reference) == store.read("task_1/init.png") == b"pixels"
    assert reference.sha256 == artifacts.digest(b"pixels")
    assert store.exists("task_1/init.png")
    assert not store.exists("task_1")


def test_a_changed_file_is_told_from_what_was_written(store: ArtifactStore) -> None:
    reference = store.write("a.png", b"pixels")
    path = store.local_path("a.png")
    assert path is not None
    path.write_bytes(b"pixel5")
    with pytest.raises(ArtifactCorrupt, match=r"a\.png was changed"):
        store.read(reference)
    assert store.read("a.png") == b"pixel5"


def test_a_missing_file_is_named(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactMissing, match=r"task_7/init\.png: it does not exist"):
        store.read("task_7/init.png")


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a\\b", "a\nb", "a\0b", "~/x", "C:/x", "ü"]
)
def test_no_name_leads_out_of_the_root(store: ArtifactStore, name: str) -> None:
    for call in (
        lambda: store.write(name, b""),
        lambda: store.read(name),
        lambda: store.exists(name),
        lambda: store.local_path(name),
        lambda: store.move("a", name),
    ):
        with pytest.raises(ArtifactName):
            call()
    if name not in {"", "a/"}:
        with pytest.raises(ArtifactName):
            store.delete(name)


@given(st.text(alphabet="ab./-_\\ \n~", max_size=12))
def test_every_accepted_name_lies_below_the_root(name: str) -> None:
    root = Path("/store")
    try:
        path = ArtifactStore(str(root)).local_path(name)
    except ArtifactName:
        return
    assert path is not None
    assert Path(os.path.normpath(path)).is_relative_to(root)
    assert path != root


def test_folders_are_not_prefixes_of_strings(store: ArtifactStore) -> None:
    for name in ("task_1/a.png", "task_1/candidates/g00.png", "task_10/a.png", "b.json"):
        store.write(name, b"")
    assert store.list() == ("b.json", "task_1/a.png", "task_1/candidates/g00.png", "task_10/a.png")
    assert store.list("task_1") == store.list("task_1/") == ("task_1/a.png", "task_1/candidates/g00.png")
    assert store.list("nothing") == ()
    store.delete("task_1")
    store.delete("nothing")
    assert store.list() == ("b.json", "task_10/a.png")


def test_move_takes_a_folder_whole_and_overwrites_nothing(store: ArtifactStore) -> None:
    store.write("task_1/a.png", b"old")
    store.write("task_1/candidates/g00.png", b"old")
    store.move("task_1", "earlier/task_1")
    assert store.list() == ("earlier/task_1/a.png", "earlier/task_1/candidates/g00.png")
    store.write("task_1/a.png", b"new")
    with pytest.raises(Permanent, match="exists already"):
        store.move("task_1", "earlier/task_1")
    with pytest.raises(ArtifactMissing):
        store.move("task_2", "task_3")
    with pytest.raises(ArtifactName, match="into itself"):
        store.move("task_1", "task_1/old")
    assert store.read("task_1/a.png") == b"new"


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("task_1/a.png", b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Retryable, match="disk is full"):
        store.write("task_1/a.png", b"new")
    assert store.read("task_1/a.png") == b"old"
    folder = store.local_path("task_1")
    assert folder is not None
    assert [path.name for path in folder.iterdir()] == ["a.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device_is_said(store: ArtifactStore) -> None:
    store.write("a", b"")
    with store._explained("write", "a"), pytest.raises(OSError, match="No space left") as caught:  # noqa: SIM117
        with open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123
            file.write(b"x")
    with pytest.raises(Retryable, match="Free some space"), store._explained("write", "a"):
        raise caught.value


def test_a_folder_in_the_way_is_permanent(store: ArtifactStore) -> None:
    store.write("a", b"a file")
    with pytest.raises(Permanent, match="Could not write"):
        store.write("a/b", b"x")


def test_readers_never_see_a_part(store: ArtifactStore) -> None:
    whole = {bytes([number]) * 300_000 for number in range(8)}
    store.write("a", next(iter(whole)))
    stop = threading.Event()

    def read() -> int:
        count = 0
        while not stop.is_set():
            assert store.read("a") in whole
            count += 1
        return count

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        list(pool.map(lambda data: store.write("a", data), list(whole) * 5))
        stop.set()
        assert all(reader.result() > 0 for reader in readers)
    assert store.list() == ("a",)


def test_a_store_travels_to_another_process(store: ArtifactStore) -> None:
    store.write("a", b"x")
    twin = pickle.loads(pickle.dumps(store))
    assert twin.read("a") == b"x"
    assert len(pickle.dumps(store)) < 500


def test_a_relative_root_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = ArtifactStore("out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.write("a", b"x")
    assert (tmp_path / "out" / "a").read_bytes() == b"x"


def test_file_urls_are_folders(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}/out")
    store.write("a", b"x")
    assert (tmp_path / "out" / "a").read_bytes() == b"x"
    assert store.where("a") == str(tmp_path / "out" / "a")


def test_an_unknown_url_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"publish\.output_dir"):
        ArtifactStore("nosuchscheme://bucket").list()


def test_memory_urls_keep_the_same_promises() -> None:
    store = ArtifactStore("memory://artifacts-test")
    reference = store.write("task_1/a.png", b"x")
    store.write("task_10/a.png", b"y")
    assert store.read(reference) == b"x"
    assert store.list("task_1") == ("task_1/a.png",)
    store.move("task_1", "earlier/task_1")
    assert store.list() == ("earlier/task_1/a.png", "task_10/a.png")
    store.delete("task_10")
    assert store.list() == ("earlier/task_1/a.png",)
    assert store.local_path("a") is None
    with pytest.raises(ArtifactMissing):
        store.read("task_1/a.png")


def test_credentials_in_a_url_are_never_shown() -> None:
    store = ArtifactStore("sftp://someone:secret-word@host/path")
    assert store.where("a") == "sftp://host/path/a"
    assert "secret-word" not in repr(store)


CANDIDATES = st.from_regex(r"[a-z][0-9]{2,6}(\.[0-9]{1,6}){0,2}", fullmatch=True)


@given(st.tuples(CANDIDATES, st.integers(1, 30)), st.tuples(CANDIDATES, st.integers(1, 30)))
def test_no_two_attempts_share_a_name(one: tuple[str, int], other: tuple[str, int]) -> None:
    for naming in (
        artifacts.candidate_image_name,
        artifacts.candidate_record_name,
        artifacts.candidate_scores_name,
        lambda task, candidate, attempt: artifacts.candidate_extra_name(task, candidate, attempt, "latents"),
    ):
        names = naming("7", *one), naming("7", *other)
        assert (names[0] == names[1]) == (one == other)
        assert artifacts.check_name(names[0]) == names[0]
    assert artifacts.parse_record_name(artifacts.candidate_record_name("7", *one)) == one
    for other_name in (artifacts.candidate_image_name("7", *one), artifacts.candidate_scores_name("7", *one)):
        assert artifacts.parse_record_name(other_name) is None


def test_names_are_as_documented() -> None:
    assert artifacts.candidate_image_name("71651078", "g03") == "task_71651078/candidates/g03.png"
    assert artifacts.candidate_record_name("7", "l01.0", 2) == "task_7/candidates/l01.0-2.json"
    assert artifacts.candidate_scores_name("7", "g03") == "task_7/candidates/g03.scores.json"
    assert artifacts.candidate_extra_name("7", "g03", 1, "latents") == "task_7/candidates/g03.latents.safetensors"


@pytest.mark.parametrize("task_id", [".", "..", "...", "-", "a.b"])
def test_odd_task_ids_stay_in_their_folder(store: ArtifactStore, task_id: str) -> None:
    store.write(artifacts.task_file(task_id, "init.png"), b"x")
    assert store.list(artifacts.task_folder(task_id)) == (f"task_{task_id}/init.png",)


def test_errors_are_ours() -> None:
    assert issubclass(ArtifactMissing, InpaintError)
    assert issubclass(ArtifactCorrupt, Permanent)
