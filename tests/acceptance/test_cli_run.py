"""`run` and the cluster's commands as users start them: real processes, real Valkey, real results."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from inpaint_eacps.supervisor import Supervisor
from inpaint_eacps.valkey import EmbeddedValkey
from shared.images import decode
from tests.fleet import GENERATOR, SCORER, make_tasks

ROOT = Path(__file__).resolve().parents[2]
KEY = "AIzaTestKeyThatIsNoKey0123456789"
SIMULATED = ("--generator", GENERATOR, "--judge", SCORER, "--set", "scoring.gates=false", "--workers", "2")

pytestmark = pytest.mark.valkey


def environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("INPAINT_EACPS", "GEMINI"))}
    return {**kept, "PYTHONPATH": str(ROOT), **extra}


def start(words: Sequence[str], cwd: Path, **extra: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "inpaint_eacps", *words],
        cwd=cwd,
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cli(words: Sequence[str], cwd: Path, timeout: float = 120, **extra: str) -> subprocess.CompletedProcess[str]:
    with start(words, cwd, **extra) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.terminate()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def export(folder: Path, count: int) -> Path:
    """An export of `count` small tasks."""
    names = {"init_image_url": "init", "mask_image_url": "mask", "character_image_url": "character"}
    items = [
        {"data": {"id": task.id, "character_name": "Mira", **{key: getattr(task, name) for key, name in names.items()}}}
        for task in make_tasks(folder / "in", count)
    ]
    file = folder / "export.json"
    file.write_text(json.dumps(items), encoding="utf-8")
    return file


def left_over(folder: Path) -> list[psutil.Process]:
    """Living processes that were started for a run in `folder`: plans and broker configurations lie there."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(folder) in word for word in words):
            found.append(process)
    return found


def wait_for(condition: Any, timeout: float, what: str) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(0.05)


def metrics(folder: Path, task_id: str) -> dict[str, Any]:
    file = folder / f"outputs/inpaint_eacps/task_{task_id}/metrics.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def test_a_real_photo_from_the_command_to_the_result(tmp_path: Path) -> None:
    words = ["run", "--tasks", str(ROOT / "examples/project-label.json"), "--task_id", "71651078", "--json"]
    small = ["--k_global", "2", "--m_global", "1", "--k_local", "1", "--workers", "2"]
    done = cli([*words, *small], tmp_path, GEMINI_API_KEY=KEY, INPAINT_EACPS_SCORING__JUDGES="local")
    assert done.returncode == 0, done.stderr
    (outcome,) = (json.loads(line) for line in done.stdout.splitlines())
    assert (outcome["task_id"], outcome["state"], outcome["total_candidates"]) == ("71651078", "done", 3)
    assert "Generator: composite. Judges: local." in done.stderr

    folder = tmp_path / "outputs/inpaint_eacps/task_71651078"
    assert outcome["path"] == str(folder / "result.png")
    init, mask, result = (decode((folder / f"{name}.png").read_bytes()).pixels for name in ("init", "mask", "result"))
    assert np.array_equal(result[mask == 0], init[mask == 0])
    assert not np.array_equal(result[mask > 0], init[mask > 0])
    told = metrics(tmp_path, "71651078")
    assert told["best_potential"] == outcome["best_potential"]
    assert set(told["best_scores"]) == {"local_identity", "local_quality", "local_consistency"}
    assert [candidate["seed"] for candidate in told["candidates"]][:2] == [5000, 5031]
    assert (folder / "report.html").is_file()
    assert (tmp_path / "outputs/inpaint_eacps/index.html").is_file()
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in written if KEY.encode() in file.read_bytes()]
    assert not left_over(tmp_path)

    before = (folder / "metrics.json").stat().st_mtime_ns
    again = cli([*words, *small], tmp_path, INPAINT_EACPS_SCORING__JUDGES="local")
    assert again.returncode == 0
    assert json.loads(again.stdout)["state"] == "unchanged"
    assert "--force" in again.stderr
    assert (folder / "metrics.json").stat().st_mtime_ns == before

    (folder / "report.html").unlink()
    rendered = cli(["report"], tmp_path)
    assert rendered.stdout.strip() == str(folder / "report.html")
    assert (folder / "report.html").is_file()


