"""Downloads kept byte for byte, named by their content.

`objects/ab/ab…` holds the bytes; `urls/<hash of the URL>.json` says which content a URL gave. Both are written whole
or not at all, so any number of processes may share one cache, and any of them may be killed.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4


def sha256(data: bytes) -> str:
    """The SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Cache:
    """A folder of downloads."""

    root: Path

    def get(self, url: str, max_bytes: int) -> tuple[Path, bytes] | None:
        """What `url` gave before, if it is here and whole. Content over `max_bytes` counts as absent."""
        try:
            digest = str(json.loads(self._index(url).read_text())["sha256"])
            path = self._object(digest)
            if path.stat().st_size > max_bytes:
                return None
            data = path.read_bytes()
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return (path, data) if sha256(data) == digest else None

    def put(self, url: str, shown_url: str, data: bytes) -> Path:
        """Keep what `url` gave; `shown_url` is the URL without its secrets, for people who read the index."""
        path = self.store(data)
        entry = {
            "sha256": path.name,
            "bytes": len(data),
            "url": shown_url,
            "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_atomically(self._index(url), json.dumps(entry).encode())
        return path

    def store(self, data: bytes) -> Path:
        """Keep content that has no URL."""
        path = self._object(sha256(data))
        write_atomically(path, data)
        return path

    def _object(self, digest: str) -> Path:
        if not digest.isalnum():
            raise ValueError(f"{digest!r} is no hash")
        return self.root / "objects" / digest[:2] / digest

    def _index(self, url: str) -> Path:
        return self.root / "urls" / f"{sha256(url.encode())}.json"


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader sees all of it or nothing. Makes missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{uuid4().hex}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
