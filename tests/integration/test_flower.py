"""The real Flower beside a real cluster: through its API, and in headless Chromium as a person sees it."""

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from inpaint_eacps.commands.flower import check_free, environment
from shared.errors import ConfigurationError
from shared.settings import Settings
from tests.browser import CHROMIUM, Browser
from tests.fleet import Fleet, make_tasks

USER, PASSWORD = "night", "watch-7Q2x"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Night:
    """A cluster that did three tasks while Flower watched."""

    fleet: Fleet
    run: str
    folder: Path
    flower: httpx.Client
    pid: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(url: str, folder: Path, **more: str) -> Iterator[tuple[httpx.Client, int]]:
    """`inpaint-eacps flower`, with a client that knows the password; and its process id."""
    port = free_port()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "INPAINT_EACPS_BROKER__URL": url}
    env |= {"FLOWER_BASIC_AUTH": f"{USER}:{PASSWORD}", **more}
    with (folder / "flower.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "inpaint_eacps", "flower", "--port", str(port)],
            cwd=folder,
            env=env,
            stdout=log,
            stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=(USER, PASSWORD), timeout=20) as client:
            until(lambda: process.poll() is None and healthy(client), folder / "flower.log")
            yield client, process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/healthcheck").text == "OK"
    except httpx.TransportError:
        return False