def test_a_bad_task_and_an_unknown_id_stop_nobody(tmp_path: Path) -> None:
    file = export(tmp_path, 2)
    (tmp_path / "in/init1.png").write_bytes(b"no image")
    done = cli(["run", "--tasks", str(file), "t00000", "t00001", "nope", *SIMULATED], tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Left out: task nope" in done.stderr
    states = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert states == {"t00000": "done", "t00001": "failed"}
    assert "Tasks: 1 done, 1 failed" in done.stderr
    assert not left_over(tmp_path)


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind_and_goes_on_later(tmp_path: Path, sig: signal.Signals) -> None:
    file = export(tmp_path, 1)
    images = tmp_path / "outputs/inpaint_eacps/task_t00000/candidates"
    words = ["run", "--tasks", str(file), *SIMULATED]
    with start(words, tmp_path, SIMULATED_GENERATE_SECONDS="1") as process:
        wait_for(lambda: list(images.glob("g*.json")), 60, "a first candidate")
        assert left_over(tmp_path)
        process.send_signal(sig)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert not left_over(tmp_path)
    made = {
        record.stem
        for record in images.glob("[gl]*.json")
        if record.name.count(".json") and "scores" not in record.name
    }
    done = cli(words, tmp_path, SIMULATED_GENERATE_SECONDS="0.1")
    assert done.returncode == 0, done.stderr
    candidates = metrics(tmp_path, "t00000")["candidates"]
    assert len(candidates) == len({candidate["id"] for candidate in candidates}) == 8
    assert {candidate["id"] for candidate in candidates if candidate["reused"]} == made


def test_nothing_outlives_a_front_door_that_is_killed(tmp_path: Path) -> None:
    file = export(tmp_path, 1)
    with start(["run", "--tasks", str(file), *SIMULATED], tmp_path, SIMULATED_GENERATE_SECONDS="1") as process:
        wait_for(lambda: len(left_over(tmp_path)) >= 6, 60, "all processes")
        process.kill()
        process.communicate(timeout=10)
    wait_for(lambda: not left_over(tmp_path), 5, "all processes gone")
    (broker,) = tmp_path.glob("data/cache/runs/*/valkey")
    done = cli(["run", "--tasks", str(file), *SIMULATED], tmp_path)
    assert done.returncode == 0, done.stderr
    assert not broker.exists()


def test_a_device_worker_killed_in_mid_run_costs_nothing(tmp_path: Path) -> None:
    file = export(tmp_path, 2)
    images = tmp_path / "outputs/inpaint_eacps/task_t00000/candidates"
    quick = ["--set", "dispatch.heartbeat_ttl=3", "--set", "dispatch.lost_after=3"]
    with start(
        ["run", "--tasks", str(file), *SIMULATED, *quick], tmp_path, SIMULATED_GENERATE_SECONDS="0.5"
    ) as process:
        wait_for(lambda: list(images.glob("g*.json")), 60, "a first candidate")
        workers = [each for each in left_over(tmp_path) if "/device." in " ".join(each.cmdline())]
        workers[0].kill()
        out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert len(out.splitlines()) == 2
    for task_id in ("t00000", "t00001"):
        candidates = [candidate["id"] for candidate in metrics(tmp_path, task_id)["candidates"]]
        assert len(candidates) == len(set(candidates)) == 8


def test_what_cannot_work_is_said_before_anything_starts(tmp_path: Path) -> None:
    file = export(tmp_path, 1)
    (tmp_path / "file").write_text("in the way of a folder")
    blocked = str(tmp_path / "file/out")
    for words, message in (
        (["--output-dir", blocked], "publish.output_dir (--output-dir)"),
        (["--cache-dir", blocked], "input.cache_dir (--cache-dir)"),
        (["--output-dir", "nothing://x"], "publish.output_dir"),
        (["--judge", "gemini"], "GEMINI_API_KEY"),
        (["--generator", "no.module:Class"], "no.module:Class"),
    ):
        done = cli(["run", "--tasks", str(file), *words], tmp_path)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("data/cache/runs/*"))


