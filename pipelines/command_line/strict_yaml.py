"""YAML without its surprises: no aliases, no tags, no equal keys, no octal or base-60 numbers, bounded in every way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from codec.common.files import check_file
from codec.errors import SoundloomError, quoted

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_DIGITS = 18
#: what YAML 1.1 takes for a number in another base: 010 is 8, 0x10 is 16, 1:30 is 90
_ODD_NUMBER = re.compile(r"[-+]?(0[0-9_]+|0[bBxX][0-9a-fA-F_]*|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|[0-9]+_[0-9_]*)")
_INTEGER = re.compile(r"[-+]?[0-9]+")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty file is an empty one.

    Raises:
        SoundloomError: the file is unreadable, too large or not YAML, or holds something that this module refuses.
    """
    path = Path(path)
    text = _read(path)
    check_yaml(text, str(path))
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise SoundloomError(f"{path}: not valid YAML: {_short(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SoundloomError(f"{path}: must hold 'key: value' lines, not a {type(content).__name__}")
    return content


def odd_number(text: str) -> str:
    """Return why ``text`` is not a number that anyone would write so, or an empty string."""
    if _ODD_NUMBER.fullmatch(text):
        return f"{quoted(text)} is not a plain decimal number (YAML reads 010 as 8 and 1:30 as 90)"
    if _INTEGER.fullmatch(text) and len(text.lstrip("+-")) > MAX_DIGITS:
        return f"{quoted(text)} has more than {MAX_DIGITS} digits"
    return ""


def _read(path: Path) -> str:
    try:
        size = check_file(path)
        if size > MAX_BYTES:
            raise SoundloomError(f"{path}: {size:,} bytes; a settings file has at most {MAX_BYTES:,}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SoundloomError(f"{path}: cannot read the settings ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise SoundloomError(f"{path}: not valid YAML: {_short(error)}") from None


def check_yaml(text: str, name: str) -> None:
    """Go through YAML without building anything of it, so that nothing can grow.

    Raises:
        SoundloomError: it is no YAML, or holds something that this module refuses.
    """
    keys: list[set[str] | None] = []  # for each open collection: the keys of a mapping so far, None for a list
    expects_key: list[bool] = []
    for event in _events(text, name):
        where = f"{name}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise SoundloomError(f"{where}: anchors and aliases (& and *) are not supported; write the value out")
        if getattr(event, "tag", None) is not None:
            raise SoundloomError(f"{where}: tags (!) are not supported; write the value without {quoted(event.tag)}")
        is_key = bool(expects_key) and expects_key[-1]
        if isinstance(event, yaml.ScalarEvent):
            _check_scalar(event, where, keys[-1] if is_key else None)
        elif isinstance(event, yaml.CollectionStartEvent):
            if is_key:
                raise SoundloomError(f"{where}: a key must be a word")
            if len(keys) >= MAX_DEPTH:
                raise SoundloomError(f"{where}: nested more than {MAX_DEPTH} deep")
            keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
            expects_key.append(isinstance(event, yaml.MappingStartEvent))
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            keys.pop()
            expects_key.pop()
        else:
            continue
        if keys and keys[-1] is not None:  # a key or a value of a mapping is complete
            expects_key[-1] = not expects_key[-1] if isinstance(event, yaml.ScalarEvent) else True


def _events(text: str, name: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SoundloomError(f"{name}: not valid YAML: {_short(error)}") from None


def _check_scalar(event: yaml.ScalarEvent, where: str, siblings: set[str] | None) -> None:
    if siblings is not None:
        if event.value in siblings:
            raise SoundloomError(f"{where}: the key {quoted(event.value)} is there twice")
        siblings.add(event.value)
    reason = odd_number(event.value) if event.style is None else ""
    if reason:
        raise SoundloomError(f"{where}: {reason}; write a decimal number, or quote it if it is a word")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:199] + "…"
