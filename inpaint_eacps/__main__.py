"""The command line's entry point: `inpaint-eacps`, `python -m inpaint_eacps`, `python inpaint_eacps/run.py`."""

import sys
from collections.abc import Sequence

from inpaint_eacps.argv import hide_secrets, normalise


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code (`shared.errors.ExitCode`)."""
    if argv is None:
        hide_secrets()
        argv = sys.argv[1:]
    from inpaint_eacps.cli import app
    from inpaint_eacps.failure import report_failure

    try:
        app(args=list(normalise(argv)), prog_name="inpaint-eacps")
    except Exception as error:
        raise SystemExit(int(report_failure(error))) from None


if __name__ == "__main__":
    main()