def until(true: Callable[[], bool], log: Path, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def tasks_of(client: httpx.Client, search: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = client.get("/api/tasks", params={"search": search}).raise_for_status().json()
    return found


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    folder = tmp_path_factory.mktemp("night")
    tasks = make_tasks(folder / "in", 3)
    with (
        Fleet(folder, dispatch={"events": True}) as fleet,
        serving(fleet.cluster.url, folder, FLOWER_READ_ONLY="true", FLOWER_STATE_SAVE_INTERVAL="3000") as (client, pid),
    ):
        # Flower knows what it has seen: it is there before the tasks are.
        until(lambda: len(client.get("/api/workers", params={"refresh": "1"}).json()) == 4, folder / "flower.log")
        run = fleet.submit(tasks).run
        fleet.outcomes(run)
        until(
            lambda: sum(task["state"] == "SUCCESS" for task in tasks_of(client, "workers.generate").values()) == 24,
            folder / "flower.log",
        )
        yield Night(fleet, run, folder, client, pid)


@pytest.mark.valkey
def test_a_label_studio_id_finds_the_jobs_of_its_task_and_no_others(night: Night) -> None:
    found = tasks_of(night.flower, "t00001")
    made = {task["uuid"]: task for task in found.values() if task["name"] == "workers.generate"}
    wanted = [f"g{number:02d}" for number in range(4)]
    assert {f"gen-{night.run}-t00001-{candidate}-1" for candidate in wanted} <= set(made)
    assert len(made) == 8
    assert len([task for task in found.values() if task["name"] == "workers.score"]) == 8
    assert all("t00001" in f"{task['uuid']} {task['kwargs']}" for task in found.values())
    one = made[f"gen-{night.run}-t00001-g02-1"]
    assert one["kwargs"] == "task=t00001 candidate=g02 seed=5062 attempt=1"
    assert one["state"] == "SUCCESS"


@pytest.mark.valkey
def test_each_device_has_its_queue_with_its_worker_and_its_length(night: Night) -> None:
    workers = night.flower.get("/api/workers", params={"refresh": "1"}).raise_for_status().json()
    queues = {queue["name"] for worker in workers.values() for queue in worker["active_queues"]}
    assert queues == {"gpu.sim.0", "gpu.sim.1", "score", "prepare", "orchestrator", "publish"}
    lengths = night.flower.get("/api/queues/length").raise_for_status().json()["active_queues"]
    assert {"gpu.sim.0": 0, "gpu.sim.1": 0}.items() <= {each["name"]: each["messages"] for each in lengths}.items()


@pytest.mark.valkey
def test_nobody_gets_in_without_the_password_and_it_shows_nowhere(night: Night) -> None:
    with httpx.Client(base_url=night.flower.base_url) as stranger:
        for path in ("/", "/tasks", "/broker", "/api/tasks", "/api/workers", "/api/queues/length"):
            assert stranger.get(path).status_code == 401, path
            assert stranger.get(path, auth=(USER, "wrong")).status_code == 401, path
    secret = str(urlsplit(night.fleet.cluster.url).password)
    argv = Path(f"/proc/{night.pid}/cmdline").read_text()
    assert "flower" in argv
    shown = [argv, night.flower.get("/broker").text, night.flower.get("/workers").text]
    shown += [night.flower.get("/api/tasks").text, (night.folder / "flower.log").read_text()]
    for text in shown:
        assert secret not in text
        assert PASSWORD not in text


@pytest.mark.valkey
def test_read_only_means_that_nothing_can_be_stopped(night: Night) -> None:
    worker = next(iter(night.flower.get("/api/workers").json()))
    assert night.flower.post(f"/api/worker/shutdown/{worker}").status_code == 403
    assert night.flower.post("/api/task/revoke/any", params={"terminate": "true"}).status_code == 403


@pytest.mark.valkey
def test_its_histogram_has_room_for_minutes(night: Night) -> None:
    text = night.flower.get("/metrics").text
    bounds = {line.split('le="')[1].split('"')[0] for line in text.splitlines() if "runtime_seconds_bucket" in line}
    assert bounds == {"1.0", "5.0", "15.0", "30.0", "60.0", "120.0", "300.0", "600.0", "+Inf"}


@pytest.mark.valkey
def test_another_flower_on_the_same_file_knows_the_night(night: Night, tmp_path: Path) -> None:
    # Copied right after it was saved, so that it is not caught half written.
    now, saved = time.time(), (night.folder / "data/cache").glob
    until(lambda: any(file.stat().st_mtime > now for file in saved("flower*")), night.folder / "flower.log")
    time.sleep(0.5)
    for file in saved("flower*"):
        shutil.copy(file, tmp_path)
    with serving(night.fleet.cluster.url, tmp_path, FLOWER_DB=str(tmp_path / "flower")) as (client, _):
        assert len(tasks_of(client, "t00002")) == len(tasks_of(night.flower, "t00002")) > 8


@pytest.mark.valkey
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine (apt-get install chromium)")
def test_a_person_sees_tasks_and_queues_in_a_browser(night: Night, tmp_path: Path) -> None:
    word = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    rows = "[...document.querySelectorAll('#tasks-table tbody tr')].map(row => row.innerText)"
    with Browser(tmp_path / "profile", {"Authorization": f"Basic {word}"}) as browser:
        browser.open(f"{night.flower.base_url}/tasks")
        browser.wait_for(f"{rows}.length >= 10")
        browser.write("input[type=search]", "t00001")
        browser.wait_for(f"{rows}.length > 0 && {rows}.every(row => row.includes('t00001'))")
        (tmp_path / "tasks.png").write_bytes(browser.picture())
        browser.open(f"{night.flower.base_url}/broker")
        browser.wait_for("document.body.innerText.includes('gpu.sim.1')")
        assert "gpu.sim.0" in browser.ask("document.body.innerText")
        (tmp_path / "broker.png").write_bytes(browser.picture())
        browser.open(f"{night.flower.base_url}/workers")
        browser.wait_for("document.body.innerText.includes('gpu.sim.0@')")


def settings(url: str = "redis://127.0.0.1:1/0") -> Settings:
    return Settings.model_validate({"broker": {"url": url}})


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "", "10.1.2.3", "example.org"])
def test_it_does_not_listen_to_others_without_a_password(address: str) -> None:
    with pytest.raises(ConfigurationError, match="FLOWER_BASIC_AUTH"):
        environment(settings(), address, {})
    told = environment(settings(), address, {"FLOWER_BASIC_AUTH": "a:b"})
    assert told["FLOWER_BASIC_AUTH"] == "a:b"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_on_loopback_a_password_is_not_asked_for(address: str) -> None:
    assert "FLOWER_BASIC_AUTH" not in environment(settings(), address, {})


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} .*--port"):
            check_free("127.0.0.1", port)
    check_free("127.0.0.1", port)
    check_free("::1", 0)


@pytest.mark.parametrize("auth", ["watch", "night:", ":watch", "a:b,c"])
def test_a_password_without_a_user_is_refused(auth: str) -> None:
    with pytest.raises(ConfigurationError, match="user:password"):
        environment(settings(), "127.0.0.1", {"FLOWER_BASIC_AUTH": auth})


def test_the_password_may_come_from_a_file_and_every_option_from_outside(tmp_path: Path) -> None:
    (tmp_path / "auth").write_text("a:b\n")
    told = environment(
        settings(),
        "0.0.0.0",
        {"FLOWER_BASIC_AUTH_FILE": str(tmp_path / "auth"), "FLOWER_MAX_TASKS": "5", "HOME": "/root"},
    )
    assert told["FLOWER_BASIC_AUTH"] == "a:b"
    assert (told["FLOWER_MAX_TASKS"], told["HOME"], told["FLOWER_PERSISTENT"]) == ("5", "/root", "true")
    assert told["CELERY_BROKER_URL"] == "redis://127.0.0.1:1/0"
