"""`calibrate`: how far the judges agree with people, and with themselves."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import redis

from inpaint_eacps.arguments import Arguments
from inpaint_eacps.calibrate import calibrate as calibrated
from inpaint_eacps.calibrate import summary
from inpaint_eacps.human_choices import read_choices
from inpaint_eacps.reliability_plot import reliability_png
from inpaint_eacps.supervisor import Supervisor
from inpaint_eacps.valkey import EmbeddedValkey
from shared.artifacts import ArtifactMissing, ArtifactStore
from shared.errors import ConfigurationError, ExitCode
from workers.preparation.access import LabelStudioAccess
from workers.preparation.fetch import Fetcher
from workers.scoring.context import ScoringContext

RUN = "calibration"
REPORT, PLOT = "calibration/calibration.json", "calibration/reliability.png"


def calibrate(arguments: Arguments) -> ExitCode:
    """Judge every result of the export that people judged; prints a summary (or JSON), writes it and a plot.

    Exit code 1 when not one result could be judged. Raises InputError, ConfigurationError, MissingDependency.
    """
    if arguments.export is None:
        raise ConfigurationError("calibrate needs a Label Studio export: inpaint-eacps calibrate EXPORT.json")
    settings = arguments.resolve().settings
    choices = read_choices(arguments.export, settings.input, os.environ.get("LABEL_STUDIO_URL") or None)
    store = ArtifactStore(settings.publish.output_dir)
    fetcher = Fetcher(settings.input, LabelStudioAccess.from_environment(os.environ))

    def read(name: str) -> bytes | None:
        try:
            return store.read(name)
        except ArtifactMissing:
            return None

    def write(name: str, data: bytes) -> None:
        store.write(name, data)

    with _redis() as client:
        found = calibrated(choices, settings, fetcher, ScoringContext(RUN, client, read, write))
    text = found.model_dump_json(indent=2)
    store.write(REPORT, text.encode())
    sys.stdout.write((text if arguments.json else summary(found)) + "\n")
    if not found.judged:
        return ExitCode.SOME_FAILED
    store.write(PLOT, reliability_png(found))
    sys.stderr.write(f"Written: {store.where(REPORT)} and {store.where(PLOT)}\n")
    return ExitCode.OK


@contextlib.contextmanager
def _redis() -> Iterator["redis.Redis"]:
    """A Valkey of its own for as long as it lasts: limits, budgets and breakers of running runs stay untouched."""
    supervisor = Supervisor()
    with tempfile.TemporaryDirectory(prefix="inpaint-eacps-") as folder:
        embedded = EmbeddedValkey(Path(folder) / "valkey", supervisor)
        try:
            embedded.start()
            with redis.Redis.from_url(embedded.url) as client:
                yield client
        finally:
            supervisor.stop()
