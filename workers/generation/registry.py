"""Generators by name. Importing this module imports no generator and no heavy package."""

import importlib
import importlib.util
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from shared.errors import ConfigurationError
from shared.settings import Settings
from workers.generation.base import Generator

AUTO = "auto"
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class _Entry:
    path: str
    #: Name of its section in `generation`.
    section: str
    #: Whether it is told the device (as torch names it) that it shall use.
    on_device: bool = True


_GENERATORS: Mapping[str, _Entry] = {
    "composite": _Entry("workers.generation.composite:CompositeGenerator", "composite", on_device=False),
    "qwen-image-edit": _Entry("workers.generation.qwen:QwenImageEditGenerator", "qwen"),
    "openai-http": _Entry("workers.generation.openai_http:OpenAIHttpGenerator", "openai_http", on_device=False),
    "insightface-swap": _Entry("workers.generation.insightface_swap:InsightFaceSwapGenerator", "insightface"),
}


def generator_names() -> tuple[str, ...]:
    """The names that `generation.generator` may hold, besides `auto` and dotted ones."""
    return tuple(_GENERATORS)


def resolve_auto(settings: Settings) -> str:
    """The generator of this machine: `qwen-image-edit` where there is an NVIDIA driver and diffusers, else `composite`.

    Nothing is imported for it: a driver shows itself by `nvidia-smi`. Raises ConfigurationError for an unknown name.
    """
    name = settings.generation.generator
    if name != AUTO:
        if name not in _GENERATORS and not _DOTTED.fullmatch(name):
            raise ConfigurationError(
                f"generation.generator: {name!r} is no generator; choose among auto, {', '.join(_GENERATORS)}, "
                "or package.module:Class."
            )
        return name
    has_model_stack = all(importlib.util.find_spec(package) for package in ("torch", "diffusers", "transformers"))
    return "qwen-image-edit" if has_model_stack and shutil.which("nvidia-smi") else "composite"


def check_found(name: str) -> None:
    """Raises ConfigurationError for a dotted name whose module is not here; the module itself is not imported."""
    module, colon, _ = name.partition(":")
    try:
        if colon and importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}")
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"generation.generator: {name!r} cannot be imported ({error}).") from error


def make_generator(name: str, settings: Settings, device: str) -> Generator:
    """Construct a generator for `device` (`cpu`, `cuda`); cheap: `load` does the work.

    A dotted one is constructed as `Class(settings, device)`.
    Raises ConfigurationError for an unknown name, MissingDependency where a package is missing.
    """
    entry = _GENERATORS.get(name)
    kind = _load(entry.path if entry else name)
    if entry is None:
        return cast(Generator, kind(settings, device))
    section = getattr(settings.generation, entry.section)
    return cast(Generator, kind(section, device) if entry.on_device else kind(section))


def _load(path: str) -> Any:
    if not _DOTTED.fullmatch(path):
        raise ConfigurationError(f"generation.generator: {path!r} is no generator.")
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except AttributeError as error:
        raise ConfigurationError(f"generation.generator: {module} has no {attribute}.") from error
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise ConfigurationError(f"generation.generator: {path!r} cannot be imported ({error}).") from error
