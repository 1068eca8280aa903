"""The command line's entry point: `inpaint-eacps`, `python -m inpaint_eacps`, `python inpaint_eacps/run.py`."""

import sys
from collections.abc import Sequence

from inpaint_eacps.argv import asks_for_more, hide_secrets, normalise


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code (`shared.errors.ExitCode`)."""
    if argv is None:
        hide_secrets()
        argv = sys.argv[1:]
    words = normalise(argv)
    try:
        from inpaint_eacps.cli import app

        app(args=list(words), prog_name="inpaint-eacps")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        from inpaint_eacps.failure import report_failure

        raise SystemExit(int(report_failure(error, asks_for_more(words)))) from None


if __name__ == "__main__":
    main()
