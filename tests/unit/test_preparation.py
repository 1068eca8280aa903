"""A task's images made ready: what is changed is said, what cannot be used is refused by name."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from shared.errors import InputError
from shared.settings.input import InputSettings
from shared.types import Task
from workers.preparation.fetch import Fetcher
from workers.preparation.prepare import PreparedImages, prepare


def photo(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8))


def hole(width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.zeros((height, width), np.uint8)
    pixels[height // 4 : height // 2, width // 3 : width // 2] = 255
    return Image.fromarray(pixels)


def prepared(tmp_path: Path, images: dict[str, Image.Image | bytes], **options: Any) -> PreparedImages:
    sources = {}
    for role, image in ({"init": photo(), "mask": hole(), "character": photo(10, 12)} | images).items():
        path = tmp_path / f"{role}.png"
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            image.save(path)
        sources[role] = str(path)
    settings = InputSettings(cache_dir=tmp_path / "cache", **options)
    return prepare(Task(id="7", character_name="Mira", **sources), Fetcher(settings))


def test_good_images_come_through_unchanged(tmp_path: Path) -> None:
    images = prepared(tmp_path, {})
    assert (images.init == np.asarray(photo())).all()
    assert (images.mask == np.asarray(hole())).all()
    assert images.character.shape == (12, 10, 4)
    assert (images.character[..., :3] == np.asarray(photo(10, 12))).all()
    assert images.mask_box == (20, 10, 30, 20)
    assert images.mask_fraction == pytest.approx(100 / 2400)
    assert images.notes == ()


def test_every_change_is_said(tmp_path: Path) -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photo(40, 60).convert("RGBA").save(stream, "PNG", exif=exif)
    see_through = photo().convert("RGBA")
    see_through.putalpha(128)
    images = prepared(tmp_path, {"init": see_through, "mask": hole(30, 20)})
    assert images.mask.shape == (40, 60)
    assert images.notes == (
        "init: its transparency is laid onto white",
        "mask: resized from 30 x 20 to the init image's 60 x 40",
    )
    images = prepared(tmp_path, {"init": stream.getvalue()})
    assert images.init.shape == (40, 60, 3)
    assert images.notes == ("init: turned by 90 degrees, as its EXIF tag asks",)


def test_a_character_keeps_its_transparency(tmp_path: Path) -> None:
    cut_out = photo(10, 12).convert("RGBA")
    cut_out.putalpha(hole(10, 12))
    assert (prepared(tmp_path, {"character": cut_out}).character[..., 3] == np.asarray(hole(10, 12))).all()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ({"init": b"<svg/>"}, r"task 7: init \(.*init\.png\) is an SVG drawing"),
        ({"mask": Image.new("L", (60, 40))}, r"task 7: mask \(.*mask\.png\) is empty"),
        ({"mask": Image.new("L", (60, 40), 255)}, r"task 7: mask \(.*\) covers the whole image"),
        ({"character": Image.new("RGBA", (9, 9), (255, 0, 0, 0))}, r"task 7: character \(.*\) is wholly transparent"),
        ({"character": photo(101, 100)}, r"task 7: character \(.*\) has 101 x 100 pixels"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, images: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        prepared(tmp_path, images, max_pixels=10_000)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    task = Task(id="7", character_name="Mira", init=str(tmp_path / "none.png"), mask="/m.png", character="/c.png")
    with pytest.raises(InputError, match=r"task 7: init \(.*none\.png\): there is no such file"):
        prepare(task, Fetcher(InputSettings(cache_dir=tmp_path)))
