"""The free checks before any judge, on a real example."""

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.composite_support import TASK_IDS, example_tasks, fresh, score_request
from workers.scoring.gate import GateLimits, check_gates, seam_energy


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_composite_candidates_pass(task_id: str) -> None:
    images = example_tasks()[task_id]
    assert [check_gates(score_request(images, fresh(images, seed)[1].image)) for seed in range(4)] == [None] * 4


def test_one_changed_pixel_outside_the_mask_is_found() -> None:
    images = example_tasks()["71651078"]
    result = fresh(images, 5000)[1].image.copy()
    row, column = np.argwhere(images.mask == 0)[1234]
    result[row, column, 1] ^= 7
    request = score_request(images, result)
    assert "outside the mask" in (check_gates(request) or "")
    assert check_gates(request, GateLimits(outside=255)) is None


def test_nothing_inserted_is_found() -> None:
    images = example_tasks()["71651078"]
    assert "nothing was inserted" in (check_gates(score_request(images, images.init)) or "")


def test_one_flat_colour_is_found() -> None:
    images = example_tasks()["71651078"]
    result = images.init.copy()
    result[images.mask > 0] = (200, 10, 10)
    assert "flat" in (check_gates(score_request(images, result)) or "")


def test_a_visible_outline_of_the_mask_is_found() -> None:
    images = example_tasks()["71651078"]
    result = images.init.copy()
    inside = images.mask > 0
    result[inside] = np.random.default_rng(0).integers(200, 256, (int(inside.sum()), 3), dtype=np.uint8)
    assert "outline shows" in (check_gates(score_request(images, result)) or "")
    assert seam_energy(images.init, images.mask, images.init) == 0


def test_another_size_and_values_that_are_no_numbers_are_found() -> None:
    images = example_tasks()["71651078"]
    request = score_request(images, images.init[:-1])
    assert "the result is" in (check_gates(request) or "")
    broken = images.init.astype(np.float32)
    broken[0, 0, 0] = np.nan
    assert "not finite" in (check_gates(replace(request, result=broken)) or "")  # type: ignore[arg-type]
