"""The settings as a flat list of leaves, for everything that walks over them: loading, showing, documenting."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from shared.settings.model import Settings

ENV_PREFIX = "INPAINT_EACPS_"

#: Where a setting stands, such as `("search", "k_global")`.
Place = tuple[str, ...]


@dataclass(frozen=True)
class Leaf:
    """One setting: its place, and what pydantic knows of it."""

    path: Place
    info: FieldInfo

    @property
    def name(self) -> str:
        """`section.field`, as messages and `config show` write it."""
        return ".".join(self.path)

    @property
    def env_name(self) -> str:
        """The environment variable that sets it."""
        return ENV_PREFIX + "__".join(self.path).upper()

    @property
    def is_secret(self) -> bool:
        """Its value is never shown."""
        return SecretStr in _members(self.info.annotation)

    @property
    def is_mapping(self) -> bool:
        """It holds names and values."""
        return any(get_origin(member) in (dict, Mapping) for member in _members(self.info.annotation))

    @property
    def is_list(self) -> bool:
        """It holds several values."""
        return any(get_origin(member) in (tuple, list, frozenset, set) for member in _members(self.info.annotation))

    @property
    def is_optional(self) -> bool:
        """It may be unset."""
        return type(None) in _members(self.info.annotation)

    @property
    def default(self) -> object:
        """The value it has when nobody sets it."""
        return self.info.get_default(call_default_factory=True, validated_data={})

    @property
    def type_words(self) -> str:
        """Its type for people: `whole number`, `one of a, b`."""
        return " or ".join(words for member in _members(self.info.annotation) if (words := _type_words(member)))

    @property
    def range_words(self) -> str:
        """Its bounds for people: `1 to 64`, `above 0`, or nothing."""
        bounds = {
            key: getattr(rule, key)
            for rule in self.info.metadata
            for key in ("ge", "gt", "le", "lt")
            if getattr(rule, key, None) is not None
        }
        low = _number(bounds["ge"]) if "ge" in bounds else f"above {_number(bounds['gt'])}" if "gt" in bounds else ""
        high = _number(bounds["le"]) if "le" in bounds else f"below {_number(bounds['lt'])}" if "lt" in bounds else ""
        if low and high:
            return f"{low} to {high}" if "le" in bounds else f"{low}, {high}"
        return f"{low} or more" if "ge" in bounds else low or (f"up to {high}" if "le" in bounds else high)

    @property
    def expected_words(self) -> str:
        """What a right value is, for messages: `a whole number, 1 to 64`."""
        words = self.type_words
        article = "" if words.startswith(("one of", "text", "true")) else "a "
        return f"{article}{words}" + (f", {self.range_words}" if self.range_words else "")


@cache
def leaves() -> tuple[Leaf, ...]:
    """Every setting there is, section by section."""
    return tuple(_walk(Settings, ()))


def section_paths() -> frozenset[Place]:
    """Every section, nested ones included."""
    return frozenset(leaf.path[:depth] for leaf in leaves() for depth in range(len(leaf.path)))


def section_of(annotation: object) -> type[BaseModel] | None:
    """The section that a field of this type holds, if it holds one."""
    return next((m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)), None)


def _walk(model: type[BaseModel], prefix: Place) -> Iterator[Leaf]:
    for name, info in model.model_fields.items():
        section = section_of(info.annotation)
        if section is not None:
            yield from _walk(section, (*prefix, name))
        else:
            yield Leaf((*prefix, name), info)


def _members(annotation: object) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(inner for member in get_args(annotation) for inner in _members(member))
    return (annotation,)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _type_words(annotation: Any) -> str:
    if annotation is type(None):
        return ""
    origin = get_origin(annotation)
    if origin is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(annotation))
    if origin in (tuple, list, set, frozenset):
        return "list"
    if origin in (dict, Mapping):
        return "mapping"
    names = {"int": "whole number", "float": "number", "bool": "true or false", "str": "text", "SecretStr": "secret"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, name.lower())
