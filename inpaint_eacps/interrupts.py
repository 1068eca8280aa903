"""Ctrl-C and SIGTERM: the same exception for both, and a memory for the moments in which Python swallows it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked: list[int] = []


@contextmanager
def interruptible() -> Iterator[None]:
    """Both raise KeyboardInterrupt inside; one that whoever started us has ignored (`nohup`, `&`) stays ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    taken = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in taken:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
        _asked.clear()


def check_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal asked for it and the exception got lost in a callback."""
    if _asked:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    raise KeyboardInterrupt
