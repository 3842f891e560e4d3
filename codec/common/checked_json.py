"""JSON that is checked while it is read, and the hashes that files are held against."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, TypeVar

from codec.errors import SoundloomError

T = TypeVar("T")


def sha256_bytes(data: bytes) -> str:
    """Hash bytes; 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hash a file without loading it whole; `OSError` passes through."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def dump_json(value: Any) -> bytes:
    """Write JSON in the one form that our files have, so that equal content gives equal bytes."""
    return (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode("utf-8")


def parse_json(data: bytes | str, name: str) -> Any:
    """Parse JSON strictly (UTF-8, no NaN); `SoundloomError` names ``name`` and what is wrong."""

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
        raise SoundloomError(f"{name}: not valid JSON ({error})") from error


def read_bytes(path: Path, expected: int | None = None) -> bytes:
    """Read a whole file, of ``expected`` bytes where that is known; `SoundloomError` where it cannot be."""
    try:
        size = path.stat().st_size
        if expected is not None and size != expected:
            raise SoundloomError(f"{path}: {size} bytes, its commit record says {expected}")
        return path.read_bytes()
    except OSError as error:
        raise SoundloomError(f"{path}: cannot be read ({error.strerror or error})") from error


def field(record: Any, key: str, kind: type[T], name: str, minimum: float | None = None) -> T:
    """Take ``record[key]`` of the type ``kind`` (an int will do for a float, a bool never for a number).

    Errors: `SoundloomError` that names the file, the field, what was found and what was expected.
    """
    if not isinstance(record, dict):
        raise SoundloomError(f"{name}: expected a JSON object, found {type(record).__name__}")
    if key not in record:
        raise SoundloomError(f"{name}: field {key!r} is missing")
    value = record[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise SoundloomError(f"{name}: field {key!r} is {str(value)[:60]!r}, expected {kind.__name__}")
    if minimum is not None and not (minimum <= value < 1 << 62):  # type: ignore[operator]
        raise SoundloomError(f"{name}: field {key!r} is {value}, expected at least {minimum}")
    return value
