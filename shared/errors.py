"""The exception tree and the exit codes.

InpaintError
├── Retryable            the same call may succeed later
│   └── BrokerUnreachable
└── Permanent            the same call fails again until someone changes something
    ├── ConfigurationError   a setting, flag or file of settings
    ├── InputError           a task, image, mask, URL or export
    ├── MissingDependency    an optional package is not installed
    ├── DeviceError          a device cannot do the work (memory, driver)
    │   └── DeviceLost       its context is broken: the process must be started again
    └── Cancelled            somebody asked for the work to stop

Every message is one or two sentences a user can act on: which field, which file, what to do.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the command line returns."""

    #: Every task is done.
    OK = 0
    #: The run ended, and some tasks failed.
    SOME_FAILED = 1
    #: A flag, a setting or an input file is wrong; nothing was started.
    USAGE = 2
    #: The broker could not be reached.
    BROKER_UNREACHABLE = 3
    #: A device could not be used: no memory, no driver, or the model would not load.
    DEVICE = 4
    #: Ctrl-C or SIGTERM; the run can be taken up again.
    INTERRUPTED = 130


class InpaintError(Exception):
    """Something went wrong. Without a message of its own, the class speaks for itself."""

    exit_code: ExitCode = ExitCode.SOME_FAILED

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((self.__doc__ or "").split()))


class Retryable(InpaintError):
    """This did not work now; the same call may succeed later."""


class Permanent(InpaintError):
    """This will fail again until something is changed."""


class BrokerUnreachable(Retryable):
    """The broker does not answer. Check that Valkey or Redis runs and that INPAINT_EACPS_BROKER_URL points at it."""

    exit_code = ExitCode.BROKER_UNREACHABLE


class ConfigurationError(Permanent):
    """A setting is wrong. `inpaint-eacps config show` prints each value and where it came from."""

    exit_code = ExitCode.USAGE


class InputError(Permanent):
    """A task's input cannot be used."""

    exit_code = ExitCode.USAGE


class MissingDependency(Permanent):
    """An optional package is missing. `inpaint-eacps doctor` names the extra that brings it."""

    exit_code = ExitCode.USAGE


class DeviceError(Permanent):
    """The device cannot do this work."""

    exit_code = ExitCode.DEVICE


class DeviceLost(DeviceError):
    """The device's context is broken and nothing more will run in this process; it must be started again."""


class Cancelled(Permanent):
    """The work was cancelled."""
