"""Folders that have to be written to, tried before anything is started."""

import tempfile
from pathlib import Path

from shared.artifacts import ArtifactStore
from shared.errors import ConfigurationError
from shared.settings import Settings

CACHE, RESULTS = "input.cache_dir (--cache-dir)", "publish.output_dir (--output-dir)"


def try_writing(folder: Path) -> Path:
    """Write a file into `folder`, or into the first of its parents that exists, and give that place back.

    Raises OSError when it cannot be written.
    """
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    with tempfile.NamedTemporaryFile(dir=place):
        return place


def check_writable(settings: Settings) -> None:
    """Raises ConfigurationError when downloads or results could not be written; an object store is not tried."""
    results = ArtifactStore(settings.publish.output_dir).local_path("runs")
    for name, folder in ((CACHE, settings.input.cache_dir), (RESULTS, results and results.parent)):
        if folder is None:
            continue
        try:
            try_writing(folder)
        except OSError as error:
            raise ConfigurationError(
                f"{name}: {folder} cannot be written ({error.strerror}); make it writable, or choose another."
            ) from error
