"""Where API keys come from: the environment or a file, never a flag, and never shown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from shared.errors import ConfigurationError

_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
_FILE_VARIABLE = "GEMINI_API_KEY_FILE"


class KeySource(Protocol):
    """Settings that may name a file with a key."""

    @property
    def api_key_file(self) -> Path | None: ...


def has_api_key(settings: KeySource, env: Mapping[str, str]) -> bool:
    """Whether a Gemini key is set anywhere (it is not read)."""
    return bool(settings.api_key_file or any(env.get(name, "").strip() for name in (*_VARIABLES, _FILE_VARIABLE)))


def api_key(settings: KeySource, env: Mapping[str, str]) -> SecretStr:
    """The Gemini key: the file of `scoring.gemini.api_key_file`, else `GEMINI_API_KEY_FILE`, else the variables.

    Raises ConfigurationError when there is none, or the file cannot be read or is empty.
    """
    if path := settings.api_key_file:
        return key_from_file(path, "scoring.gemini.api_key_file")
    if text := env.get(_FILE_VARIABLE, "").strip():
        return key_from_file(Path(text), _FILE_VARIABLE)
    for name in _VARIABLES:
        if key := env.get(name, "").strip():
            return SecretStr(key)
    raise ConfigurationError(
        "The judge gemini needs an API key: set GEMINI_API_KEY, or name a file that holds it "
        "(GEMINI_API_KEY_FILE or scoring.gemini.api_key_file)."
    )


def key_from_file(path: Path, source: str) -> SecretStr:
    """The key in a file; `source` is what messages call the setting. Raises ConfigurationError."""
    try:
        key = path.expanduser().read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(f"{source}: the key file {path} cannot be read: {reason}.") from error
    if not key or len(key.split()) != 1:
        raise ConfigurationError(f"{source}: {path} must hold one API key and nothing else.")
    return SecretStr(key)
