"""A plan's list of utterances, and the two files that hold it.

::

    plan.json       the header: codec, settings, shards, and size and sha256 of the second file; sealed
    plan.json.zst   the utterances, one JSON list a field, packed by zstd: 20 bytes an utterance, and its text

Plans of version 1, one JSON file with an object for each utterance, are still read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from codec.common.checked import field, parse_json
from codec.common.files import read_bytes, sha256_bytes, write_bytes
from codec.errors import SoundloomError
from codec.store.schema import StoreFacts, seal

FORMAT = "soundloom-plan"
VERSION = 2
#: hexadecimal digits of a source's sha256 that a plan keeps: 128 bits see any change; the store's rows have all of it
HASH_DIGITS = 32
_MAX_RATIO = 1000  # a packed file that claims to hold more than this many times its size is refused unread
_PACK_LEVEL = 15


@dataclass(frozen=True)
class Utterance:
    """One thing to tokenize: a file, or ``duration`` seconds of it from ``start``.

    ``path`` is relative to the plan's root; where the source is a row of a data set (``row``), it is "" or names the
    data set's file. ``problem`` says why it cannot be used where that was already seen when planning.
    """

    id: str
    path: str
    text: str = ""
    speaker: str = ""
    language: str = ""
    row: int = -1
    start: float = 0.0
    duration: float = 0.0  # 0 = to the end
    size: int = 0
    sha256: str = ""  # its first `HASH_DIGITS`
    seconds: float = 0.0  # as the header says, in whole milliseconds; an estimate for shards and forecasts
    problem: str = ""

    @property
    def source(self) -> str:
        """Name the source for people."""
        return ", ".join([*([self.path] if self.path else []), *([f"row {self.row}"] if self.row >= 0 else [])])

    @classmethod
    def parse(cls, record: Any, name: str) -> Utterance:
        """Read one from JSON, absent fields having their defaults; `SoundloomError` for a wrong one."""
        values: dict[str, Any] = {}
        for spec in fields(cls):
            kind = {"int": int, "float": float, "str": str}[str(spec.type)]
            if isinstance(record, dict) and spec.name not in record and spec.name not in ("id", "path"):
                continue
            values[spec.name] = field(record, spec.name, kind, name)
        if any(not 0 <= values.get(key, 0) < 1e12 for key in ("start", "duration", "size", "seconds")):
            raise SoundloomError(f"{name}: a negative or endless time or size")
        return cls(**values)


@dataclass(frozen=True)
class Settings:
    """What, with the codec, determines the rows of a corpus; equal settings mean the same plan."""

    root: str  # folder that paths are relative to, or the data set's name
    corpus: str
    split: str = ""
    limit: int = 0
    max_seconds: float = 30.0
    min_seconds: float = 0.1
    text_column: str = ""
    audio_column: str = ""
    language: str = ""
    speaker: str = ""
    id_prefix: str = ""

    @classmethod
    def parse(cls, record: Any, name: str) -> Settings:
        """Read the settings from JSON; `SoundloomError` for a missing or mistyped one."""
        if isinstance(record, dict):
            record = {"id_prefix": ""} | record  # the first plans did not have it
        kinds = {"int": int, "float": float, "str": str}
        return cls(**{spec.name: field(record, spec.name, kinds[str(spec.type)], name) for spec in fields(cls)})


@dataclass(frozen=True)
class PlanRecord:
    """The content of a plan's files; ``files`` are their names with their sha256, the header's first."""

    facts: StoreFacts
    settings: Settings
    first_shard: int
    num_shards: int
    utterances: tuple[Utterance, ...]
    files: dict[str, str]


def plan_paths(store: Path, number: int) -> tuple[Path, Path]:
    """Return the paths of the header and the utterances of plan ``number`` (0, then 1 … for what was appended)."""
    name = f"plan-{number}" if number else "plan"
    return store / f"{name}.json", store / f"{name}.json.zst"


def write_plan(
    store: Path, number: int, facts: StoreFacts, settings: Settings, shards: range, items: Sequence[Utterance]
) -> PlanRecord:
    """Write a plan and read it back; the header comes last, so that a plan is there whole or not at all."""
    path, packed_path = plan_paths(store, number)
    columns = {spec.name: [getattr(item, spec.name) for item in items] for spec in fields(Utterance)}
    columns["path"] = [_shorten(item) for item in items]
    plain = json.dumps(columns, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    packed = pa.Codec("zstd", compression_level=_PACK_LEVEL).compress(plain, asbytes=True)
    if len(plain) > len(packed) * _MAX_RATIO:  # no reader would believe it: leave it as it is
        packed = plain
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION, "codec": asdict(facts)}
    header |= {"settings": asdict(settings), "first_shard": shards.start, "num_shards": len(shards)}
    header |= {"num_utterances": len(items), "bytes": len(packed), "plain_bytes": len(plain)}
    write_bytes(packed_path, packed)
    write_bytes(path, seal({**header, "utterances_sha256": sha256_bytes(packed)}))
    return read_plan(store, number)


def read_plan(store: Path, number: int) -> PlanRecord:
    """Read a plan of any version.

    Raises:
        SoundloomError: it names the file and what is wrong with it.
    """
    path, packed_path = plan_paths(store, number)
    name = str(path)
    data = read_bytes(path)
    record = parse_json(data, name)
    old = isinstance(record, dict) and "header" in record
    header = field(record, "header", dict, name) if old else record
    if field(header, "format", str, name) != FORMAT or field(header, "version", int, name) != (1 if old else VERSION):
        raise SoundloomError(f"{name}: expected format {FORMAT!r}, version 1 or {VERSION}")
    files = {path.name: sha256_bytes(data)}
    if old:
        items = tuple(Utterance.parse(item, name) for item in field(record, "utterances", list, name))
    else:
        if data != seal(header):
            raise SoundloomError(f"{name}: changed after it was written (its sha256 does not hold)")
        files[packed_path.name] = field(header, "utterances_sha256", str, name)
        items = _unpack(packed_path, header, name)
    count = field(header, "num_shards", int, name, 1)
    if field(header, "num_utterances", int, name) != len(items) or count > max(1, len(items)):
        raise SoundloomError(f"{name}: {len(items)} utterances in {count} shards, its header says otherwise")
    facts = StoreFacts.parse(field(header, "codec", dict, name), name)
    settings = Settings.parse(field(header, "settings", dict, name), name)
    return PlanRecord(facts, settings, field(header, "first_shard", int, name, 0), count, items, files)


def _unpack(path: Path, header: dict[str, Any], header_name: str) -> tuple[Utterance, ...]:
    packed = read_bytes(path, field(header, "bytes", int, header_name, 0))
    if sha256_bytes(packed) != header["utterances_sha256"]:
        raise SoundloomError(f"{path}: changed after it was written (its sha256 does not hold)")
    size = field(header, "plain_bytes", int, header_name, 0)
    if size > len(packed) * _MAX_RATIO:
        raise SoundloomError(f"{path}: {len(packed)} bytes cannot hold the {size} that its header promises")
    try:
        unpacked = size == len(packed)
        plain = packed if unpacked else pa.decompress(packed, decompressed_size=size, codec="zstd", asbytes=True)
    except (OSError, ValueError, MemoryError) as error:
        raise SoundloomError(f"{path}: not packed by zstd ({error})") from error
    columns = parse_json(plain, str(path))
    lists = [field(columns, spec.name, list, str(path)) for spec in fields(Utterance)]
    if len({len(values) for values in lists}) != 1:
        raise SoundloomError(f"{path}: its lists have unequal lengths")
    names = [spec.name for spec in fields(Utterance)]
    rows = (dict(zip(names, values, strict=True)) for values in zip(*lists, strict=True))
    items = (Utterance.parse(row, str(path)) for row in rows)
    return tuple(replace(item, path=item.path.replace("\0", item.id)) if "\0" in item.path else item for item in items)


def _shorten(item: Utterance) -> str:
    """Return the path with NUL in place of the id: most paths are an id with a folder and an ending.

    No path holds a NUL.
    """
    path = item.path.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return path.replace(item.id, "\0") if item.id else path
