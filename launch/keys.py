"""`--keys`: every key of a configuration with its type, its default and its docstring."""

import ast
import dataclasses
import inspect
import json
import re
import signal
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pydantic.fields import FieldInfo

from pipeline.config import ConfigError

BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "of length >="}


class Key(NamedTuple):
    """One key of a configuration."""

    name: str
    """Its path; N stands for the number of a part of a list."""
    type: str
    default: str
    """As YAML, or `required`."""
    where: str
    """For a key of one member of a union: the key and value that choose the member."""
    text: str
    """The docstring, on one line."""


def print_keys(kind: type, prefix: str) -> None:
    """Prints the keys of the dataclass `kind` that begin with `prefix` or have that name.

    stages.6.lr is stages.N.lr, and so is lr. ConfigError.
    """
    every, prefix = list(keys(kind)), re.sub(r"\.\d+(?=\.|$)", ".N", prefix)
    found = [key for key in every if key.name.startswith(prefix)]
    found = found or [key for key in every if key.name.endswith(f".{prefix}")]
    if not found:
        parts = dict.fromkeys(key.name.partition(".")[0] for key in every)
        raise ConfigError(f"no key begins with {prefix!r}; there are {', '.join(parts)}")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` closes the pipe: no error
    for key in found:
        about = ", ".join(filter(None, (key.default, key.where)))
        print(f"{key.name}: {key.type}" + (f" ({about})" if about else ""))
        print(textwrap.fill(key.text, 96, initial_indent="    ", subsequent_indent="    "))


def keys(kind: Any, prefix: str = "", where: str = "", tag: str | None = None) -> Iterator[Key]:
    """The keys of a pydantic dataclass and of those in it; `tag`, which chose it, is left out."""
    texts, hints = docstrings(kind), typing.get_type_hints(kind, include_extras=True)
    for name, field in kind.__pydantic_fields__.items():
        if name == tag:
            continue
        default = "required"
        if not field.is_required():
            default = _default(field.get_default(call_default_factory=True))
        members = dataclasses_in(hints[name])
        choice = _choice(members)
        below = f"{prefix}{name}.N." if _is_list(hints[name]) else f"{prefix}{name}."
        text = texts.get(name) or " ".join(map(_summary, members[:1]))
        yield Key(prefix + name, _type(hints[name]), default, where, text)
        if choice:
            values = {getattr(member, choice): _summary(member) for member in members}
            meaning = " ".join(f"{value}: {text}" for value, text in values.items())
            yield Key(below + choice, " | ".join(values), "chooses the keys below", where, meaning)
        for member in members:
            chosen = f"where {below}{choice}={getattr(member, choice)}" if choice else where
            yield from keys(member, below, chosen, choice)


def dataclasses_in(hint: Any) -> list[type]:
    """The dataclasses that a type is, or is a list or a union of."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [member for part in typing.get_args(hint) for member in dataclasses_in(part)]


def docstrings(kind: type) -> dict[str, str]:
    """The docstring under each field of a class, read from its source, on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, following in zip(definition.body, definition.body[1:]):
        match field, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                found[name] = " ".join(text.split())
    return found


def _choice(members: list[type]) -> str | None:
    """The key that chooses one of several dataclasses: the first, of one literal in each."""
    if len(members) < 2:
        return None
    hints = [typing.get_type_hints(member) for member in members]
    return next(
        name
        for name in hints[0]
        if all(typing.get_origin(h.get(name)) is Literal for h in hints)
        and len({typing.get_args(h[name]) for h in hints}) == len(members)
    )


def _summary(kind: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _is_list(hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Annotated:
        return _is_list(typing.get_args(hint)[0])
    return typing.get_origin(hint) is list


def _default(value: Any) -> str:
    """A default as YAML; nothing for a dataclass, whose keys have their own."""
    if dataclasses.is_dataclass(value):
        return ""
    return f"default {value if isinstance(value, str) else json.dumps(value)}"


def _type(hint: Any) -> str:
    """A type in words: `float > 0 or null`, `bf16 | fp16 | fp32`."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = [
            f"{BOUNDS[name]} {getattr(limit, name)}"
            for field in parts[1:]
            if isinstance(field, FieldInfo)
            for limit in field.metadata
            for name in BOUNDS.keys() & vars(type(limit)).keys()
        ]
        return " ".join([_type(parts[0]), *bounds])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin is list:
        return f"list of {_type(parts[0])}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_type, parts))
    return "null" if hint is types.NoneType else hint.__name__
