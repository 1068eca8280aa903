"""`python3 inpaint_eacps/run.py --task_id 71651078 …`: `inpaint-eacps run` from a checkout, installed or not."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _enter_checkout() -> None:
    """Make the checkout importable, here and in child processes, instead of the folder of this file."""
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "inpaint_eacps")]
    known = os.environ.get("PYTHONPATH", "")
    if str(ROOT) not in known.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), known)))


def _need_packages() -> None:
    """Without our dependencies, go on in the checkout's own environment, or say how to make it."""
    if sys.version_info < (3, 11):  # noqa: UP036 - nobody has asked pip yet
        sys.stderr.write("Error: Python 3.11 or newer is needed.\n")
        raise SystemExit(2)
    if all(find_spec(name) for name in ("typer", "pydantic", "yaml", "celery")):
        return
    python = ROOT / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != python.parent.parent.resolve():
        os.execv(python, [str(python), *sys.orig_argv[1:]])  # noqa: S606
    sys.stderr.write(
        "Error: the packages are not installed; run `make install` (or `pip install -e '.[cpu]'`) first.\n"
    )
    raise SystemExit(2)


if __name__ == "__main__":
    _enter_checkout()
    from inpaint_eacps.argv import hide_secrets

    hide_secrets()
    _need_packages()
    from inpaint_eacps.__main__ import main

    main(["run", *sys.argv[1:]])
