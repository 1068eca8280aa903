"""The one place where an error becomes a sentence on stderr and an exit code."""

import logging
import os
import sys
import traceback

from shared.errors import ExitCode, InpaintError
from shared.logs import Redactor

_LONGEST_CHAIN = 4


def report_failure(error: Exception) -> ExitCode:
    """Write `error` and its causes to stderr, without secrets; the traceback only with -v."""
    verbose = logging.getLogger().isEnabledFor(logging.INFO)
    if verbose:
        text = "".join(traceback.format_exception(error))
    elif isinstance(error, InpaintError):
        text = "\n  because: ".join(_chain(error)) + "\n"
        text = f"Error: {text}"
    else:
        text = f"Internal error: {type(error).__name__}: {error}\nRun the same command with -v to see where.\n"
    sys.stderr.write(Redactor(os.environ)(text))
    return error.exit_code if isinstance(error, InpaintError) else ExitCode.SOME_FAILED


def _chain(error: BaseException) -> list[str]:
    """Messages from the outermost error inwards, each once."""
    messages: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(messages) < _LONGEST_CHAIN:
        message = str(cause) if isinstance(cause, InpaintError) else f"{type(cause).__name__}: {cause}"
        if not any(message in earlier for earlier in messages):
            messages.append(message)
        cause = cause.__cause__
    return messages
