"""What holds for every test."""

import contextlib
import sys


def _hide_a_torchvision_that_cannot_be_imported() -> None:
    """Packages that find torchvision installed import it, and peft then fails to import at all.

    Beside a CPU build of torch, PyPI's torchvision has no operators.
    """
    with contextlib.suppress(ImportError):
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            sys.modules["torchvision"] = None  # type: ignore[assignment]


_hide_a_torchvision_that_cannot_be_imported()
