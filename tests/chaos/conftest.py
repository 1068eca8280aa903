"""Recovery times, told by tests and shown after them."""

import logging
from collections.abc import Callable

import pytest

logger = logging.getLogger(__name__)

_TIMES: list[tuple[str, float]] = []


@pytest.fixture
def recovered(record_property: Callable[[str, object], None]) -> Callable[[str, float], None]:
    """Tell how long something took to recover, in seconds."""

    def tell(what: str, seconds: float) -> None:
        logger.info("%s: %.2f s", what, seconds, extra={"action": "recovered"})
        record_property(what, round(seconds, 3))
        _TIMES.append((what, seconds))

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show them."""
    if _TIMES:
        terminalreporter.section("recovery times")
        for what, seconds in _TIMES:
            terminalreporter.write_line(f"{seconds:7.2f} s  {what}")
