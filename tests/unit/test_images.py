"""Decoding: every mode, every hostile file, and the way back."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from shared.errors import InputError
from shared.images import ImageLimits, Pixels, decode, encode_png, read_png_text, to_grey, to_rgb, to_rgba


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photo(width: int = 40, height: int = 30) -> Image.Image:
    down, right = np.mgrid[0:height, 0:width]
    return Image.fromarray(
        np.stack([right * 255 // width, down * 255 // height, (right + down) % 256], axis=2).astype(np.uint8)
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("mode", "kind", "channels"),
    [
        ("RGB", "PNG", 3),
        ("RGBA", "PNG", 4),
        ("L", "PNG", 1),
        ("LA", "PNG", 4),
        ("1", "PNG", 1),
        ("P", "PNG", 3),
        ("L", "JPEG", 1),
        ("RGB", "JPEG", 3),
        ("CMYK", "JPEG", 3),
        ("RGB", "WEBP", 3),
        ("RGBA", "WEBP", 3),  # opaque: WebP stores no alpha
    ],
)
def test_every_mode_becomes_grey_rgb_or_rgba(mode: str, kind: str, channels: int) -> None:
    image = photo().convert(mode)
    lossless = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    picture = decode(saved(image, kind, **lossless))

    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.shape == ((30, 40) if channels == 1 else (30, 40, channels))
    assert picture.pixels.flags.writeable
    expected = np.asarray(image.convert("RGB")).astype(int)
    tolerance = 40 if mode == "P" else 12 if kind == "JPEG" else 0
    assert np.abs(to_rgb(picture.pixels).astype(int) - expected).max() <= tolerance
    assert to_rgba(picture.pixels).shape == (30, 40, 4)
    assert to_grey(picture.pixels).shape == (30, 40)


def test_sixteen_bit_grey_keeps_its_range() -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(4, axis=0)
    assert (decode(saved(Image.fromarray(ramp))).pixels == np.arange(256, dtype=np.uint8)).all()


def test_a_palette_with_a_transparent_colour_becomes_rgba() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    assert decode(saved(image, transparency=1)).pixels.tolist() == [[[255, 0, 0, 255], [0, 255, 0, 0]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_is_applied_and_said(orientation: int, kind: str) -> None:
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :8] = 255
    undo: dict[int, Callable[[Pixels], Pixels]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: np.rot90,
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture = decode(
        saved(Image.fromarray(np.ascontiguousarray(undo[orientation](upright))), kind, exif=exif, quality=100)
    )

    assert picture.size == (32, 16)
    assert ((to_grey(picture.pixels) > 127) == (upright > 127)).all()
    assert bool(picture.notes) == (orientation != 1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_ignored_and_said() -> None:
    assert decode(saved(photo(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")).size == (40, 30)
    picture = decode(saved(photo(), "PNG", exif=b"Exif\0\0no such header"))
    assert picture.size == (40, 30)
    assert picture.notes == ("its damaged EXIF data is ignored",)


def test_webp_keeps_its_transparency() -> None:
    image = photo().convert("RGBA")
    image.putalpha(100)
    assert (decode(saved(image, "WEBP", lossless=True)).pixels == np.asarray(image)).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_used_and_that_is_said(kind: str) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = saved(first, kind, save_all=True, append_images=[second], **({"lossless": True} if kind == "WEBP" else {}))
    picture = decode(data)
    assert to_rgb(picture.pixels)[0, 0].tolist() == [255, 0, 0]
    assert picture.notes == ("only the first of its 2 frames is used",)


def test_transparency_is_laid_onto_white() -> None:
    pixels = np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 128]]], np.uint8)
    assert to_rgb(pixels).tolist() == [[[255, 255, 255], [0, 0, 0], [255, 127, 127]]]


@pytest.mark.parametrize("size", [(30000, 30000), (2**31 - 1, 2**31 - 1), (10_000, 5_001)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"task 7: init has \d+ x \d+ pixels, above the cap"):
        decode(png_header(*size), "task 7: init")


def test_a_webp_bomb_is_refused() -> None:
    side = (16383).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + side + side
    with pytest.raises(InputError):
        decode(b"RIFF" + struct.pack("<I", len(body)) + body)


def test_limits_are_inclusive() -> None:
    data = saved(photo())
    assert decode(data, limits=ImageLimits(max_bytes=len(data), max_pixels=1200)).size == (40, 30)
    with pytest.raises(InputError, match=r"input\.max_bytes"):
        decode(data, limits=ImageLimits(max_bytes=len(data) - 1))
    with pytest.raises(InputError, match=r"input\.max_pixels"):
        decode(data, limits=ImageLimits(max_pixels=1199))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"\n<!DOCTYPE html><html></html>", "a web page"),
        (b'{"detail": "not found"}', "a JSON document"),
        (b"GIF89a" + b"\0" * 20, "a GIF image"),
        (b"BM" + b"\0" * 60, "no known image format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "no known image format"),
        (b"RIFF\x10\0\0\0AVI LIST", "no known image format"),
    ],
)
def test_other_formats_are_refused_by_content(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        decode(data, "a.png")


def test_the_name_does_not_decide_the_format() -> None:
    assert decode(saved(photo(), "JPEG"), "a.png").size == (40, 30)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated_files_are_refused(kind: str) -> None:
    data = saved(photo(200, 200), kind)
    for keep in (9, 12, 30, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(InputError, match="scene"):
            decode(data[:keep], "scene")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_gives_an_image_or_an_input_error(kind: str, edits: list[tuple[float, bytes]]) -> None:
    data = bytearray(saved(photo(), kind))
    for where, patch in edits:
        at = int(where * (len(data) - len(patch)))
        data[at : at + len(patch)] = patch
    try:
        picture = decode(bytes(data), limits=ImageLimits(max_pixels=10_000))
    except InputError:
        return
    assert picture.pixels.dtype == np.uint8


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(5, 7), (5, 7, 3), (5, 7, 4), (1, 1), (64, 3, 3)]),
    seed=st.integers(0, 2**32 - 1),
    text=st.dictionaries(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=79),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200),
        max_size=4,
    ),
)
def test_png_round_trip(shape: tuple[int, ...], seed: int, text: dict[str, str]) -> None:
    pixels: Pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    data = encode_png(pixels, text)
    assert (decode(data).pixels == pixels).all()
    assert read_png_text(data) == text
    assert encode_png(pixels.copy(), dict(reversed(text.items()))) == data


def test_text_is_read_from_png_only() -> None:
    assert read_png_text(encode_png(np.zeros((2, 2), np.uint8))) == {}
    with pytest.raises(InputError, match="only PNG files carry parameters"):
        read_png_text(saved(photo(), "JPEG"), "a.jpg")
    with pytest.raises(InputError, match="damaged"):
        read_png_text(encode_png(np.zeros((200, 200), np.uint8), {"a": "b"})[:40])
