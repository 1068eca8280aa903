"""The command line before anything reads it: spelling of flags, and secrets that must not stay in it."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

#: A secret in argv is visible to everyone who may run `ps`: it moves to this variable, which children inherit.
KEY_FLAG, KEY_VARIABLE = "--gemini-api-key", "GEMINI_API_KEY"
URL_FLAG, URL_VARIABLE = "--broker-url", "INPAINT_EACPS_BROKER__URL"
_SECRET_FLAGS = {KEY_FLAG: KEY_VARIABLE, URL_FLAG: URL_VARIABLE}


@dataclass(frozen=True)
class Cleaned:
    """Arguments without secrets, and the variables that now hold those."""

    argv: tuple[str, ...]
    moved: Mapping[str, str]
    warnings: tuple[str, ...]


def normalise(argv: Sequence[str]) -> tuple[str, ...]:
    """Flags with hyphens, whichever way they were written: `--task_id=7` becomes `--task-id=7`."""
    if "--" in argv:
        end = list(argv).index("--")
        return (*normalise(argv[:end]), *argv[end:])
    return tuple(_hyphens(word) if word.startswith("--") else word for word in argv)


def asks_for_more(words: Sequence[str]) -> bool:
    """Whether `-v` or `--verbose` is among the flags."""
    return any(word == "--verbose" or re.fullmatch(r"-q*v[qv]*", word) for word in words)


def take_secrets(argv: Sequence[str]) -> Cleaned:
    """Take a Gemini key, and a broker URL that holds a password, out of the arguments."""
    kept: list[str] = []
    moved: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        flag, _, value = _hyphens(word).partition("=")
        variable = _SECRET_FLAGS.get(flag) if word.startswith("--") else None
        if variable is None:
            kept.append(word)
            continue
        given = [word]
        if "=" not in word:
            value = next(words, "")
            given = [word, value] if value else [word]
        if flag == URL_FLAG and not _has_password(value):
            kept += given
        elif value:
            moved[variable] = value
        else:
            kept += given
    warnings = tuple(
        f"{flag} was given on the command line, where other users of this machine and your shell's history can read "
        f"it; set {variable} or {variable}_FILE instead."
        for flag, variable in _SECRET_FLAGS.items()
        if variable in moved
    )
    return Cleaned(tuple(kept), moved, warnings)


def hide_secrets() -> None:
    """If this process was started with a secret in its arguments, start it again without, so that `ps` forgets it."""
    cleaned = take_secrets(sys.orig_argv)
    if not cleaned.moved:
        return
    for warning in cleaned.warnings:
        sys.stderr.write(f"Warning: {warning}\n")
    sys.stderr.flush()
    replaced = {f"{variable}_FILE" for variable in cleaned.moved}
    env = {name: value for name, value in os.environ.items() if name not in replaced}
    os.execve(sys.executable, (sys.executable, *cleaned.argv[1:]), {**env, **cleaned.moved})  # noqa: S606


def _hyphens(word: str) -> str:
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def _has_password(url: str) -> bool:
    try:
        return bool(urlsplit(url).password)
    except ValueError:
        return False
