"""docker-compose.yml and Dockerfile, read as text; and the broker's configuration as a real Valkey takes it."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from inpaint_eacps.valkey import valkey_binary

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LONGEST_CANDIDATE_S = 900


def interpolated(text: str) -> str:
    """As compose does it with an empty environment: `${NAME:-default}` and `$$`."""
    filled = re.sub(r"(?<!\$)\$\{\w+:-([^}]*)\}", r"\1", text)
    assert not re.search(r"(?<!\$)\$[\w{]", filled.replace("$$", "")), "a variable without a default"
    return filled.replace("$$", "$")


COMPOSE: dict[str, Any] = yaml.safe_load(interpolated((ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
SERVICES: Mapping[str, Mapping[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name != "broker"}


def started(profile: str) -> set[str]:
    return {name for name, service in SERVICES.items() if profile in service.get("profiles", [profile])}


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([sm])", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


def test_profiles_start_what_they_say() -> None:
    common = {"broker", "orchestrator", "score", "flower", "metrics"}
    assert started("cpu") == common | {"worker-cpu"}
    assert started("gpu") == common | {"gpu-0"}
    assert started("gpu2") == common | {"gpu-0", "gpu-1"}
    assert started("gpu4") == common | {"gpu-0", "gpu-1", "gpu-2", "gpu-3"}


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert any(mount.startswith("/tmp:") for mount in service["tmpfs"])
    assert not {"privileged", "cap_add", "pid", "ipc", "network_mode", "devices"} & set(service)
    for mount in service.get("volumes", []):
        source, target, *mode = mount.split(":")
        assert source in COMPOSE["volumes"] or (target == "/inputs" and mode == ["ro"]), mount
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), port
    if name != "cli":
        assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", OURS)
def test_secrets_are_files_and_nothing_else(name: str) -> None:
    service = SERVICES[name]
    environment = service["environment"]
    assert environment["INPAINT_EACPS_BROKER__URL"] == "redis://broker:6379/0"
    assert environment["INPAINT_EACPS_BROKER__PASSWORD_FILE"] == "/run/secrets/broker_password"
    assert "broker_password" in service["secrets"]
    assert service["depends_on"] == {"broker": {"condition": "service_healthy"}}
    for variable, value in environment.items():
        if re.search(r"PASSWORD|KEY|AUTH|TOKEN", variable):
            assert variable.endswith("_FILE")
            assert value.removeprefix("/run/secrets/") in service["secrets"]


def test_secrets_and_results_stay_out_of_history_and_of_images() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert not {"secrets", "outputs", "data", ".git", ".env"} & kept
    for path in (secret["file"] for secret in COMPOSE["secrets"].values()):
        done = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False)
        assert done.returncode == 0, path


def test_each_gpu_has_a_service_a_queue_and_time_to_finish() -> None:
    gpus = {name: service for name, service in SERVICES.items() if name.startswith("gpu-")}
    seen = []
    for name, service in gpus.items():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]
        assert "count" not in device
        seen += device["device_ids"]
        # The queue is named after the host, and within its container every GPU is number 0.
        assert service["hostname"] == name
        assert service["command"] == ["worker", "--device", "cuda:0"]
        assert seconds(service["stop_grace_period"]) > LONGEST_CANDIDATE_S
        assert "models:/models" in service["volumes"]
        assert service["build"]["target"] == "gpu"
    assert seen == [str(number) for number in range(len(gpus))]


def test_parts_without_a_generator_run_without_torch_and_opencv() -> None:
    lite = {name for name, service in OURS.items() if service["build"]["target"] == "lite"}
    assert lite == {"orchestrator", "flower", "metrics"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy/requirements.py"), "flower", "metrics", "s3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not re.search(r"torch|opencv|scikit|diffusers|transformers", done.stdout)
    assert {"celery", "flower", "prometheus-client", "s3fs"} <= set(re.findall(r"^[\w-]+", done.stdout, re.MULTILINE))


@pytest.mark.parametrize("name", [name for name in OURS if name != "cli"])
def test_every_command_is_one_that_the_command_line_knows(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "inpaint_eacps", *SERVICES[name]["command"], "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"inpaint-eacps {SERVICES[name]['command'][0]}" in done.stdout


def test_gemini_gets_its_key_by_file_where_it_is_needed() -> None:
    overlay = yaml.safe_load((ROOT / "deploy/gemini.yml").read_text(encoding="utf-8"))
    assert set(overlay["services"]) == {"score", "cli"}
    for service in overlay["services"].values():
        assert service["environment"] == {"GEMINI_API_KEY_FILE": "/run/secrets/gemini_api_key"}
        assert service["secrets"] == ["gemini_api_key"]


def test_images_are_built_in_stages_on_a_base_of_ones_choice_and_run_as_nobody_special() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    names = [name for _, name in stages]
    assert len(stages) == len(re.findall(r"^FROM ", DOCKERFILE, re.MULTILINE))
    for base, name in stages:
        assert base == "${BASE_IMAGE}" or base in names[: names.index(name)]
    assert re.search(r"^ARG BASE_IMAGE=\S+$", DOCKERFILE, re.MULTILINE)
    for service in OURS.values():
        target = service["build"]["target"]
        assert ("runtime", target) in stages
        assert service["build"]["args"]["BASE_IMAGE"] in DOCKERFILE
    runtime = DOCKERFILE.split(" AS runtime")[1].split("\nFROM ")[0]
    assert re.search(r"^USER 10001:10001$", runtime, re.MULTILINE)
    assert "USER" not in DOCKERFILE.split("USER 10001:10001")[1]
    assert not re.search(r"https?://|index-url|trusted-host", DOCKERFILE)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """The broker's own command with its own words, except for the port and where things lie."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/valkey-server").symlink_to(valkey_binary())
    (tmp_path / "password").write_text("pass-word_9\n")
    script = str(SERVICES["broker"]["command"][-1]).replace("/run/secrets/broker_password", str(tmp_path / "password"))
    script = script.replace("dir /data", f"dir {tmp_path}").replace("bind *", f"bind 127.0.0.1\nport {port}")
    process = subprocess.Popen(
        [*SERVICES["broker"]["command"][:-1], script],
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield port, process
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.valkey
def test_the_broker_keeps_everything_and_lets_nobody_in_without_the_password(
    broker: tuple[int, "subprocess.Popen[bytes]"],
) -> None:
    port, process = broker
    with redis.Redis(port=port, password="pass-word_9", decode_responses=True) as client:
        deadline = time.monotonic() + 20
        while True:
            try:
                assert client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        settings = client.config_get("*")
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "everysec"
        assert settings["maxmemory-policy"] == "noeviction"
        assert settings["save"] == ""
        assert int(settings["maxmemory"]) == 2 * 2**30
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert "pass-word_9" not in Path(f"/proc/{process.pid}/cmdline").read_text()


def test_its_health_check_says_whether_it_answers() -> None:
    (_, check) = SERVICES["broker"]["healthcheck"]["test"]
    assert "REDISCLI_AUTH=$(cat /run/secrets/broker_password)" in check
    assert " -a " not in check
    assert "PONG" in check
