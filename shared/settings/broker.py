"""Settings of the connection to Valkey or Redis."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from shared.settings.base import Section


class BrokerSettings(Section):
    """Where the queue lives. The URL may hold a password, so it is a secret and never shown."""

    url: Annotated[SecretStr | None, Field(description="redis://, rediss:// or unix:// URL; unset means embedded.")] = (
        None
    )
    url_file: Annotated[Path | None, Field(description="File that holds the URL.")] = None
    password_file: Annotated[Path | None, Field(description="File that holds the password, if the URL has none.")] = (
        None
    )
