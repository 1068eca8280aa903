"""Settings of the connection to Valkey or Redis."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, field_validator

from shared.errors import ConfigurationError
from shared.settings.base import Section

_SCHEMES = ("redis", "rediss", "unix", "redis+socket")


class BrokerSettings(Section):
    """Where the queue lives. The URL may hold a password, so it is a secret and never shown."""

    url: Annotated[SecretStr | None, Field(description="redis://, rediss:// or unix:// URL; unset means embedded.")] = (
        None
    )
    url_file: Annotated[Path | None, Field(description="File that holds the URL.")] = None
    password_file: Annotated[Path | None, Field(description="File that holds the password, if the URL has none.")] = (
        None
    )

    @field_validator("url")
    @classmethod
    def _check_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and urlsplit(url.get_secret_value()).scheme not in _SCHEMES:
            raise ValueError("must be a redis://, rediss:// or unix:// URL")
        return url

    def connection_url(self) -> str | None:
        """The URL with its password, read from the files if need be; `None` means embedded. Keep it out of logs.

        Raises ConfigurationError when a file cannot be read or is empty.
        """
        url = self.url.get_secret_value() if self.url else None
        if url is None and self.url_file is not None:
            url = read_secret(self.url_file, "broker.url_file")
            BrokerSettings.model_validate({"url": url})
        if url is None or self.password_file is None:
            return url
        parts = urlsplit(url)
        if parts.password:
            return url
        password = quote(read_secret(self.password_file, "broker.password_file"), safe="")
        return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{password}@{parts.netloc.rpartition('@')[2]}"))


def read_secret(file: Path, name: str) -> str:
    """The first line of a secret's file.

    Raises ConfigurationError that names the setting or variable `name`.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{name}: cannot read {file} ({type(error).__name__}).") from error
    if not lines or not lines[0].strip():
        raise ConfigurationError(f"{name}: {file} is empty.")
    return lines[0].strip()
