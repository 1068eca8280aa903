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
    bits = 8 * len(data)

    def read(at: int, count: int) -> int:
        end = at + count
        if end > bits:
            raise InputError(f"{name} breaks off after {len(data)} bytes: export it again.")
        return int.from_bytes(data[at // 8 : (end + 7) // 8]) >> (-end % 8) & ((1 << count) - 1)

    if (declared := read(0, 32)) != length:
        raise InputError(f"{name} holds {declared} values where its image has {length}: its size does not match.")
    if (word := read(32, 5) + 1) != 8:
        raise InputError(f"{name} has words of {word} bits; only 8 are used by Label Studio.")
    sizes = [read(at, 4) + 1 for at in range(37, _HEADER_BITS, 4)]
    stream = np.unpackbits(np.frombuffer(data, np.uint8))
    values = np.empty(length, np.uint8)
    at, done = _HEADER_BITS, 0
    while done < length:
        is_run, size = read(at, 1), sizes[read(at + 1, 2)]
        count = read(at + 3, size) + 1
        at += 3 + size
        if done + count > length:
            raise InputError(f"{name} holds more values than its image has pixels.")
        used = 8 if is_run else 8 * count
        read(at + used - 8, 8)
        values[done : done + count] = np.packbits(stream[at : at + used])
        at, done = at + used, done + count
    return values
