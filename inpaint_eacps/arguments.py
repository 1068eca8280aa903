"""What was given on the command line, typed, and the settings it resolves to."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from inpaint_eacps.options import SETTING_OF_FLAG
from shared.errors import ConfigurationError
from shared.logs import set_up_logging
from shared.settings.load import Override, Resolved, load_settings

#: Read when it lies in the working directory; `make install` leaves one with every line commented out.
DEFAULT_FILE = Path("configs/default.yaml")


@dataclass(frozen=True)
class Arguments:
    """The flags of all commands; what a command does not have keeps its default."""

    tasks_wanted: tuple[str, ...] = ()
    tasks: Path | None = None
    task_id: tuple[str, ...] = ()
    from_file: Path | None = None
    all: bool = False
    init: str | None = None
    mask: str | None = None
    character: str | None = None
    name: str | None = None
    id: str | None = None
    device: tuple[str, ...] = ()
    workers: int | None = None
    priority: int = 0
    force: bool = False
    dry_run: bool = False
    run_id: str = ""
    watch: bool = False
    failed: bool = True
    queue: str | None = None
    drain: str | None = None
    port: int = 5555
    address: str = "127.0.0.1"
    online: bool = False
    export: Path | None = None
    config: tuple[Path, ...] = ()
    set_: tuple[str, ...] = ()
    json: bool = False
    quiet: bool = False
    verbose: int = 0
    overrides: tuple[Override, ...] = ()

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "Arguments":
        """From the parameters that typer parsed; also sets up logging, since -v and -q are known now."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in params.items()
        }
        arguments = cls(
            **{name: value for name, value in values.items() if name in known and value is not None},
            overrides=tuple(
                Override(setting, values[flag], "--" + flag.replace("_", "-"))
                for flag, setting in SETTING_OF_FLAG.items()
                if values.get(flag) not in (None, ())
            ),
        )
        set_up_logging(-1 if arguments.quiet else arguments.verbose)
        return arguments

    def resolve(self) -> Resolved:
        """The settings: defaults, configs/default.yaml, --config, environment, flags, --set.

        Raises ConfigurationError.
        """
        files = ((DEFAULT_FILE,) if DEFAULT_FILE.is_file() else ()) + self.config
        return load_settings(files, os.environ, (*self.overrides, *map(_assignment, self.set_)))


def _assignment(text: str) -> Override:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"--set {text}: write it as section.field=value.")
    return Override(name.strip(), value, f"--set {name.strip()}")
