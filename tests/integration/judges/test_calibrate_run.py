"""`calibrate` from end to end: a noisy judge behind the local server, and the shipped examples with the local one."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import gemini_server as gs
from tests.gemini_server import GeminiServer
from tests.judge_support import KEY

pytestmark = [pytest.mark.valkey, pytest.mark.slow]

EXPORT = Path(__file__).parents[3] / "examples" / "project-label.json"


def run(tmp_path: Path, *flags: str, **env: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if "API_KEY" not in name}
    command = [sys.executable, "-m", "inpaint_eacps", "calibrate", str(EXPORT), "--output-dir", str(tmp_path), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, env=clean | env, check=False)


def test_the_examples_with_the_local_judge(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "AUC of potential" in done.stdout
    assert "the same every time" in done.stdout
    assert (tmp_path / "calibration" / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_a_noisy_judge_is_found_out_and_paid_for_once(server: GeminiServer, tmp_path: Path) -> None:
    noise = itertools.cycle((4.0, 5.0, 6.0, 7.0, 8.0))
    server.answer = lambda _: gs.verdict(next(noise), 5, 5)
    flags = ("--judge", "gemini", "--set", f"scoring.gemini.base_url={server.url}", "--json")
    done = run(tmp_path, *flags, GEMINI_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["judged"] == 6
    assert found["usage"]["calls"] == len(server.seen) == 12
    assert found["repeatability"]["within"] > 0.5
    assert found["repeatability"]["smallest_difference"] == pytest.approx(
        2.772 * found["repeatability"]["within"], rel=1e-3
    )
    assert found["models"] == {"gemini": "gemini-3.8-flash"}
    again = json.loads(run(tmp_path, *flags, GEMINI_API_KEY=KEY).stdout)
    assert len(server.seen) == 12
    assert again["repeatability"] == found["repeatability"]
    assert again["usage"]["calls"] == 0
    assert all(KEY not in file.read_text("utf-8", "replace") for file in tmp_path.rglob("*.json"))
    assert KEY not in done.stdout + done.stderr
