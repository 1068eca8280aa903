"""Ctrl-C and SIGTERM, also when Python swallows the exception they raise."""

import os
import signal
import weakref

import pytest

from inpaint_eacps.interrupts import check_interrupted, interruptible


class Thing:
    """What a weak reference can point at."""


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts(sig: signal.Signals) -> None:
    before = signal.getsignal(sig)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), sig)
    assert signal.getsignal(sig) is before
    check_interrupted()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_that_a_callback_swallowed_is_remembered() -> None:
    thing = Thing()
    watch = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with interruptible():
        del thing
        assert watch() is None
        with pytest.raises(KeyboardInterrupt):
            check_interrupted()


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGINT)
            check_interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
