"""Logging: one line per event on stderr, for people on a terminal and as JSON elsewhere; secrets never.

Every record of ours carries `extra={"action": "…"}`: a stable name that tests and searches rely on, not the words.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import TextIO
from urllib.parse import quote, urlsplit

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_MASK = "***"
#: Variables whose value is a secret; `…_FILE` holds a path and is none.
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD)$")
#: What looks like a secret wherever it comes from: passwords in URLs, signatures of signed URLs, Google keys, bearers.
_SECRET_TEXT = (
    (re.compile(r"(?<=://)([^\s/:@]*):([^\s/@]+)@"), rf"\1:{_MASK}@"),
    (
        re.compile(r"(?i)([?&](?:[a-z-]*signature|sig|key|token|x-amz-credential|x-amz-security-token)=)[^&\s\"']+"),
        rf"\1{_MASK}",
    ),
    (re.compile(r"AIza[0-9A-Za-z_-]{20,}"), _MASK),
    (re.compile(r"(?i)\b(bearer|token)\s+[A-Za-z0-9._~+/-]{12,}=*"), rf"\1 {_MASK}"),
)
#: Shorter values are words that occur by chance.
_SHORTEST_SECRET = 6


class Redactor:
    """Removes secrets from text: values of secret variables, and whatever looks like a secret."""

    def __init__(self, env: Mapping[str, str]) -> None:
        values = {value for name, value in env.items() if _SECRET_NAME.search(name)}
        values |= {urlsplit(value).password or "" for name, value in env.items() if "BROKER" in name and "://" in value}
        values = {value for value in values if len(value) >= _SHORTEST_SECRET}
        values |= {form for value in values for form in (json.dumps(value)[1:-1], quote(value, safe=""))}
        self._values = sorted(values, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, _MASK)
        for pattern, replacement in _SECRET_TEXT:
            text = pattern.sub(replacement, text)
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and everything given as `extra`."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return self._redact(json.dumps(entry, default=str, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """`12:30:05 warning  message  (key=value …)` for people."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        extra = " ".join(f"{key}={value}" for key, value in _extra(record).items() if key != "action")
        line = f"{clock} {record.levelname.lower():<7} {record.getMessage()}" + (f"  ({extra})" if extra else "")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return self._redact(line)


def set_up_logging(
    verbosity: int = 1,
    as_json: bool | None = None,
    stream: TextIO | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Send all logging to `stream` (stderr). Call it once per process; a later call replaces the earlier.

    `verbosity` is -1 for errors only, 0 for warnings, 1 for what happens, 2 for everything. `as_json` unset means:
    on anything but a terminal. `INPAINT_EACPS_LOG=json|text` decides where neither flag nor terminal should.
    """
    env = os.environ if env is None else env
    stream = stream or sys.stderr
    if as_json is None:
        as_json = {"json": True, "text": False}.get(env.get("INPAINT_EACPS_LOG", ""), not stream.isatty())
    redact = Redactor(env)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(redact) if as_json else TextFormatter(redact))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    level = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(max(verbosity, -1), logging.DEBUG)
    root.setLevel(level)
    #: Chatty at INFO, and their URLs may be signed.
    for noisy in ("httpx", "httpcore", "PIL", "botocore", "urllib3", "kombu", "amqp", "celery"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}
