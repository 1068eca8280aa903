"""Settings from defaults, YAML files, the environment and flags, with the source of every value.

Sections are merged field by field; a list or a mapping of a later source replaces the earlier one whole, unless the
source names a single key of the mapping (`scoring.potential.identity`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from shared.errors import ConfigurationError
from shared.settings.fields import ENV_PREFIX, Leaf, Place, leaves, section_paths
from shared.settings.model import Settings

DEFAULT = "default"
_MASK = "**********"
#: Kinds of pydantic's errors that the setting's own type and range explain best.
_PLAIN = ("_type", "_parsing", "literal_error", "_equal", "_than", "int_from_float")
#: How like a setting's variable another one must be to count as misspelt; the rest is our processes' own business.
_ENV_NEAR = 0.9


@dataclass(frozen=True)
class Override:
    """A setting given on the command line."""

    name: str
    value: object
    flag: str


@dataclass(frozen=True)
class Row:
    """One setting as people see it."""

    name: str
    value: str
    source: str
    secret: bool


@dataclass(frozen=True)
class Resolved:
    """The settings of a run, and where each value came from: `default`, `FILE:LINE`, a variable, or a flag."""

    settings: Settings
    sources: Mapping[str, str]

    def source(self, name: str) -> str:
        """The source of `section.field`."""
        return self.sources.get(name, DEFAULT)

    def rows(self) -> tuple[Row, ...]:
        """Every setting with its value as text; secrets are masked."""
        return tuple(
            Row(leaf.name, show_value(self.value(leaf)), self.source(leaf.name), leaf.is_secret) for leaf in leaves()
        )

    def value(self, leaf: Leaf) -> object:
        """The value of one setting."""
        value: object = self.settings
        for name in leaf.path:
            value = getattr(value, name)
        return value


@dataclass(frozen=True)
class _Given:
    """A value as its source gave it; `path` is a leaf's, or one key deeper for a single key of a mapping."""

    leaf: Leaf
    key: str | None
    value: object
    source: str


def load_settings(
    files: Iterable[Path] = (), env: Mapping[str, str] | None = None, overrides: Sequence[Override] = ()
) -> Resolved:
    """Resolve the settings; the later source wins: defaults, `files` in order, `env`, `overrides`.

    Raises ConfigurationError with a sentence for each wrong value: which setting, where it stands, and what to do.
    """
    given: list[_Given] = []
    for file in files:
        given += _from_file(file)
    given += _from_env(env or {})
    given += (_from_override(override) for override in overrides)

    values: dict[Place, Any] = {}
    sources: dict[str, str] = {}
    for item in given:
        if item.key is None:
            values[item.leaf.path] = item.value
        else:
            values[item.leaf.path] = {**_mapping(values.get(item.leaf.path, item.leaf.default)), item.key: item.value}
        before = sources.get(item.leaf.name)
        sources[item.leaf.name] = f"{before}, {item.source}" if before and item.key else item.source
    try:
        settings = Settings.model_validate(_nested(values))
    except ValidationError as error:
        raise ConfigurationError("\n".join(_sentence(detail, sources) for detail in error.errors())) from None
    return Resolved(settings, sources)


def _from_file(file: Path) -> list[_Given]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Cannot read the configuration file {file}: {_reason(error)}.") from error
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        given: list[_Given] = []
        if node is not None:
            _walk_yaml(loader, node, (), file, given)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise ConfigurationError(f"{where} is not valid YAML: {getattr(error, 'problem', None) or error}.") from error
    return given


def _walk_yaml(loader: yaml.SafeLoader, node: yaml.Node, path: Place, file: Path, given: list[_Given]) -> None:
    where = f"{file}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null"):
        return
    if not isinstance(node, yaml.MappingNode):
        raise ConfigurationError(f"{where}: {'.'.join(path) or 'the file'} must be a mapping of settings.")
    loader.flatten_mapping(node)
    seen: set[str] = set()
    for key_node, value_node in node.value:
        name = str(key_node.value)
        here = f"{file}:{key_node.start_mark.line + 1}"
        if name in seen:
            raise ConfigurationError(f"{here}: {'.'.join((*path, name))} is set twice in this file; keep one.")
        seen.add(name)
        inner = (*path, name)
        if inner in section_paths():
            _walk_yaml(loader, value_node, inner, file, given)
        else:
            leaf, _ = _find(inner, here)
            given.append(_Given(leaf, None, loader.construct_object(value_node, deep=True), here))


