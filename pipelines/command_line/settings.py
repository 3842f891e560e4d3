"""Fill the settings of a program, which are dataclasses, from a YAML file and the command line; check every field.

    @dataclass(frozen=True)
    class Settings:
        \"""What this run does.

        Args:
            store: folder of the token store.
            optimizer: how the weights are moved.
        \"""
        store: str
        optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    settings = parse_settings(Settings, argv, description=__doc__)
    # program.py --config configs/x.yaml --optimizer.lr 3e-4

Unknown keys, wrong types and values that are not finite raise `SoundloomError`, which names the nearest valid key.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import sys
import typing
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from codec.errors import SoundloomError, quoted
from pipelines.command_line.strict_yaml import check_yaml, odd_number, read_yaml

T = TypeVar("T")
_LONGEST_MESSAGE = 400


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keep the lines of the examples as they are written."""


def parse_settings(cls: type[T], argv: Sequence[str] | None = None, *, description: str | None = None) -> T:
    """Build the dataclass ``cls`` from ``--config file.yaml`` (may be repeated) and ``--key.subkey value``.

    Later words win: the command line after ``--config`` overrides the file. Nested dataclasses become dotted keys.
    ``--help`` and ``--print_config`` print and exit with 0.

    Args:
        argv: the words after the program's name; None takes ``sys.argv``.
        description: text above the options in ``--help``; put the examples there.

    Raises:
        SoundloomError: unknown key (with the nearest valid one), wrong type, missing value, unreadable file.
    """
    parser = ArgumentParser(
        exit_on_error=False, allow_abbrev=False, description=description, formatter_class=_HelpFormatter
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below")
    parser.add_class_arguments(cls)
    valid = list(setting_keys(cls))
    _check_argv(cls, argv, valid)
    try:
        namespace = parser.parse_args(argv)
    except (ArgumentError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise SoundloomError(f"settings: {_explain(str(error), valid)}") from error
    return _build(cls, namespace, "")


def setting_keys(cls: type, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a settings dataclass, groups included (``model`` and ``model.dim``)."""
    yield from (key for key, _ in _hints(cls, prefix))


def _hints(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key, hint = prefix + field.name, hints[field.name]
        yield key, hint
        if dataclasses.is_dataclass(hint):
            yield from _hints(typing.cast(type, hint), key + ".")


def flatten_settings(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return a settings dataclass as ``{dotted key: plain value}``, for records and comparisons (JSON-ready)."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten_settings(value, f"{prefix}{field.name}.")
        else:
            flat[prefix + field.name] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return flatten_settings(value)
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def changed_settings(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return ``{key: (old, new)}`` for every key of two flattened settings that differs; a missing one is None."""
    keys = sorted(old.keys() | new.keys())
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _check_argv(cls: type, argv: Sequence[str] | None, valid: list[str]) -> None:
    """Check the YAML files and the values in ``argv`` before the parser builds anything of them."""
    words = list(sys.argv[1:] if argv is None else argv)
    numbers = {key for key, hint in _hints(cls) if {int, float} & {hint, *typing.get_args(hint)}}
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        name, equals, value = word.removeprefix("--").partition("=")
        value = value if equals else following
        if not word.startswith("--"):
            continue
        if name == "config":
            _check_file(Path(value), valid)
        elif name in numbers and (reason := odd_number(value)):
            raise SoundloomError(f"settings: --{name}: {reason}")
        elif value.lstrip()[:1] in ("[", "{"):
            check_yaml(value, f"settings: --{name}")


def _check_file(path: Path, valid: Sequence[str]) -> None:
    for key in _file_keys(read_yaml(path), ""):
        if key not in valid:
            raise SoundloomError(f"{path}: unknown key {quoted(key)}{_nearest(key, valid)}")


def _file_keys(content: dict[Any, Any], prefix: str) -> Iterator[str]:
    for name, value in content.items():
        key = f"{prefix}{name}"
        yield key
        if isinstance(value, dict):
            yield from _file_keys(value, key + ".")


def _explain(message: str, valid: list[str]) -> str:
    """Return the parser's message as one short line, with the nearest valid key for an unknown one."""
    message = " ".join(message[:4000].split())
    unknown = [word for word in re.findall(r"--([\w.]+)", message) if word not in valid and word != "config"]
    if "nrecognized" in message and unknown:
        return f"unknown key {quoted(unknown[0])}{_nearest(unknown[0], valid)}"
    message = re.sub(r"<class '(\w+)'>", r"\1", message.replace("Parser key", "key"))
    return message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 1] + "…"


def _nearest(key: str, valid: Sequence[str]) -> str:
    # Comparing the last part as well finds `lr` -> `optimizer.lr`, which whole-key similarity misses.
    last = key.rpartition(".")[2]
    near = [k for k in valid if k.rpartition(".")[2] == last] or difflib.get_close_matches(key, valid, 1, 0.5)
    near = near or [k for k in valid if difflib.SequenceMatcher(None, last, k.rpartition(".")[2]).ratio() > 0.7]
    return f"; did you mean '{near[0]}'?" if near else f"; valid keys: {', '.join(valid)}"


def _item_class(hint: Any) -> type | None:
    """Return the dataclass that a list of dataclasses holds, or None where the hint is something else."""
    items = typing.get_args(hint) if typing.get_origin(hint) is list else ()
    return items[0] if items and isinstance(items[0], type) and dataclasses.is_dataclass(items[0]) else None


def _is_finite(value: Any) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return all(not isinstance(v, float) or math.isfinite(v) for v in values)


def _build(cls: type[T], namespace: Any, prefix: str) -> T:
    if not isinstance(namespace, Namespace):
        raise SoundloomError(f"settings: key '{prefix.rstrip('.')}' must hold keys of its own, not {quoted(namespace)}")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        value = getattr(namespace, field.name)
        hint, key = hints[field.name], f"{prefix}{field.name}"
        if value is None and type(None) not in typing.get_args(hint):  # the parser accepts null everywhere
            raise SoundloomError(f"settings: key '{key}' must not be null")
        if dataclasses.is_dataclass(hint):
            value = _build(typing.cast(type, hint), value, f"{key}.")
        elif item := _item_class(hint):
            value = [_build(item, entry, f"{key}.{i}.") for i, entry in enumerate(value)]
        elif not _is_finite(value):
            raise SoundloomError(f"settings: key '{key}' must be a finite number, not {quoted(value)}")
        values[field.name] = value
    return cls(**values)
