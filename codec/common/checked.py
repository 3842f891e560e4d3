"""JSON and settings that are checked while they are read: every field's name, type and range."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from codec.common.files import CONFIG_BYTES, read_bytes
from codec.errors import SoundloomError, quoted

T = TypeVar("T")


def dump_json(value: Any) -> bytes:
    """Return JSON in the one form that our files have, so that equal content gives equal bytes."""
    return (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode("utf-8")


def parse_json(data: bytes | str, name: str) -> Any:
    """Parse JSON strictly: UTF-8, no NaN.

    Raises:
        SoundloomError: it names ``name`` and what is wrong.
    """

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not JSON")

    def finite(number: str) -> float:
        value = float(number)
        return value if math.isfinite(value) else float(refuse(number))

    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(text, parse_constant=refuse, parse_float=finite)
        # A lone surrogate ("\ud800") parses but cannot be written again; only escapes can bring one in.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (ValueError, RecursionError) as error:
        raise SoundloomError(f"{name}: not valid JSON ({str(error)[:200]})") from error


def read_json(path: str | os.PathLike[str], limit: int = CONFIG_BYTES, missing: str = "") -> dict[str, Any]:
    """Read the JSON object in a plain file of at most ``limit`` bytes.

    ``missing``: what the message adds where there is no such file.

    Raises:
        SoundloomError: it names the file and what is wrong with it.
    """
    value = parse_json(read_bytes(path, limit, missing=missing), str(path))
    if not isinstance(value, dict):
        raise SoundloomError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def field(record: Any, key: str, kind: type[T], name: str, minimum: float | None = None) -> T:
    """Take ``record[key]`` of the type ``kind`` (an int will do for a float, a bool never for a number).

    Raises:
        SoundloomError: it names the file, the field, what was found and what was expected.
    """
    if not isinstance(record, dict):
        raise SoundloomError(f"{name}: expected a JSON object, found {type(record).__name__}")
    if key not in record:
        raise SoundloomError(f"{name}: field {key!r} is missing")
    value = record[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SoundloomError(f"{name}: field {key!r} is {quoted(value)}, expected {kind.__name__}")
    if minimum is not None and not (minimum <= value < 1 << 62):  # type: ignore[operator]
        raise SoundloomError(f"{name}: field {key!r} is {quoted(value)}, expected at least {minimum}")
    return value


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Build the dataclass ``cls`` from plain values.

    Raises:
        SoundloomError: a field is unknown (with the nearest name), missing, or of another type.
    """
    if not isinstance(values, Mapping):
        raise SoundloomError(f"{where}: expected an object with the fields of {cls.__name__}, found {quoted(values)}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(str(name)[:100], fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(fields)}"
            raise SoundloomError(f"{where}: unknown field {quoted(name)} for {cls.__name__}; {hint}")
    given = {name: _checked(hints[name], value, f"{where}.{name}") for name, value in values.items()}
    for name, f in fields.items():
        if name not in given and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise SoundloomError(f"{where}: field {name!r} of {cls.__name__} is missing")
    try:
        return cls(**given)
    except SoundloomError as error:  # a check of the dataclass itself, which does not know where its values come from
        raise SoundloomError(f"{where}: {error}") from None


def _checked(kind: Any, value: Any, where: str) -> Any:
    """Return ``value`` as ``kind``; bool is not an int here and a string is never a number."""
    if dataclasses.is_dataclass(kind):
        return from_dict(typing.cast(type, kind), value, where)
    origin, options = typing.get_origin(kind), typing.get_args(kind) or (kind,)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in options):
            return value
        raise SoundloomError(f"{where}: {quoted(value)} is not one of {', '.join(map(repr, options))}")
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise SoundloomError(f"{where}: {quoted(value)} is not a list")
        return origin(_checked(options[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    for option in options:
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return _float(value, where)
        if option is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if option in (bool, str, type(None)) and isinstance(value, option):
            return value
    names = " or ".join(getattr(o, "__name__", str(o)) for o in options)
    raise SoundloomError(f"{where}: {quoted(value)} is not {names}")


def _float(value: float, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise SoundloomError(f"{where}: {quoted(value)} is too large; expected a float") from None
