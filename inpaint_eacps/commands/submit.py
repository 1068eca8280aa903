"""`submit`: hand tasks over and return."""

import json
import os
import sys

from inpaint_eacps.arguments import Arguments
from inpaint_eacps.choice import Choice, Order, choose_for_cluster
from inpaint_eacps.choice import submit as hand_over
from inpaint_eacps.cluster import connect
from inpaint_eacps.selection import select_tasks, wanted_ids
from orchestrator.client import Client
from orchestrator.estimate import estimate
from shared.errors import ConfigurationError, ExitCode
from shared.settings import Settings


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
    if arguments.dry_run:
        return _estimated(client, len(selection.tasks), settings, choice, arguments)
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


def _estimated(client: Client, tasks: int, settings: Settings, choice: Choice, arguments: Arguments) -> ExitCode:
    """Say what would be done; nothing is submitted."""
    devices = sum(beat is not None for beat in client.devices().values())
    found = estimate(client.ledger, tasks, settings, choice.generator, choice.judges, devices)
    if arguments.json:
        sys.stdout.write(found.model_dump_json() + "\n")
        return ExitCode.OK
    calls = ", ".join(f"{number} by {name}" for name, number in found.judge_calls.items())
    sys.stdout.write(f"{found.tasks} tasks, {found.candidates} candidates, judgements at most: {calls}.\n")
    if found.device_seconds is None:
        sys.stdout.write(f"No candidate of {choice.generator} was made on this cluster yet, so its time is unknown.\n")
    else:
        hours = found.device_seconds / 3600
        spread = f", {hours / devices:.2f} h on the {devices} devices that are up" if devices else ""
        sys.stdout.write(f"{found.candidate_seconds:.2f} s per candidate: {hours:.2f} device hours{spread}.\n")
    return ExitCode.OK
