"""A whole run on a real CUDA device, from the command line to the result, and a worker killed in its midst."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("diffusers")

import torch

from shared.images import decode
from tests.fleet import SCORER, make_tasks
from tests.tiny_qwen import save_checkpoint

pytestmark = [pytest.mark.torch, pytest.mark.gpu, pytest.mark.valkey]
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
ROOT = Path(__file__).resolve().parents[2]
STEPS = 40


def test_a_run_on_cuda_survives_the_death_of_its_worker(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 2, size=256)
    export = [
        {
            "id": task.id,
            "character_name": "Mira",
            "init_image": task.init,
            "mask": task.mask,
            "character_image": task.character,
        }
        for task in tasks
    ]
    (tmp_path / "export.json").write_text(json.dumps(export))
    model = save_checkpoint(tmp_path / "model")
    settings = {"model": str(model), "steps": STEPS, "memory_headroom_gib": 1}
    words = [
        *("run", "--tasks", str(tmp_path / "export.json"), "--device", "cuda:0"),
        *("--generator", "tests.tiny_qwen:TinyQwen", "--judge", SCORER, "--set", "scoring.gates=false"),
        *(word for name, value in settings.items() for word in ("--set", f"generation.qwen.{name}={value}")),
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-m", "inpaint_eacps", *words], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            killed = _kill_the_worker_once_it_has_made_something(process, tmp_path)
            _, told = process.communicate(timeout=150)
        finally:
            process.terminate()
    assert process.returncode == 0, told
    sys.stderr.write(f"{told}\nkilled {killed}\n")
    for task in tasks:
        folder = tmp_path / "outputs/inpaint_eacps" / f"task_{task.id}"
        metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
        assert len({each["id"] for each in metrics["candidates"]}) == len(metrics["candidates"]) == 8
        assert metrics["model_evaluations"] == 2 * (4 * STEPS + 4 * round(0.55 * STEPS))
        assert not any("drawn on the CPU" in note for each in metrics["candidates"] for note in each["notes"])
        init, mask, result = (
            decode((folder / f"{name}.png").read_bytes()).pixels for name in ("init", "mask", "result")
        )
        assert np.array_equal(result[mask == 0], init[mask == 0])


def _kill_the_worker_once_it_has_made_something(run: "subprocess.Popen[str]", folder: Path) -> int:
    deadline = time.monotonic() + 120
    while not list(folder.glob("outputs/inpaint_eacps/task_*/candidates/*.png")):
        assert run.poll() is None and time.monotonic() < deadline, "nothing was made"
        time.sleep(0.05)
    (worker,) = [
        child for child in psutil.Process(run.pid).children() if any("device." in word for word in child.cmdline())
    ]
    # The process that generates, and holds the CUDA context.
    (child,) = worker.children()
    os.kill(child.pid, signal.SIGKILL)
    return child.pid
