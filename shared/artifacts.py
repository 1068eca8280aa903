"""The artifact store: files by name, written whole or not at all, on a folder or behind any fsspec URL.

A name is relative to the store's root, `/` between its parts, each part of `[A-Za-z0-9._-]`. Where things lie is said
here and nowhere else: see the naming functions at the end.
"""

import contextlib
import errno
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from shared.artifact_roots import LocalFolder, RemoteFolder, Root
from shared.errors import Permanent, Retryable
from shared.types import ArtifactRef

_NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
)


class ArtifactMissing(Retryable):
    """The artifact is not in the store (on a shared file system it may only be late)."""


class ArtifactCorrupt(Permanent):
    """The artifact's bytes are not those that were written."""


class ArtifactName(Permanent):
    """An artifact's name would leave the store or is not portable."""


def check_name(name: str) -> str:
    """Give `name` back if it is one. Raises ArtifactName for anything that could leave the root or is not portable."""
    if not _NAME.fullmatch(name) or any(part in {".", ".."} for part in name.split("/")):
        raise ArtifactName(
            f"{name[:200]!r} cannot name an artifact: use letters, digits, '.', '_' and '-' between '/'."
        )
    return name


def digest(data: bytes) -> str:
    """SHA-256 of `data`, as in `ArtifactRef.sha256`."""
    return hashlib.sha256(data).hexdigest()


class ArtifactStore:
    """Files under one root: a local (or shared) folder, or an object store such as `s3://bucket/prefix`.

    Cheap to construct, picklable, safe to use from many threads and after a fork. Credentials of an object store come
    from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …, or fsspec's `FSSPEC_<PROTOCOL>_<OPTION>`).
    Raises ConfigurationError for a URL that no installed package understands.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        folder = _local_folder(url)
        self._root: Root = LocalFolder(folder) if folder is not None else RemoteFolder(url)
        self._folder = folder

    def __reduce__(self) -> tuple[type["ArtifactStore"], tuple[str]]:
        return type(self), (self.url,)

    def __repr__(self) -> str:
        return f"ArtifactStore({self.where()!r})"

    def where(self, name: str = "") -> str:
        """How to show a place to a person: a path or a URL, without credentials."""
        if self._folder is not None:
            return str(self._folder / name)
        parts = urlsplit(self.url)
        base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
        return f"{base}/{name}" if name else base

    def local_path(self, name: str) -> Path | None:
        """Where `name` lies on this machine's file system; `None` for an object store."""
        return self._folder / check_name(name) if self._folder is not None else None

    def write(self, name: str, data: bytes) -> ArtifactRef:
        """Store `data` under `name`, replacing what was there; a reader sees the old bytes or the new, never a part.

        Raises Retryable when the disk is full or the store does not answer, Permanent when it refuses for good.
        """
        check_name(name)
        with self._explained("write", name):
            self._root.put(name, data)
        return ArtifactRef(name=name, sha256=digest(data))

    def read(self, artifact: ArtifactRef | str) -> bytes:
        """Read an artifact whole; one given by reference is checked against its SHA-256.

        Raises ArtifactMissing, ArtifactCorrupt, or Retryable when the store does not answer.
        """
        name = check_name(artifact if isinstance(artifact, str) else artifact.name)
        with self._explained("read", name):
            data = self._root.get(name)
        if isinstance(artifact, ArtifactRef) and digest(data) != artifact.sha256:
            raise ArtifactCorrupt(
                f"{self.where(name)} was changed after it was written (its SHA-256 is another); "
                "delete it and run the task again."
            )
        return data

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        check_name(name)
        with self._explained("look for", name):
            return self._root.exists(name)

    def list(self, prefix: str = "") -> tuple[str, ...]:
        """Names of all files in the folder `prefix` and below it, sorted; all files for an empty prefix."""
        folder = check_name(prefix.rstrip("/")) if prefix else ""
        with self._explained("list", folder):
            return tuple(sorted(self._root.names(folder)))

    def move(self, prefix: str, new_prefix: str) -> None:
        """Rename a file or a folder with all in it. Atomic on a file system; copy, then delete, on an object store.

        Raises ArtifactMissing when there is nothing to move, Permanent when the new name is taken.
        """
        source, target = check_name(prefix.rstrip("/")), check_name(new_prefix.rstrip("/"))
        if source == target or target.startswith(f"{source}/"):
            raise ArtifactName(f"{source} cannot be moved into itself ({target}).")
        with self._explained("move", source):
            if self._root.exists(target) or self._root.names(target):
                raise Permanent(f"{self.where(target)} exists already; delete it or choose another name.")
            self._root.move(source, target)

    def delete(self, prefix: str) -> None:
        """Delete a file or a folder with all in it; no error when there is none."""
        name = check_name(prefix.rstrip("/"))
        with self._explained("delete", name):
            self._root.delete(name)

    @contextlib.contextmanager
    def _explained(self, verb: str, name: str) -> Iterator[None]:
        """Turn what a file system or an object store throws into our own errors."""
        where = self.where(name)
        try:
            yield
        except (Retryable, Permanent):
            raise
        except FileNotFoundError as error:
            raise ArtifactMissing(f"Could not {verb} {where}: it does not exist.") from error
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in _FULL:
                raise Retryable(f"Could not {verb} {where}: the disk is full ({reason}). Free some space.") from error
            if error.errno in _REFUSED or isinstance(error, PermissionError):
                raise Permanent(f"Could not {verb} {where}: {reason}. Check its permissions and its path.") from error
            raise Retryable(f"Could not {verb} {where}: {reason}.") from error
        except ImportError:
            raise
        except Exception as error:  # object store clients each have an exception tree of their own
            kind = Permanent if "Credential" in type(error).__name__ else Retryable
            raise kind(f"Could not {verb} {where}: {type(error).__name__}: {error}") from error


