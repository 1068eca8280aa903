"""The two places an artifact store keeps its files in: a folder, or anything behind an fsspec URL.

Names come checked from `shared.artifacts`; errors go up as the file system or the client raised them.
"""

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from shared.errors import ConfigurationError

_PART = ".part"


class Root(Protocol):
    """What a place to keep files must be able to do. Names are checked before they get here."""

    def put(self, name: str, data: bytes) -> None: ...
    def get(self, name: str) -> bytes: ...
    def exists(self, name: str) -> bool: ...
    def names(self, folder: str) -> list[str]: ...
    def move(self, source: str, target: str) -> None: ...
    def delete(self, name: str) -> None: ...


class LocalFolder:
    """Files on a local or shared file system."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, data: bytes) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}{_PART}")
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)

    def get(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def exists(self, name: str) -> bool:
        return (self._root / name).is_file()

    def names(self, folder: str) -> list[str]:
        base = self._root / folder
        if base.is_file():
            return [folder]
        return [
            (Path(where) / file).relative_to(self._root).as_posix()
            for where, _, files in os.walk(base)
            for file in files
            if not file.endswith(_PART)
        ]

    def move(self, source: str, target: str) -> None:
        new = self._root / target
        new.parent.mkdir(parents=True, exist_ok=True)
        (self._root / source).rename(new)
        _sync_folder(new.parent)

    def delete(self, name: str) -> None:
        path = self._root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=False)
        else:
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut (where the file system lets a folder be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


class RemoteFolder:
    """Files behind an fsspec URL. One put makes one object, so a reader never sees a part of it."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._lock = threading.Lock()
        self._open: tuple[int, Any, str] | None = None

    def _fs(self) -> tuple[Any, str]:
        """The file system and the root's path in it, made anew after a fork (its event loop does not survive one)."""
        opened = self._open
        if opened is None or opened[0] != os.getpid():
            with self._lock:
                opened = (os.getpid(), *_open_url(self._url))
                self._open = opened
        return opened[1], opened[2]

    def _on(self, name: str) -> tuple[Any, str]:
        fs, root = self._fs()
        return fs, f"{root}/{name}" if name else root

    def put(self, name: str, data: bytes) -> None:
        fs, path = self._on(name)
        fs.pipe_file(path, data)

    def get(self, name: str) -> bytes:
        fs, path = self._on(name)
        return bytes(fs.cat_file(path))

    def exists(self, name: str) -> bool:
        fs, path = self._on(name)
        return bool(fs.isfile(path))

    def names(self, folder: str) -> list[str]:
        fs, path = self._on(folder)
        _, root = self._fs()
        found: list[str] = fs.find(path)
        return [one.removeprefix(f"{root}/") for one in found]

    def move(self, source: str, target: str) -> None:
        names = self.names(source)
        if not names:
            raise FileNotFoundError(source)
        for each in (self._copy, self._remove):
            for name in names:
                each(name, target + name.removeprefix(source))

    def _copy(self, name: str, target: str) -> None:
        fs, path = self._on(name)
        fs.cp_file(path, self._on(target)[1])

    def _remove(self, name: str, target: str) -> None:
        del target
        fs, path = self._on(name)
        fs.rm_file(path)

    def delete(self, name: str) -> None:
        for each in self.names(name):
            self._remove(each, "")


def _open_url(url: str) -> tuple[Any, str]:
    try:
        import fsspec

        connect: Callable[..., tuple[Any, str]] = fsspec.core.url_to_fs
        fs, root = connect(url, use_listings_cache=False)
    except ImportError as error:
        raise ConfigurationError(
            f"publish.output_dir {url.partition('://')[0]}://… needs a package that is not installed ({error}); "
            "for s3:// install inpaint-eacps[s3]."
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"publish.output_dir is not a URL that fsspec understands: {error}.") from error
    return fs, root.rstrip("/")
