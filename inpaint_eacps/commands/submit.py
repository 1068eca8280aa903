"""`submit`: hand tasks over and return."""

import json
import os
import sys

from inpaint_eacps.arguments import Arguments
from inpaint_eacps.choice import Order, choose_for_cluster
from inpaint_eacps.choice import submit as hand_over
from inpaint_eacps.cluster import connect
from inpaint_eacps.selection import select_tasks, wanted_ids
from shared.errors import ConfigurationError, ExitCode


def submit(arguments: Arguments) -> ExitCode:
    """Submit; prints the run's id. Exit code 1 when a task was left out."""
    settings = arguments.resolve().settings
    single = arguments.init or arguments.mask or arguments.character
    if not (arguments.all or single or wanted_ids(arguments)):
        raise ConfigurationError("Say which tasks: their ids, --from-file FILE, or --all for every one of the export.")
    selection = select_tasks(arguments, settings, os.environ)
    for problem in selection.problems:
        sys.stderr.write(f"Left out: {problem}\n")
    client = connect(settings)
    choice = choose_for_cluster(client, settings, os.environ)
    submitted = hand_over(client, selection.tasks, settings, choice, Order(arguments.priority, arguments.force))
    if arguments.json:
        text = json.dumps({"run": submitted.run, "accepted": submitted.accepted, "refused": dict(submitted.refused)})
    else:
        text = submitted.run
    sys.stdout.write(text + "\n")
    if not arguments.quiet:
        sys.stderr.write(
            f"{len(submitted.accepted)} of {len(selection.tasks)} tasks submitted. {choice.line()} "
            f"Watch: inpaint-eacps status {submitted.run} --watch\n"
        )
    return ExitCode.SOME_FAILED if selection.problems or submitted.refused else ExitCode.OK
