"""Judges by name. Importing this module imports no judge and no heavy package."""

import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.types import CRITERIA, IDENTITY
from workers.scoring.base import Comparer, Scorer
from workers.scoring.context import ScoringContext
from workers.scoring.keys import has_api_key

AUTO = "auto"
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class _Entry:
    path: str
    criteria: frozenset[str]
    #: Whether it can say which of two results is better.
    compares: bool = False


#: Every judge is constructed as `Class(settings, context)`.
_JUDGES: Mapping[str, _Entry] = {
    "local": _Entry("workers.scoring.local:LocalScorer", frozenset(CRITERIA)),
    "gemini": _Entry("workers.scoring.gemini:GeminiScorer", frozenset(CRITERIA), compares=True),
    "moondream": _Entry("workers.scoring.moondream:MoondreamScorer", frozenset(CRITERIA)),
    "arcface": _Entry("workers.scoring.arcface:ArcFaceScorer", frozenset({IDENTITY})),
    "clip": _Entry("workers.scoring.clip:ClipScorer", frozenset({"clip_text", "clip_image"})),
    "lpips": _Entry("workers.scoring.perceptual:LpipsScorer", frozenset({"lpips", "lpips_inside", "lpips_outside"})),
}


def judge_names() -> tuple[str, ...]:
    """The names that `scoring.judges` may hold, besides `auto` and dotted ones."""
    return tuple(_JUDGES)


def resolve_auto(settings: Settings, env: Mapping[str, str]) -> tuple[str, ...]:
    """The judges of a run with every `auto` replaced: `gemini` where an API key is set, else `local`.

    Raises ConfigurationError for a name that is no judge's.
    """
    chosen = "gemini" if has_api_key(settings.scoring.gemini, env) else "local"
    names = tuple(dict.fromkeys(chosen if name == AUTO else name for name in settings.scoring.named_judges))
    for name in names:
        if name not in _JUDGES:
            _check_dotted(name)
    return names


def criteria_of(name: str, settings: Settings) -> frozenset[str]:
    """What a judge judges. Only a dotted name imports anything: the module it names.

    Raises ConfigurationError for a name that is no judge's.
    """
    del settings  # every judge of today judges the same criteria whatever its settings
    if entry := _JUDGES.get(name):
        return entry.criteria
    return frozenset(_load(name).criteria)


def can_compare(name: str) -> bool:
    """Whether a judge can compare two results (finals). Raises ConfigurationError for a name that is no judge's."""
    entry = _JUDGES.get(name)
    return entry.compares if entry else callable(getattr(_load(name), "compare", None))


def comparer_of(names: Iterable[str], settings: Settings) -> str | None:
    """The preferred judge of the finals; `None` where there are none to be held.

    Raises ConfigurationError when finals are asked for and nobody can compare.
    """
    if settings.scoring.finals == "off":
        return None
    able = next((name for name in names if can_compare(name)), None)
    if able is None:
        raise ConfigurationError(
            f"scoring.finals: {settings.scoring.finals} needs a judge that can compare two results, and none of "
            f"{', '.join(names)} can; gemini can. Or set scoring.finals to off."
        )
    return able


def make_scorer(name: str, settings: Settings, context: ScoringContext) -> Scorer:
    """Construct a judge (cheap: `load` does the work), with its identity verified where the settings ask for it.

    Raises ConfigurationError for a name that is no judge's.
    """
    scorer = _make(name, settings, context)
    moondream = settings.scoring.moondream
    if moondream.verify_below is None or name == "moondream" or IDENTITY not in scorer.criteria:
        return scorer
    return cast(
        Scorer,
        _load("workers.scoring.verified:VerifiedScorer")(scorer, _make("moondream", settings, context), moondream),
    )


def make_comparer(name: str, settings: Settings, context: ScoringContext) -> Comparer:
    """Construct a judge for the finals. Raises ConfigurationError for one that cannot compare."""
    comparer = _make(name, settings, context)
    if not callable(getattr(comparer, "compare", None)):
        raise ConfigurationError(f"scoring.finals: the judge {name} cannot compare two results; gemini can.")
    return cast(Comparer, comparer)


def _make(name: str, settings: Settings, context: ScoringContext) -> Scorer:
    entry = _JUDGES.get(name)
    kind = _load(entry.path if entry else name)
    return cast(Scorer, kind(settings, context))


def _check_dotted(name: str) -> None:
    if not _DOTTED.fullmatch(name):
        raise ConfigurationError(
            f"scoring.judges: {name!r} is no judge; choose among auto, {', '.join(_JUDGES)}, or package.module:Class."
        )


def _load(name: str) -> Any:
    _check_dotted(name)
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise ConfigurationError(f"scoring.judges: {name!r} cannot be imported ({error}).") from error
    except AttributeError as error:
        raise ConfigurationError(f"scoring.judges: {module} has no {attribute}.") from error
