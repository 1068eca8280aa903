"""A face swap as a candidate of a Qwen search, through the real queue: both generators in the same device workers."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("diffusers")

from inpaint_eacps.embedded import EmbeddedCluster
from inpaint_eacps.plans import device_plans
from orchestrator.client import Submitted
from shared.images import decode, encode_png
from shared.outcome import TaskState
from shared.types import CRITERIA, Task
from tests.fleet import SCORER, Fleet
from tests.tiny_faces import save_pack, save_swapper
from tests.tiny_qwen import save_checkpoint
from workers.generation.insightface_swap import LICENCE

pytestmark = [pytest.mark.valkey, pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(600)]
QWEN = "tests.tiny_qwen:TinyQwen"
SWAP = "insightface-swap"
SIZE, STEPS = 128, 10


class SwapFleet(Fleet):
    """The embedded cluster with the device plans of the front door, on a tiny checkpoint and tiny face models."""

    def __init__(self, folder: Path, generator: str, devices: int, **search: Any) -> None:
        self.generator = generator
        generation = {
            "qwen": {"model": str(save_checkpoint(folder / "model")), "steps": STEPS, "reference_pixels": 4096},
            "insightface": {
                "accept_noncommercial": True,
                "detector_model": str(save_pack(folder / "faces")),
                "swapper_model": str(save_swapper(folder / "inswapper.onnx")),
                "detection_size": SIZE,
            },
        }
        super().__init__(folder, generation=generation, search=search, env={"OMP_NUM_THREADS": "1"})
        plans = device_plans(self.settings, generator, ("cpu",), devices)
        self.cluster = EmbeddedCluster(self.settings, folder / "cluster", plans, env=self._variables)

    def submit(self, tasks: tuple[Task, ...], **more: Any) -> Submitted:
        return self.client.submit(
            tasks, self.settings, generator=self.generator, judges={SCORER: frozenset(CRITERIA)}, **more
        )


def pixels(fleet: Fleet, name: str) -> NDArray[np.uint8]:
    return decode(fleet.store.read(name)).pixels


def face_task(folder: Path, number: int, *, with_face: bool = True) -> Task:
    """A scene with a face (to the tiny detector: a red square), a mask around it, and a blue character."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(60, 200, (SIZE, SIZE, 3)).astype(np.uint8)
    init = np.asarray(cv2.GaussianBlur(noise, (9, 9), 0), np.uint8)
    character = np.full((SIZE, SIZE, 3), (40, 60, 220), np.uint8)
    character[64:96, 64:96] = (255, 0, 0)
    if with_face:
        init[64:96, 64:96] = (255, 0, 0)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[32:96, 32:96] = 255
    files = {}
    for role, pixels in (("init", init), ("mask", mask), ("character", character)):
        file = folder / f"{role}{number}.png"
        file.write_bytes(encode_png(pixels))
        files[role] = str(file)
    return Task(id=f"face{number}", character_name="Mira", **files)


def test_a_raw_swap_is_made_beside_qwen_which_refines_it(tmp_path: Path) -> None:
    tasks = tuple(face_task(tmp_path / "in", number) for number in range(2))
    with SwapFleet(tmp_path, QWEN, 2, k_global=1, m_global=2, k_local=2, include_raw_swap=True) as fleet:
        outcomes = fleet.outcomes(fleet.submit(tasks).run, timeout=150)
    assert [outcome.state for outcome in outcomes] == [TaskState.DONE] * 2
    # Also: every image is whole, and equals the init image outside the mask.
    fleet.check(tasks, candidates=6)
    for task in tasks:
        metrics = fleet.metrics(task.id)
        made = {each["id"]: each for each in metrics["candidates"]}
        assert set(made) == {"g00", "l00.0", "l00.1", "r00", "r00.0", "r00.1"}
        raw = made["r00"]
        assert (raw["phase"], raw["generator"], raw["start"], raw["model_evaluations"]) == ("raw", SWAP, "fresh", 0)
        assert LICENCE in raw["notes"]
        swapped = pixels(fleet, raw["image"]["name"])
        assert swapped[70, 50, 2] > 100 > swapped[70, 50, 0]
        for name in ("r00.0", "r00.1"):
            child = made[name]
            assert (child["parent"], child["start"], child["generator"]) == ("r00", "refine", QWEN)
            # No latent of a face swap: Qwen begins in the parent's picture, and runs the last steps only.
            assert child["model_evaluations"] == 2 * round(0.55 * STEPS)
        assert len({each["image"]["sha256"] for each in made.values()}) == 6


def test_a_scene_without_a_face_costs_the_swap_and_not_the_task(tmp_path: Path) -> None:
    task = face_task(tmp_path / "in", 0, with_face=False)
    with SwapFleet(tmp_path, QWEN, 1, k_global=1, m_global=1, k_local=1, include_raw_swap=True) as fleet:
        (outcome,) = fleet.outcomes(fleet.submit((task,)).run, timeout=150)
    assert outcome.state is TaskState.DONE
    made = {each["id"]: each for each in fleet.metrics(task.id)["candidates"]}
    assert set(made) == {"g00", "l00.0", "r00"}
    assert made["r00"]["image"] is None
    assert "no face was found in the picture to be edited" in made["r00"]["failure"]["message"]
    assert made["r00"]["failure"]["attempt"] == 1


def test_a_face_swap_alone(tmp_path: Path) -> None:
    task = face_task(tmp_path / "in", 0)
    with SwapFleet(tmp_path, SWAP, 1, k_global=1, m_global=1, k_local=1) as fleet:
        (outcome,) = fleet.outcomes(fleet.submit((task,)).run, timeout=100)
    assert outcome.state is TaskState.DONE
    made = {each["id"]: each for each in fleet.metrics(task.id)["candidates"]}
    assert made["g00"]["generator"] == SWAP
    # The tiny swapper paints the red square over, so there is no face left for a second swap.
    assert "no face" in made["l00.0"]["failure"]["message"]
    result = pixels(fleet, f"task_{task.id}/result.png")
    init, mask = (pixels(fleet, f"task_{task.id}/{role}.png") for role in ("init", "mask"))
    assert (result[mask == 0] == init[mask == 0]).all()
    assert (result[mask > 0] != init[mask > 0]).any()
