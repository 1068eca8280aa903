"""Masks drawn in Label Studio: the brush code against an encoder of our own, shapes against their geometry."""

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import InputError
from shared.images import ImageLimits, Pixels, decode, encode_png
from shared.labelstudio import read_export
from shared.regions import drawn_mask
from shared.rle import decode_brush, decode_rle
from shared.settings.input import InputSettings
from workers.preparation.drawn import mask_maker

SIZES = (3, 4, 8, 16)


def encode(values: bytes, sizes: tuple[int, ...] = SIZES) -> list[int]:
    """Runs of three or more as runs, the rest as literals; block lengths in the smallest size that holds them."""
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)

    def block(is_run: bool, words: bytes, count: int) -> str:
        index = next(i for i, size in enumerate(sizes) if count <= 1 << size)
        return f"{int(is_run)}{index:02b}{count - 1:0{sizes[index]}b}" + "".join(f"{word:08b}" for word in words)

    at, longest = 0, 1 << max(sizes)
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at] and end - at < longest:
            end += 1
        if end - at >= 3:
            bits += block(True, values[at : at + 1], end - at)
        else:
            while end < len(values) and end - at < longest and len(set(values[end : end + 3])) > 1:
                end += 1
            bits += block(False, values[at:end], end - at)
        at = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def brush(alpha: Pixels) -> list[int]:
    colour = np.zeros((*alpha.shape, 4), np.uint8)
    colour[..., 3] = alpha
    return encode(colour.tobytes())


def item(*results: dict[str, Any], **annotation: Any) -> dict[str, Any]:
    return {"annotations": [{"id": 6020, "was_cancelled": False, "result": list(results)} | annotation]}


def result(kind: str, value: dict[str, Any], width: int = 40, height: int = 20, **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": value,
    } | more


def area(*results: dict[str, Any]) -> Pixels:
    drawn = drawn_mask(item(*results))
    assert drawn is not None
    assert set(np.unique(drawn.pixels)) <= {0, 255}
    return drawn.pixels


def filled(width: int, height: int, left: int, top: int, right: int, bottom: int) -> Pixels:
    pixels = np.zeros((height, width), np.uint8)
    pixels[top:bottom, left:right] = 255
    return pixels


runs = st.lists(st.tuples(st.integers(0, 255), st.integers(1, 400)), max_size=30)


@settings(max_examples=150, deadline=None)
@given(runs=runs, noise=st.binary(max_size=200), sizes=st.sampled_from([SIZES, (1, 2, 3, 4), (16, 16, 16, 16)]))
def test_what_is_encoded_is_decoded(runs: list[tuple[int, int]], noise: bytes, sizes: tuple[int, ...]) -> None:
    values = b"".join(bytes([value]) * count for value, count in runs) + noise
    assert decode_rle(encode(values, sizes), len(values)).tobytes() == values


def test_the_published_header_and_a_hand_written_stream() -> None:
    assert encode(bytes(3 * 2**20))[:7] == [0, 48, 0, 0, 57, 27, 254 | 1]
    bits = f"{8:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}" + "1" + "00" + "101" + f"{9:08b}" + "0" + "00" + "001"
    bits += f"{1:08b}{2:08b}"
    bits += "0" * (-len(bits) % 8)
    code = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    assert decode_rle(code, 8).tolist() == [9] * 6 + [1, 2]


@settings(max_examples=150, deadline=None)
@given(code=st.lists(st.integers(-1, 256), max_size=60), length=st.integers(0, 5000), honest=st.booleans())
def test_any_other_code_is_refused_or_has_the_right_length(code: list[int], length: int, honest: bool) -> None:
    start = [*length.to_bytes(4, "big"), 57, 27, 254] if honest else []
    with contextlib.suppress(InputError):
        assert decode_rle(start + code, length).shape == (length,)


