"""Masks: what is white, what is transparent, what does not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InputError
from shared.images import Pixels
from shared.masks import mask_from


def grey(height: int = 4, width: int = 6) -> Pixels:
    pixels = np.zeros((height, width), np.uint8)
    pixels[1:3, 2:5] = 255
    return pixels


def test_white_is_edited() -> None:
    mask = mask_from(grey(), (6, 4))
    assert (mask.pixels == grey()).all()
    assert mask.box == (2, 1, 5, 3)
    assert mask.fraction == pytest.approx(6 / 24)
    assert mask.notes == ()


def test_a_photo_taken_for_a_mask_is_said_and_a_soft_edge_is_not() -> None:
    ramp = np.tile(np.arange(0, 250, 10, dtype=np.uint8), (4, 1))
    (note,) = mask_from(ramp, (25, 4)).notes
    assert "neither black nor white" in note
    soft = np.zeros((4, 25), np.uint8)
    soft[:, 10], soft[:, 11:] = 128, 255
    assert mask_from(soft, (25, 4)).notes == ()


def test_the_threshold_is_127() -> None:
    assert mask_from(np.array([[127, 128]], np.uint8), (2, 1)).pixels.tolist() == [[0, 255]]


def test_colours_count_by_their_luminance() -> None:
    pixels = np.array([[[255, 255, 255], [0, 0, 255], [0, 255, 0]]], np.uint8)
    assert mask_from(pixels, (3, 1)).pixels.tolist() == [[255, 0, 255]]


def test_white_under_transparency_is_kept() -> None:
    pixels = np.array([[[255, 255, 255, 255], [255, 255, 255, 0], [0, 0, 0, 255]]], np.uint8)
    mask = mask_from(pixels, (3, 1))
    assert mask.pixels.tolist() == [[255, 0, 0]]
    assert mask.notes == ()


def test_a_mask_painted_black_on_transparent_means_its_paint() -> None:
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[..., 3] = grey()
    mask = mask_from(pixels, (6, 4))
    assert (mask.pixels == grey()).all()
    assert "opaque pixels" in mask.notes[0]


def test_an_opaque_alpha_says_nothing() -> None:
    pixels = np.full((1, 2, 4), 255, np.uint8)
    pixels[0, 0, :3] = 0
    assert mask_from(pixels, (2, 1)).pixels.tolist() == [[0, 255]]


@given(st.integers(1, 40), st.integers(1, 40))
def test_another_size_is_brought_to_the_image_and_said(width: int, height: int) -> None:
    half = np.zeros((2, 2), np.uint8)
    half[0, 0] = 255
    if width == 1 and height == 1:
        return
    try:
        mask = mask_from(half, (width, height))
    except InputError:
        assert 1 in (width, height)
        return
    assert mask.pixels.shape == (height, width)
    assert set(np.unique(mask.pixels)) == {0, 255}
    assert bool(mask.notes) == ((width, height) != (2, 2))


def test_other_proportions_are_pointed_out() -> None:
    assert mask_from(grey(), (12, 8)).notes == ("resized from 6 x 4 to the init image's 12 x 8",)
    assert "proportions differ" in mask_from(grey(), (12, 30)).notes[0]


def test_an_empty_mask_is_refused_with_its_brightest_value() -> None:
    with pytest.raises(InputError, match=r"task 7: mask is empty.*brightest is 1\)"):
        mask_from(grey() // 255, (6, 4), "task 7: mask")
    with pytest.raises(InputError, match="is empty"):
        mask_from(np.zeros((3, 3, 4), np.uint8), (3, 3))


def test_a_full_mask_is_refused() -> None:
    with pytest.raises(InputError, match="covers the whole image"):
        mask_from(np.full((3, 3), 200, np.uint8), (3, 3))
