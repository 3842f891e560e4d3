"""Plain JSON values to frozen dataclasses, every field checked: configurations on disk are read by this."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from codec.errors import SoundloomError

T = TypeVar("T")


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Build the dataclass ``cls`` from plain values; an unknown, missing or mistyped field is a `SoundloomError`."""
    if not isinstance(values, Mapping):
        raise SoundloomError(f"{where}: expected an object with the fields of {cls.__name__}, found {values!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(fields)}"
            raise SoundloomError(f"{where}: unknown field {name!r} for {cls.__name__}; {hint}")
    given = {name: _checked(hints[name], value, f"{where}.{name}") for name, value in values.items()}
    for name, f in fields.items():
        if name not in given and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise SoundloomError(f"{where}: field {name!r} of {cls.__name__} is missing")
    try:
        return cls(**given)
    except SoundloomError as error:  # a check of the dataclass itself, which does not know where its values come from
        raise SoundloomError(f"{where}: {error}") from None


def _checked(kind: Any, value: Any, where: str) -> Any:
    """``value`` as ``kind``; bool is not an int here and a string is never a number."""
    if dataclasses.is_dataclass(kind):
        return from_dict(typing.cast(type, kind), value, where)
    origin = typing.get_origin(kind)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in typing.get_args(kind)):
            return value
        raise SoundloomError(f"{where}: {value!r} is not one of {', '.join(map(repr, typing.get_args(kind)))}")
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise SoundloomError(f"{where}: {value!r} is not a list")
        return origin(_checked(typing.get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    options = typing.get_args(kind) or (kind,)
    for option in options:
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if option is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if option in (bool, str, type(None)) and isinstance(value, option):
            return value
    names = " or ".join(getattr(o, "__name__", str(o)) for o in options)
    raise SoundloomError(f"{where}: {value!r} is not {names}")
