"""A run of fifty tasks with a judge that fails at random: what its files say, against the log of the judge's server."""

import json
import os
import random
import re
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tests import gemini_server as gs
from tests.gemini_server import GeminiServer, Reply, Seen
from tests.judge_support import KEY, picture

pytestmark = [pytest.mark.valkey, pytest.mark.slow]

TASKS = 50
FAILURES = (
    gs.failure(500),
    gs.failure(503),
    Reply(drop="before"),
    gs.throttled(0.2),
    gs.truncated(),
    gs.refusal(),
    gs.verdict(identity=12),
    gs.verdict(quality="good"),
)


Scores = tuple[float, float, float]


class MoodyJudge:
    """Fails three times in ten, and remembers every verdict it gave, by the name of the character asked about."""

    def __init__(self) -> None:
        self._random, self._lock = random.Random(11), threading.Lock()
        self.given: dict[str, set[Scores]] = defaultdict(set)
        #: Requests, and those of them for which the judge took tokens.
        self.calls: Counter[str] = Counter()
        self.billed: Counter[str] = Counter()
        self.failed = 0

    def __call__(self, seen: Seen) -> Reply:
        (name,) = re.findall(r'"(Character [0-9]+)"', seen.texts[0])
        with self._lock:
            self.calls[name] += 1
            if self._random.random() < 0.3:
                self.failed += 1
                reply = self._random.choice(FAILURES)
                self.billed[name] += reply.status == 200 and reply.drop is None
                return reply
            identity, quality, consistency = (self._random.randint(0, 1000) / 100 for _ in range(3))
            self.given[name].add((identity, quality, consistency))
            self.billed[name] += 1
            return gs.verdict(identity, quality, consistency)


def export(folder: Path) -> Path:
    """Fifty tasks on three small scenes."""
    for number in range(3):
        Image.fromarray(picture(number)).save(folder / f"scene{number}.png")
    mask = np.zeros((96, 128), np.uint8)
    mask[24:72, 40:88] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    alpha = np.zeros((64, 64), np.uint8)
    alpha[8:56, 16:48] = 255
    Image.fromarray(np.dstack([picture(9, 64, 64), alpha])).save(folder / "character.png")
    items = [
        {
            "data": {
                "id": f"t{number:02}",
                "character_name": f"Character {number}",
                "init_image_url": f"scene{number % 3}.png",
                "mask_image_url": "mask.png",
                "character_image_url": "character.png",
            }
        }
        for number in range(TASKS)
    ]
    file = folder / "export.json"
    file.write_text(json.dumps(items))
    return file


def watched(command: list[str], env: dict[str, str], folder: Path) -> tuple[int, set[str]]:
    """Run a command; its exit code, and every argument list that any of its processes ever showed."""
    seen: set[str] = set()
    with (folder / "out.txt").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
        while process.poll() is None:
            try:
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                seen |= {" ".join(member.cmdline()) for member in family}
            except psutil.Error:
                pass
            threading.Event().wait(0.1)
    return process.returncode, seen


def assert_true_account(metrics: dict[str, Any], judge: MoodyJudge, name: str) -> None:
    """What a task says that it paid is what the server's log says."""
    usage = metrics["usage"]
    assert usage["calls"] == judge.calls[name]
    assert usage["input_tokens"] == gs.INPUT_TOKENS * judge.billed[name]
    assert usage["output_tokens"] == gs.OUTPUT_TOKENS * judge.billed[name]
    assert usage["cost_usd"] > 0
    assert usage["max_seconds"] > 0


def assert_explained(candidate: dict[str, Any], given: set[Scores]) -> None:
    """A candidate has scores that the server gave for its task, or a reason for each that it lacks."""
    if candidate["potential"] is None:
        assert all(candidate["missing"].values())
        assert candidate["missing"]
        return
    identity, quality, consistency = (candidate["scores"][name] for name in ("identity", "quality", "consistency"))
    assert (identity, quality, consistency) in given
    assert candidate["potential"] == pytest.approx(2 * identity + quality + consistency)


@pytest.mark.timeout(400)
def test_fifty_tasks_with_a_judge_that_fails_three_times_in_ten(tmp_path: Path) -> None:
    judge = MoodyJudge()
    results = tmp_path / "results"
    clean = {name: value for name, value in os.environ.items() if "API_KEY" not in name}
    with GeminiServer(judge) as server:
        settings = {
            "scoring.gemini.base_url": server.url,
            "scoring.gemini.limits.requests_per_minute": "6000",
            "scoring.gemini.retry.backoff": "0.1",
            "scoring.gates": "false",
        }
        command = [sys.executable, "-m", "inpaint_eacps", "run", "--tasks", str(export(tmp_path))]
        command += ["--generator", "composite", "--judge", "gemini", "--output-dir", str(results)]
        command += ["--k-global", "2", "--m-global", "1", "--k-local", "1"]
        command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        code, arguments = watched(command, clean | {"GEMINI_API_KEY": KEY}, tmp_path)
        seen = len(server.seen)
    output = (tmp_path / "out.txt").read_text()
    assert code in (0, 1), output[-3000:]
    metrics: list[dict[str, Any]] = [json.loads(file.read_text()) for file in results.glob("task_*/metrics.json")]
    assert len(metrics) == TASKS

    won = [each for each in metrics if each["best_seed"] is not None]
    assert len(won) > TASKS * 0.8
    for each in metrics:
        name = each["character_name"]
        assert_true_account(each, judge, name)
        for candidate in each["candidates"]:
            assert_explained(candidate, judge.given[name])
        scored = [candidate for candidate in each["candidates"] if candidate["potential"] is not None]
        winner = next((one for one in each["candidates"] if one["id"] == each["best_id"]), None)
        assert (winner is None) is (not scored)
        if winner is not None:
            assert not winner["missing"]
            assert not winner["defaulted"]
            assert each["best_potential"] == max(candidate["potential"] for candidate in scored)

    assert judge.failed > seen * 0.2
    (run_file,) = results.glob("runs/*/metrics.json")
    whole = json.loads(run_file.read_text())
    assert whole["usage"]["calls"] == sum(judge.calls.values()) == seen
    assert whole["usage"]["input_tokens"] == gs.INPUT_TOKENS * sum(judge.billed.values())
    assert whole["usage"]["output_tokens"] == gs.OUTPUT_TOKENS * sum(judge.billed.values())
    assert whole["usage"]["cost_usd"] == pytest.approx(sum(each["usage"]["cost_usd"] for each in metrics))
    assert whole["tasks"] == {"done": len(won)} | ({"failed": TASKS - len(won)} if len(won) < TASKS else {})
    assert f"Judge gemini: {seen} calls" in output

    assert KEY not in output
    assert arguments
    assert all(KEY not in argument for argument in arguments)
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert KEY.encode() not in file.read_bytes(), file