def _from_env(env: Mapping[str, str]) -> list[_Given]:
    """`INPAINT_EACPS_SECTION__FIELD`; an empty variable counts as unset. `SECTION_FIELD` is understood as well."""
    short = {leaf.env_name.replace("__", "_"): leaf for leaf in leaves()}
    given = []
    for name, text in sorted(env.items()):
        if not name.startswith(ENV_PREFIX) or not text.strip():
            continue
        if name in short:
            given.append(_Given(short[name], None, _parse(short[name], text), name))
        elif "__" in name:
            leaf, key = _find(tuple(name.removeprefix(ENV_PREFIX).lower().split("__")), name)
            given.append(_Given(leaf, key, text if key else _parse(leaf, text), name))
        elif near := get_close_matches(name, short, 1, _ENV_NEAR):
            raise ConfigurationError(f"{name} is no setting; did you mean {short[near[0]].env_name}?")
    return given


def _from_override(override: Override) -> _Given:
    leaf, key = _find(tuple(override.name.split(".")), override.flag)
    value = override.value
    if isinstance(value, str) and key is None:
        value = _parse(leaf, value)
    return _Given(leaf, key, value, override.flag)


def _find(path: Place, where: str) -> tuple[Leaf, str | None]:
    """The leaf at `path`, or the mapping leaf one above and the key in it."""
    by_path = {leaf.path: leaf for leaf in leaves()}
    if path in by_path:
        return by_path[path], None
    if path[:-1] in by_path and by_path[path[:-1]].is_mapping:
        return by_path[path[:-1]], path[-1]
    name = ".".join(path)
    if path in section_paths():
        raise ConfigurationError(f"{where}: {name} is a section; set one of its fields, such as {_first_below(path)}.")
    names = [*(".".join(section) for section in section_paths()), *(leaf.name for leaf in leaves())]
    near = get_close_matches(name, names, 1, 0.6)
    hint = f"did you mean {near[0]}?" if near else "`inpaint-eacps config show` lists all settings."
    raise ConfigurationError(f"{where}: there is no setting {name}; {hint}")


def _first_below(path: Place) -> str:
    return next(leaf.name for leaf in leaves() if leaf.path[: len(path)] == path)


def _parse(leaf: Leaf, text: str) -> object:
    """A value written as text: lists with commas or as JSON, mappings as `name=value,…` or JSON."""
    text = text.strip()
    if leaf.is_optional and text.lower() in ("", "none", "null"):
        return None
    if not (leaf.is_list or leaf.is_mapping):
        return text
    if text.startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if leaf.is_list:
        return parts
    return dict(part.split("=", 1) for part in parts) if all("=" in part for part in parts) else text


def _nested(values: Mapping[Place, object]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = value
    return tree


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _sentence(detail: ErrorDetails, sources: Mapping[str, str]) -> str:
    location = [str(part) for part in detail["loc"]]
    leaf = next((leaf for leaf in leaves() if list(leaf.path) == location[: len(leaf.path)]), None)
    name = leaf.name if leaf else ".".join(location) or "the settings"
    message = detail["msg"].removeprefix("Value error, ").rstrip(".")
    if leaf is None:
        involved = sorted({source for key, source in sources.items() if key.startswith(name + ".")})
        return f"{name}: {message}" + (f" (set by {', '.join(involved)})." if involved else ".")
    where = f"{name} ({sources.get(leaf.name, DEFAULT)})"
    got = "" if leaf.is_secret or "input" not in detail else f", not {_quote(detail['input'])}"
    inside = [part for part in location[len(leaf.path) :] if part.isalnum()]
    if inside or not detail["type"].endswith(_PLAIN):
        return f"{where}{''.join(f' at {part}' for part in inside[:1])}: {message[:1].lower()}{message[1:]}{got}."
    return f"{where} must be {leaf.expected_words}{got}."


def _quote(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def show_value(value: object) -> str:
    """A setting's value as text; a secret is masked, and what is unset is empty."""
    if isinstance(value, SecretStr):
        return _MASK
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={show_value(inner)}" for key, inner in value.items())
    if isinstance(value, (tuple, list, frozenset, set)):
        return ", ".join(show_value(inner) for inner in value)
    return str(value)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is not UTF-8 text"