def test_a_broker_that_does_not_answer(tmp_path: Path) -> None:
    file = export(tmp_path, 1)
    url = "redis://:hunter22@127.0.0.1:1/0"
    for words in (
        ["run", "--tasks", str(file)],
        ["submit", "--tasks", str(file), "--all"],
        ["status", "x"],
        ["worker"],
    ):
        done = cli(words, tmp_path, INPAINT_EACPS_BROKER__URL=url)
        assert done.returncode == 3, done.stderr
        assert "hunter22" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["submit", "--all"], ["status", "x"], ["wait", "x"], ["worker"], ["orchestrator"]])
def test_without_a_broker_the_message_says_how_to_name_one(tmp_path: Path, command: list[str]) -> None:
    export(tmp_path, 1).rename(tmp_path / "project-label.json")
    done = cli(command, tmp_path)
    assert done.returncode == 2
    assert "INPAINT_EACPS_BROKER__URL" in done.stderr


@contextmanager
def cluster(folder: Path, url: str) -> Iterator[None]:
    """An orchestrator, a score worker and two device workers, each started by its command."""
    common = {"INPAINT_EACPS_BROKER__URL": url, "SIMULATED_GENERATE_SECONDS": "0.2"}
    commands = (
        ["orchestrator"],
        ["worker", "--queue", "score", "--workers", "4"],
        ["worker", "--device", "cpu", "--workers", "2", "--generator", GENERATOR],
    )
    processes = []
    for number, words in enumerate(commands):
        with (folder / f"process{number}.log").open("w") as log:
            argv = [sys.executable, "-m", "inpaint_eacps", *words]
            processes.append(subprocess.Popen(argv, cwd=folder, env=environment(**common), stdout=log, stderr=log))
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            assert process.wait(30) == 0


def test_a_cluster_by_its_commands(tmp_path: Path) -> None:
    file = export(tmp_path, 3)
    brokers = Supervisor()
    valkey = EmbeddedValkey(tmp_path / "valkey", brokers)
    valkey.start()

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        return cli(words, tmp_path, INPAINT_EACPS_BROKER__URL=valkey.url)

    try:
        with cluster(tmp_path, valkey.url):
            submit = ("submit", "--tasks", str(file), "--generator", GENERATOR, "--judge", SCORER)
            submitted = ask(*submit, "--set", "scoring.gates=false", "t00000", "t00001")
            assert submitted.returncode == 0, submitted.stderr
            run_id = submitted.stdout.strip()
            waited = ask("wait", run_id, "--json")
            assert waited.returncode == 0, waited.stderr
            assert {json.loads(line)["task_id"] for line in waited.stdout.splitlines()} == {"t00000", "t00001"}
            told = json.loads(ask("status", run_id, "--json").stdout)
            assert (told["total"], told["tasks"]) == (2, {"done": 2})
            assert len(told["devices"]) == 2

            nobodys = ask("submit", "--tasks", str(file), "--generator", "tests.broken:BrokenGenerator", "--all")
            assert "No device that is up runs tests.broken:BrokenGenerator" in nobodys.stderr
            assert "3 tasks cancelled" in ask("cancel", nobodys.stdout.strip()).stdout

            slow = ask(*submit, "--set", "scoring.gates=false", "--k_global", "200", "t00002").stdout.strip()
            assert "1 tasks cancelled" in ask("cancel", slow).stdout
            assert ask("wait", slow).returncode == 1
            again = ask("retry", slow)
            assert again.returncode == 0
            assert again.stdout.strip() not in ("", slow)
            ask("cancel", again.stdout.strip())
            for words in (["status", "nope"], ["retry", "nope"]):
                unknown = ask(*words)
                assert unknown.returncode == 2
                assert "the latest are" in unknown.stderr
            strange = ask("worker", "--queue", "nope")
            assert strange.returncode == 2
            assert "choose among score, prepare" in strange.stderr
            lost = ask("resume", run_id)
            assert lost.returncode == 2
            assert "is not lost" in lost.stderr
    finally:
        brokers.stop(5)
    logs = "".join(log.read_text() for log in tmp_path.glob("process*.log"))
    assert valkey.url.split(":")[2].split("@")[0] not in logs
    assert not left_over(tmp_path)