def test_broken_codes_are_refused_with_the_reason() -> None:
    good = brush(filled(40, 20, 5, 5, 30, 15))
    for code, words in [
        ([], "breaks off"),
        (good[:-3], "breaks off"),
        ([255, 255, 255, 255, *good[4:]], "holds 4294967295 values where its image has 3200"),
        ([300, *good[1:]], "integers from 0 to 255"),
        ([*good[:4], 255, *good[5:]], "words of 32 bits"),
        ([0, 0, 0, 1, *good[4:]], "holds 1 values"),
    ]:
        with pytest.raises(InputError, match=words):
            decode_brush(code, 40, 20)
    with pytest.raises(InputError, match="more values than its image has"):
        decode_rle([0, 0, 0, 1, *good[4:]], 1)


@pytest.mark.parametrize("kind", ["brushlabels", "brush"])
def test_a_brush_stroke(kind: str) -> None:
    alpha = np.zeros((20, 40), np.uint8)
    alpha[2:6, 3:9] = [127, 128, 255, 255, 200, 1]
    drawn = area(result(kind, {"format": "rle", "rle": brush(alpha), "brushlabels": ["inpaint"]}))
    assert (drawn == filled(40, 20, 4, 2, 8, 6)).all()


def test_a_bitmask() -> None:
    colour = np.zeros((20, 40, 4), np.uint8)
    colour[..., 3] = filled(40, 20, 1, 2, 3, 4)
    value = {"imageDataURL": "data:image/png;base64," + base64.b64encode(encode_png(colour)).decode()}
    assert (area(result("bitmasklabels", value)) == filled(40, 20, 1, 2, 3, 4)).all()


def test_a_bitmask_of_another_size_or_of_no_image() -> None:
    small = base64.b64encode(encode_png(np.zeros((2, 2, 4), np.uint8))).decode()
    for url, words in [
        (f"data:image/png;base64,{small}", "has 2 x 2 pixels and its image 40 x 20"),
        ("data:image/png;base64,!!", "no base64"),
        ("https://h.example/mask.png", "no PNG data URL"),
        ("data:image/png;base64,AAAA", "no known image format"),
    ]:
        with pytest.raises(InputError, match=words):
            drawn_mask(item(result("bitmasklabels", {"imageDataURL": url})))


def test_shapes_cover_the_pixels_whose_centre_they_hold() -> None:
    box = {"x": 25, "y": 50, "width": 50, "height": 25, "rotation": 0}
    assert (area(result("rectanglelabels", box)) == filled(40, 20, 10, 10, 30, 15)).all()
    corners = {"points": [[25, 50], [75, 50], [75, 75], [25, 75]]}
    drawn = area(result("polygonlabels", corners))
    assert (drawn[10:15, 10:30] == 255).all()
    assert (drawn > 0).sum() <= 22 * 7


def test_a_rectangle_turns_clockwise_about_its_top_left_corner() -> None:
    box = {"x": 50, "y": 25, "width": 10, "height": 50, "rotation": 90}
    assert (area(result("rectanglelabels", box)) == filled(40, 20, 10, 5, 20, 9)).all()


def test_an_ellipse_is_given_by_its_centre_and_turns_about_it() -> None:
    round_ = area(result("ellipselabels", {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25}))
    assert (round_ > 0).sum() == pytest.approx(np.pi * 10 * 5, rel=0.05)
    assert (np.flatnonzero(round_.any(axis=0)) == np.arange(10, 30)).all()
    turned = area(result("ellipse", {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "rotation": 90}))
    assert (np.flatnonzero(turned.any(axis=0)) == np.arange(18, 22)).all()
    assert (np.flatnonzero(turned.any(axis=1)) == np.arange(2, 18)).all()