def _local_folder(url: str) -> Path | None:
    """The folder that a path or a `file://` URL means; `None` for any other URL."""
    if "://" not in url:
        return Path(url).expanduser().absolute()
    if url.startswith(("file://", "local://")):
        return Path("/" + url.partition("://")[2].lstrip("/"))
    return None


# Where things lie:
#
# task_<id>/init.png mask.png character.png result.png candidate_<rank>_seed<seed>.png metrics.json report.html
# task_<id>/candidates/<candidate>[-<attempt>].png              the image
#                                             .json             how it was made (shared.types.Generated)
#                                             .scores.json      how it was judged
#                                             .latents.safetensors
#
# The first attempt has no number. Every attempt has names of its own, so that a worker that was taken for dead and
# comes back can never overwrite what was recorded; "-" is in no candidate's id, so no two candidates share a name.

_RECORD = re.compile(r"(?P<id>[a-z][0-9]{2,6}(\.[0-9]{1,6})*)(-(?P<attempt>[0-9]+))?\.json")


def task_folder(task_id: str) -> str:
    """Folder of all that belongs to a task."""
    return f"task_{task_id}"


def task_file(task_id: str, file: str) -> str:
    """A file directly in the task's folder, such as `init.png` or `metrics.json`."""
    return f"{task_folder(task_id)}/{file}"


def candidates_folder(task_id: str) -> str:
    """Folder of all of a task's candidates."""
    return f"{task_folder(task_id)}/candidates"


def _stem(task_id: str, candidate_id: str, attempt: int) -> str:
    return f"{candidates_folder(task_id)}/{candidate_id}" + (f"-{attempt}" if attempt > 1 else "")


def candidate_image_name(task_id: str, candidate_id: str, attempt: int = 1) -> str:
    """A candidate's image."""
    return f"{_stem(task_id, candidate_id, attempt)}.png"


def candidate_record_name(task_id: str, candidate_id: str, attempt: int = 1) -> str:
    """How a candidate was made, written by the device worker after the image: where it is, the image is whole."""
    return f"{_stem(task_id, candidate_id, attempt)}.json"


def candidate_scores_name(task_id: str, candidate_id: str, attempt: int = 1) -> str:
    """How a candidate was judged, written by the score worker."""
    return f"{_stem(task_id, candidate_id, attempt)}.scores.json"


def candidate_extra_name(
    task_id: str, candidate_id: str, attempt: int, kind: str, extension: str = "safetensors"
) -> str:
    """A further artifact of a candidate, such as its latents."""
    return f"{_stem(task_id, candidate_id, attempt)}.{kind}.{extension}"


def parse_record_name(name: str) -> tuple[str, int] | None:
    """Candidate id and attempt that a record's name (with or without folders) tells; `None` for any other file."""
    match = _RECORD.fullmatch(name.rpartition("/")[2])
    return (match["id"], int(match["attempt"] or 1)) if match else None
