"""Image bytes to arrays and back, with the guards that hostile input needs.

Pure functions over bytes and arrays; nothing here opens a file or a socket.
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from shared.errors import InputError

#: H x W (grey), H x W x 3 (RGB) or H x W x 4 (RGBA, straight alpha), uint8.
Pixels = NDArray[np.uint8]

#: Measured on a 1328 x 1328 photo: level 1 takes a quarter of the time of level 6 for a file 15 % larger.
PNG_COMPRESS_LEVEL = 1

_PNG, _JPEG, _RIFF, _WEBP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"WEBP"

#: What Pillow's decoders raise on damaged input.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, "mirrored"),
    3: (Image.Transpose.ROTATE_180, "turned by 180 degrees"),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, "mirrored"),
    5: (Image.Transpose.TRANSPOSE, "turned and mirrored"),
    6: (Image.Transpose.ROTATE_270, "turned by 90 degrees"),
    7: (Image.Transpose.TRANSVERSE, "turned and mirrored"),
    8: (Image.Transpose.ROTATE_90, "turned by 90 degrees"),
}


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before it is decoded: files over `max_bytes`, images over `max_pixels` (width x height)."""

    max_bytes: int = 64 * 2**20
    max_pixels: int = 50_000_000


@dataclass(frozen=True)
class Picture:
    """A decoded image, upright, and what was done to it on the way."""

    pixels: Pixels
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]


def decode(data: bytes, name: str = "image", limits: ImageLimits | None = None) -> Picture:
    """PNG, JPEG or WebP to grey, RGB or RGBA pixels, turned upright by its EXIF tag.

    `name` is what messages call the image, such as `task 7: mask (photos/m.png)`. The pixel cap is checked on the
    header, before any pixel is decoded. Sixteen bits become eight, palettes and CMYK become RGB(A), and of an
    animation only the first frame is used (said in the notes). Colour profiles are ignored.

    Raises InputError for anything that is no complete image of these formats within `limits`.
    """
    limits = limits or ImageLimits()
    if len(data) > limits.max_bytes:
        raise InputError(
            f"{name} has {len(data)} bytes, above the cap of {limits.max_bytes} (setting input.max_bytes)."
        )
    try:
        with _open(data, name) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise InputError(
                    f"{name} has {width} x {height} pixels, above the cap of {limits.max_pixels} in all "
                    "(setting input.max_pixels): scale it down."
                )
            notes = []
            if (frames := getattr(image, "n_frames", 1)) > 1:
                notes.append(f"only the first of its {frames} frames is used")
            image.load()
            upright, turned = _upright(image)
            return Picture(_pixels(upright), (*notes, *turned))
    except _DAMAGED as error:
        raise InputError(f"{name} is damaged or incomplete and cannot be decoded ({error}): save it again.") from error


def _open(data: bytes, name: str) -> ImageFile.ImageFile:
    # The plugins by themselves: Image.open would only warn of huge images, and would guess at more formats.
    stream = io.BytesIO(data)
    if data.startswith(_PNG):
        return PngImagePlugin.PngImageFile(stream)
    if data.startswith(_JPEG):
        return JpegImagePlugin.JpegImageFile(stream)
    if data.startswith(_RIFF) and data[8:12] == _WEBP:
        return WebPImagePlugin.WebPImageFile(stream)
    raise InputError(f"{name} is {_looks_like(data)}; only PNG, JPEG and WebP images are read.")


def _looks_like(data: bytes) -> str:
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not data:
        return "empty"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page and no image (does its address need a login?)"
    if b"<svg" in start:
        return "an SVG drawing"
    if start.startswith(b"<"):
        return "an XML or HTML document and no image"
    if start.startswith((b"{", b"[")):
        return "a JSON document and no image"
    if start.startswith(b"gif8"):
        return "a GIF image"
    if start[4:12] in (b"ftypavif", b"ftypheic", b"ftypmif1"):
        return "an AVIF or HEIC image"
    return "of no known image format"


def _upright(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGED:
        return image, ("its damaged EXIF data is ignored",)
    if orientation not in _TURNS:
        return image, ()
    transpose, words = _TURNS[orientation]
    return image.transpose(transpose), (f"{words}, as its EXIF tag asks",)


def _pixels(image: Image.Image) -> Pixels:
    if image.mode.startswith(("I", "F")):
        wide = np.asarray(image, dtype=np.float64)
        return np.clip(wide / 257.0 + 0.5, 0, 255).astype(np.uint8)
    transparent = image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info
    grey = image.mode in {"1", "L"} and not transparent
    mode = "RGBA" if transparent else "L" if grey else "RGB"
    return np.array(image if image.mode == mode else image.convert(mode))


def has_transparency(pixels: Pixels) -> bool:
    """Whether any pixel is not fully opaque."""
    return pixels.ndim == 3 and pixels.shape[2] == 4 and bool((pixels[..., 3] < 255).any())


def to_rgb(pixels: Pixels) -> Pixels:
    """H x W x 3 from grey, RGB or RGBA; transparency is laid onto white, as browsers show it."""
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    if not has_transparency(pixels):
        return np.ascontiguousarray(pixels[..., :3])
    alpha = pixels[..., 3:].astype(np.uint16)
    flat = (pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return flat.astype(np.uint8)


def to_rgba(pixels: Pixels) -> Pixels:
    """H x W x 4 from grey, RGB or RGBA; what has no alpha is opaque."""
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return pixels
    opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    return np.concatenate([to_rgb(pixels), opaque], axis=2)


def to_grey(pixels: Pixels) -> Pixels:
    """H x W luminance (ITU-R BT.601) from grey, RGB or RGBA; alpha is left aside."""
    if pixels.ndim == 2:
        return pixels
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels[..., :3])).convert("L"))


def encode_png(pixels: Pixels, text: Mapping[str, str] | None = None) -> bytes:
    """PNG bytes of grey, RGB or RGBA pixels, with `text` as text chunks (keys: 1-79 Latin-1 characters).

    The same pixels and text give the same bytes (under one version of Pillow).
    """
    chunks = PngImagePlugin.PngInfo()
    for key, value in sorted((text or {}).items()):
        chunks.add_text(key, value)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        stream, "PNG", compress_level=PNG_COMPRESS_LEVEL, pnginfo=chunks if text else None
    )
    return stream.getvalue()


def pixel_hash(pixels: Pixels) -> str:
    """SHA-256 of what an image shows, whatever file it came from."""
    shown = hashlib.sha256(repr((pixels.shape, pixels.dtype.str)).encode())
    shown.update(np.ascontiguousarray(pixels).tobytes())
    return shown.hexdigest()


def read_png_text(data: bytes, name: str = "image") -> dict[str, str]:
    """The text chunks of a PNG file. Raises InputError when it is none."""
    if not data.startswith(_PNG):
        raise InputError(f"{name} is {_looks_like(data)}; only PNG files carry parameters.")
    try:
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
            return {key: str(value) for key, value in image.text.items()}
    except _DAMAGED as error:
        raise InputError(f"{name} is damaged and its text cannot be read ({error}).") from error
