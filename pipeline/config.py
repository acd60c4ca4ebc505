"""Parses YAML and `key=value` into dataclasses; errors name the nearest key."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import RootModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails


class ConfigError(Exception):
    """An invalid configuration; the message names the key and the remedy."""


def load(kind: Any, path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Reads the configuration `kind`, a dataclass, from a YAML file and applies overrides.

    An override is `key.of.part=value`; the value is YAML, list items go by index
    (`stages.2.batch=64`). ConfigError names the file or override, the key and the nearest key.
    """
    return parse(kind, read(path, overrides), str(path))


def read(path: str | Path, overrides: Sequence[str] = ()) -> dict:
    """Reads a YAML file as plain data and applies `key.of.part=value` overrides. ConfigError."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a configuration: it must be a mapping of keys")
    for text in overrides:
        override(content, text)
    return content


def parse(kind: Any, content: dict, origin: str) -> Any:
    """Validates plain data as the configuration `kind`; errors name `origin`. ConfigError."""
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        messages = [_explain(kind, e) for e in error.errors()]
        raise ConfigError("\n".join(f"{origin}: {message}" for message in messages)) from None


def plain(config: Any) -> dict:
    """A configuration as plain data, for YAML and JSON; `parse` is the inverse."""
    return RootModel(config).model_dump(mode="json")


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Plain data as {"key.of.part": value}."""
    if isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        return {k: v for key, part in items for k, v in flat(part, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): content}


def override(content: dict, text: str) -> None:
    """Sets one `key.of.part=value` in `content`."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"{text!r} should read key=value, as in data.path=/data/ffhq")
    *parents, last = path.split(".")
    part: Any = content
    try:
        for key in parents:
            part = part[int(key)] if isinstance(part, list) else part.setdefault(key, {})
        part[int(last) if isinstance(part, list) else last] = yaml.safe_load(value)
    except (ValueError, IndexError, TypeError, AttributeError):
        raise ConfigError(
            f"{text!r}: there is no {path!r}; list items are named by index from 0"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r}: the value is not YAML: {error}") from None


def _explain(kind: Any, error: ErrorDetails) -> str:
    """The message for one of pydantic's errors; names the nearest key for an unknown one."""
    *place, last = error["loc"] or ("",)
    key = ".".join(str(part) for part in _without_tags(kind, error["loc"]))
    if error["type"] == "unexpected_keyword_argument":
        names = [f.name for f in dataclasses.fields(_kind_at(kind, place))]
        nearest = difflib.get_close_matches(str(last), names, 1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are: {', '.join(names)}"
        return f"unknown key {key!r}; {hint}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{key!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], dict | list):
        return f"{key}: {message}" if key else message
    return f"{key!r} is {error['input']!r}: {message}"


def _without_tags(kind: Any, place: tuple) -> list:
    """`place` without the tags that pydantic inserts for members of a union."""
    *parents, last = place or ("",)
    kinds = [_kind_at(kind, parents[: i + 1]) for i in range(len(parents))]
    return [p for p, k in zip(parents, kinds) if p != _tag(k)] + [last]


def _tag(kind: Any) -> str | None:
    """pydantic's tag of a member of a union."""
    return getattr(kind, "method", getattr(kind, "kind", None))


def _kind_at(kind: Any, place: list) -> type:
    """The dataclass to which the keys at `place` below `kind` belong."""
    if hasattr(kind, "__metadata__"):
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        options = [getattr(k, "__origin__", k) for k in typing.get_args(kind)]
        options = [k for k in options if dataclasses.is_dataclass(k)]
        tagged = [k for k in options if place and _tag(k) == place[0]]
        return _kind_at(tagged[0], place[1:]) if tagged else _kind_at(options[0], place)
    if not place:
        return kind
    if typing.get_origin(kind) is list:
        return _kind_at(typing.get_args(kind)[0], place[1:])
    return _kind_at(typing.get_type_hints(kind, include_extras=True)[place[0]], place[1:])
