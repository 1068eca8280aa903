"""The one place where an error becomes a sentence on stderr and an exit code."""

import os
import sys
import traceback

from shared.errors import ExitCode, InpaintError
from shared.logs import Redactor


def report_failure(error: Exception, verbose: bool) -> ExitCode:
    """Write `error` to stderr, without secrets; with `verbose`, the traceback."""
    if verbose:
        text = "".join(traceback.format_exception(error))
    elif isinstance(error, InpaintError):
        text = "Error: " + "\n  because: ".join(_chain(error)) + "\n"
    else:
        text = f"Internal error: {type(error).__name__}: {error}\nRun the same command with -v to see where.\n"
    sys.stderr.write(Redactor(os.environ)(text))
    return error.exit_code if isinstance(error, InpaintError) else ExitCode.SOME_FAILED


def _chain(error: BaseException) -> list[str]:
    """Our own messages from the outermost error inwards, each once; what other packages said stands in them already."""
    messages: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InpaintError) and not any(str(cause) in earlier for earlier in messages):
            messages.append(str(cause))
        cause = cause.__cause__
    return messages
