"""`report`: pages written again from what is on disk."""

import re
import sys

from inpaint_eacps.arguments import Arguments
from inpaint_eacps.selection import wanted_ids
from orchestrator.publish import METRICS, REPORT, republish_report
from shared.artifacts import ArtifactStore, task_file
from shared.errors import ExitCode, InputError

_METRICS = re.compile(rf"task_([A-Za-z0-9._-]{{1,64}})/{re.escape(METRICS)}")


def report(arguments: Arguments) -> ExitCode:
    """Write report.html of the tasks named, or of all that were published; prints where they are.

    Raises InputError when nothing was ever published there. Tasks named that were not are reported: exit code 1.
    """
    store = ArtifactStore(arguments.resolve().settings.publish.output_dir)
    wanted = wanted_ids(arguments)
    ids = wanted or tuple(sorted(match[1] for name in store.list() if (match := _METRICS.fullmatch(name))))
    if not ids:
        raise InputError(f"There are no results in {store.where()}; give the folder of a finished run as --output-dir.")
    absent = []
    for task_id in ids:
        if republish_report(store, task_id):
            sys.stdout.write(store.where(task_file(task_id, REPORT)) + "\n")
        else:
            absent.append(task_id)
    if absent:
        sys.stderr.write(f"Error: there are no results of {', '.join(absent)} in {store.where()}.\n")
    return ExitCode.SOME_FAILED if absent else ExitCode.OK
