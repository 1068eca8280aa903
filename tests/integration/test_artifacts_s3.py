"""The artifact store against a real server that speaks S3, through s3fs."""

import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from inpaint_eacps.child import ChildPlan
from shared.artifacts import ArtifactCorrupt, ArtifactMissing, ArtifactStore
from shared.errors import InpaintError, Permanent, Retryable
from shared.outcome import TaskState
from shared.types import ArtifactRef
from tests.fleet import GENERATOR, Fleet, make_tasks

BUCKET = "artifacts"

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArtifactStore]:
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test-id",
        "AWS_SECRET_ACCESS_KEY": "test-word",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield ArtifactStore(f"s3://{BUCKET}/runs/today")
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    client.delete_bucket(Bucket=BUCKET)
    client.close()


def test_an_object_store_keeps_the_folder_s_promises(store: ArtifactStore) -> None:
    reference = store.write("task_1/candidates/g00.png", b"pixels")
    store.write("task_10/init.png", b"other")
    assert store.read(reference) == b"pixels"
    assert store.exists("task_1/candidates/g00.png")
    assert not store.exists("task_1/candidates")
    assert store.list("task_1") == ("task_1/candidates/g00.png",)
    assert store.list() == ("task_1/candidates/g00.png", "task_10/init.png")
    assert store.list("nothing") == ()
    store.delete("task_10")
    store.delete("task_10")
    assert store.list() == ("task_1/candidates/g00.png",)


def test_another_process_sees_it_at_once(store: ArtifactStore) -> None:
    assert not store.exists("a.json")
    assert store.list() == ()
    ArtifactStore(store.url).write("a.json", b"1")
    assert store.exists("a.json")
    assert store.list() == ("a.json",)
    ArtifactStore(store.url).write("a.json", b"2")
    assert store.read("a.json") == b"2"


def test_move(store: ArtifactStore) -> None:
    store.write("task_1/a.png", b"1")
    store.write("task_1/candidates/g00.png", b"2")
    store.write("task_10/a.png", b"3")
    store.move("task_1", "earlier/task_1")
    assert store.list() == ("earlier/task_1/a.png", "earlier/task_1/candidates/g00.png", "task_10/a.png")
    with pytest.raises(Permanent, match="exists already"):
        store.move("task_10", "earlier/task_1")
    with pytest.raises(ArtifactMissing):
        store.move("task_2", "task_3")


def test_missing_and_changed_objects(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactMissing, match="does not exist"):
        store.read("task_1/a.png")
    reference = store.write("task_1/a.png", b"1")
    store.write("task_1/a.png", b"2")
    with pytest.raises(ArtifactCorrupt):
        store.read(reference)


def test_a_large_object_is_whole(store: ArtifactStore) -> None:
    data = bytes(range(256)) * 40_000
    assert store.read(store.write("latents", data)) == data


def _read(store: ArtifactStore, reference: ArtifactRef, pipe: "multiprocessing.connection.Connection") -> None:
    try:
        pipe.send(store.read(reference))
    except InpaintError as error:
        pipe.send(error)


def test_a_store_opened_before_a_fork_works_after_it(store: ArtifactStore) -> None:
    reference = store.write("a", b"x")
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_read, args=(store, reference, there))
    child.start()
    try:
        assert here.poll(30)
        assert here.recv() == b"x"
    finally:
        child.join(10)
        child.kill()
        here.close()
        there.close()
    assert store.read(reference) == b"x"


def test_it_travels_without_credentials(store: ArtifactStore) -> None:
    reference = store.write("a", b"x")
    packed = pickle.dumps(store)
    assert b"test-word" not in packed
    assert pickle.loads(packed).read(reference) == b"x"


def test_a_missing_bucket_is_an_error_of_ours(store: ArtifactStore) -> None:
    with pytest.raises((Retryable, Permanent), match="s3://no-such-bucket/a"):
        ArtifactStore("s3://no-such-bucket").write("a", b"x")


@pytest.mark.valkey
def test_hosts_that_share_a_bucket_and_nothing_else_finish_a_run(store: ArtifactStore, tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    with Fleet(tmp_path, devices=1, generate=0.1, publish={"output_dir": store.url, "report": True}) as fleet:
        # Another host: another cache, another working directory, no sight of the inputs.
        elsewhere = fleet.settings.model_copy(
            update={"input": fleet.settings.input.model_copy(update={"cache_dir": str(tmp_path / "far" / "cache")})}
        )
        fleet.join(
            "device.far.0", ChildPlan(role="device", settings=elsewhere, device="far.0", generators=(GENERATOR,))
        )
        fleet.wait_until_ready(2)
        run = fleet.submit(tasks)
        fleet.finish(run.run, tasks)
        devices = {each["device"] for task in tasks for each in fleet.metrics(task.id)["candidates"]}
        assert devices == {"sim.0", "far.0"}
        assert {f"task_{task.id}/report.html" for task in tasks} <= set(store.list())
        again = fleet.outcomes(fleet.submit(tasks).run)
        assert {outcome.state for outcome in again} == {TaskState.UNCHANGED}
    assert not (tmp_path / "out").exists()
