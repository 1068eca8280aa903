"""Run-length coding of Label Studio's brush masks (the format of thi.ng/rle-pack).

A big-endian bit stream: 32 bits number of values; 5 bits word size - 1; four times 4 bits block length size - 1; then
blocks of 1 bit "run?", 2 bits which length size, that many bits count - 1, and one word (run) or `count` words.
"""

from collections.abc import Sequence

import numpy as np

from shared.errors import InputError
from shared.images import Pixels

_HEADER_BITS = 32 + 5 + 4 * 4


def decode_brush(rle: Sequence[int], width: int, height: int, name: str = "brush mask") -> Pixels:
    """The H x W alpha plane (0-255) of a brush stroke.

    The length in the header is checked against `width` x `height` before anything is allocated.
    Raises InputError when `rle` is not the code of an image of that size.
    """
    return decode_rle(rle, 4 * width * height, name).reshape(height, width, 4)[..., 3]


def decode_rle(rle: Sequence[int], length: int, name: str = "run-length code") -> Pixels:
    """The `length` bytes that `rle` (bytes as integers) stands for. Raises InputError when it stands for none."""
    try:
        data = bytes(rle)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: `rle` must be a list of integers from 0 to 255 ({error}).") from error
    if len(data) * 8 < _HEADER_BITS:
        raise InputError(f"{name} breaks off after {len(data)} bytes: export it again.")
    header = int.from_bytes(data[:7]) >> (56 - _HEADER_BITS)
    if (declared := header >> 21) != length:
        raise InputError(f"{name} holds {declared} values where its image has {length}: its size does not match.")
    if (word := (header >> 16 & 31) + 1) != 8:
        raise InputError(f"{name} has words of {word} bits; only 8 are used by Label Studio.")
    sizes = [(header >> shift & 15) + 1 for shift in (12, 8, 4, 0)]
    return _decode_blocks(data, sizes, length, name)


def _decode_blocks(data: bytes, sizes: Sequence[int], length: int, name: str) -> Pixels:
    padded = data + bytes(4)
    stream = np.unpackbits(np.frombuffer(data, np.uint8))
    values = np.empty(length, np.uint8)
    at, done = _HEADER_BITS, 0
    while done < length:
        # The 27 bits that a block's flag, size index, longest count and first word can take.
        head = int.from_bytes(padded[at >> 3 : (at >> 3) + 5]) >> (13 - (at & 7)) & 0x7FFFFFF
        size = sizes[head >> 24 & 3]
        count = (head >> (24 - size) & ((1 << size) - 1)) + 1
        is_run = head >> 26
        at += 3 + size
        end = at + (8 if is_run else 8 * count)
        if end > len(stream):
            raise InputError(f"{name} breaks off after {len(data)} bytes: export it again.")
        if done + count > length:
            raise InputError(f"{name} holds more values than its image has pixels.")
        values[done : done + count] = head >> (16 - size) & 255 if is_run else np.packbits(stream[at:end])
        at, done = end, done + count
    return values