def test_shapes_of_one_annotation_add_up_and_are_cut_at_the_edge() -> None:
    left = {"x": -50, "y": 0, "width": 75, "height": 100}
    right = {"x": 75, "y": 0, "width": 500, "height": 100}
    other = {"type": "choices", "value": {"choices": ["No Issues"]}}
    drawn = area(result("rectangle", left), other, result("rectangle", right))
    assert (drawn == filled(40, 20, 0, 0, 10, 20) + filled(40, 20, 30, 0, 40, 20)).all()


def test_which_annotation_counts() -> None:
    def annotation(number: int, x: int, **more: Any) -> dict[str, Any]:
        box = {"x": x, "y": 0, "width": 25, "height": 100}
        return {"id": number, "result": [result("rectangle", box)], "updated_at": f"2026-01-0{number}"} | more

    old, new, cancelled = annotation(1, 0), annotation(2, 25), annotation(3, 50, was_cancelled=True)
    drawn = drawn_mask({"annotations": [new, cancelled, old]})
    assert drawn is not None
    assert (drawn.pixels == filled(40, 20, 10, 0, 20, 20)).all()
    assert drawn.note == "the mask is drawn in annotation 2; it is the newest of 2"
    truth = drawn_mask({"annotations": [new, old | {"ground_truth": True}]})
    assert truth is not None
    assert "annotation 1; it is the ground truth of 2" in truth.note


@pytest.mark.parametrize("annotations", [None, [], [None], [{"result": None}], [{"result": [{"type": "choices"}, 3]}]])
def test_nothing_drawn_is_no_mask(annotations: Any) -> None:
    assert drawn_mask({"annotations": annotations}) is None


def test_what_cannot_be_told_is_refused() -> None:
    box = {"x": 0, "y": 0, "width": 10, "height": 10}
    good = result("rectangle", box)
    for results, words in [
        ([good, result("rectangle", box, width=41)], "several images"),
        ([good, result("rectangle", box, to_name="other")], "several images"),
        ([result("rectangle", box, item_index=1)], "several images"),
        ([result("rectangle", box, image_rotation=90)], "turned image"),
        ([result("rectangle", box, width=100_000, height=100_000)], "above the cap"),
        ([result("rectangle", box, original_width=None)], "original_width"),
        ([result("rectangle", box | {"x": "a"})], "annotation 6020: rectangle: `x`"),
        ([result("rectangle", box | {"x": 1e300})], "`x`"),
        ([result("polygon", {"points": [[1, 2]]})], "points"),
        ([result("brush", {"format": "rle"})], "rle"),
    ]:
        with pytest.raises(InputError, match=words):
            drawn_mask(item(*results))
    with pytest.raises(InputError, match="above the cap of 799"):
        drawn_mask(item(good), ImageLimits(max_pixels=799))


def test_an_item_without_a_mask_url_gets_what_was_drawn(tmp_path: Path) -> None:
    data = {"character_name": "Mira", "init_image": "i.png", "character_image": "c.png"}
    stroke = result("brushlabels", {"format": "rle", "rle": brush(filled(40, 20, 5, 5, 30, 15))})
    path = tmp_path / "export.json"
    items = [
        {"id": 1, "data": data | {"id": "drawn"}} | item(stroke),
        {"id": 2, "data": data | {"id": "given", "mask": "m.png"}} | item(stroke),
        {"id": 3, "data": data | {"id": "neither"}},
        {"id": 4, "data": data | {"id": "broken"}} | item(result("brush", {"rle": [1, 2, 3]})),
    ]
    path.write_text(json.dumps(items))
    export = read_export(path, mask_maker=mask_maker(InputSettings(cache_dir=tmp_path / "cache")))
    drawn, given = export.tasks
    assert Path(drawn.mask).is_relative_to(tmp_path / "cache")
    assert (decode(Path(drawn.mask).read_bytes()).pixels == filled(40, 20, 5, 5, 30, 15)).all()
    assert given.mask == str(tmp_path / "m.png")
    neither, broken = [str(problem) for problem in export.problems]
    assert "no `mask_image_url`" in neither
    assert "annotation 6020: brush breaks off" in broken
