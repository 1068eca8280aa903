"""Folders that have to be written to, tried before anything is started."""

import tempfile
from pathlib import Path

from shared.artifacts import ArtifactStore
from shared.errors import ConfigurationError, Permanent, Retryable
from shared.settings import Settings

CACHE, RESULTS = "input.cache_dir (--cache-dir)", "publish.output_dir (--output-dir)"
#: Written to an object store and deleted again.
_PROBE = "runs/probe"


def try_writing(folder: Path) -> Path:
    """Write a file into `folder`, or into the first of its parents that exists, and give that place back.

    Raises OSError when it cannot be written.
    """
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    with tempfile.NamedTemporaryFile(dir=place):
        return place


def check_writable(settings: Settings) -> None:
    """Raises ConfigurationError when downloads or results could not be written."""
    _check_folder(settings.input.cache_dir, CACHE)
    store = ArtifactStore(settings.publish.output_dir)
    if (runs := store.local_path("runs")) is not None:
        _check_folder(runs.parent, RESULTS)
        return
    try:
        store.write(_PROBE, b"")
        store.delete(_PROBE)
    except (Retryable, Permanent) as error:
        raise ConfigurationError(f"{RESULTS}: {error}") from error


def _check_folder(folder: Path, name: str) -> None:
    try:
        try_writing(folder)
    except OSError as error:
        raise ConfigurationError(
            f"{name}: {folder} cannot be written ({error.strerror}); make it writable, or choose another."
        ) from error
