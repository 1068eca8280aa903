"""Settings of reading tasks and fetching images."""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from shared.settings.base import Section

FIELD_NAMES = ("id", "name", "init", "mask", "character", "character_id")


class InputSettings(Section):
    """Where inputs come from and what is let in."""

    cache_dir: Annotated[Path, Field(description="Downloads, byte for byte, named by content.")] = Path("data/cache")
    fields: Annotated[
        Mapping[str, str],
        Field(
            description="Field of an export item for each of `id name init mask character character_id`, if it is "
            "none of the usual."
        ),
    ] = {}
    max_bytes: Annotated[int, Field(gt=0, description="Largest image file, in bytes.")] = 64 * 2**20
    max_pixels: Annotated[int, Field(gt=0, le=2**30, description="Largest image, width x height.")] = 50_000_000
    connect_timeout_s: Annotated[float, Field(gt=0, le=600, description="Longest wait for a connection.")] = 10.0
    read_timeout_s: Annotated[float, Field(gt=0, le=600, description="Longest silence during a download.")] = 30.0
    total_timeout_s: Annotated[
        float, Field(gt=0, le=3600, description="Longest download, redirects included, attempts counted singly.")
    ] = 120.0
    max_redirects: Annotated[int, Field(ge=0, le=20, description="Redirects followed for one download.")] = 5
    attempts: Annotated[
        int, Field(ge=1, le=10, description="Tries of a download that fails for a passing reason (5xx, 429, time-out).")
    ] = 4
    allow_hosts: Annotated[
        tuple[str, ...],
        Field(
            description="Host names, or networks in CIDR notation, that may be fetched from although their addresses "
            "are private or loopback."
        ),
    ] = ()

    @field_validator("fields")
    @classmethod
    def _known_fields(cls, fields: Mapping[str, str]) -> Mapping[str, str]:
        unknown = sorted(set(fields) - set(FIELD_NAMES))
        if unknown:
            raise ValueError(f"unknown field {', '.join(unknown)}; there are {', '.join(FIELD_NAMES)}")
        return fields

    @field_validator("allow_hosts")
    @classmethod
    def _hosts_or_networks(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            try:
                ipaddress.ip_network(entry, strict=False)
            except ValueError:
                if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?", entry) or entry[-1].isdigit():
                    raise ValueError(
                        f"{entry!r} is neither a host name (without scheme and port) nor a network such as 10.0.0.0/8"
                    ) from None
        return entries
