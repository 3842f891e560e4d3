"""The files of a plan: a header, and the utterances in parts.

::

    plan.json         the header: codec, settings, shards, and size and sha256 of each part; sealed
    plan.arrow.zst    the utterances, a part for each shard (`codec.store.plan_parts`)

Plans of version 2, whose utterances are one packed JSON file (``plan.json.zst``), and of version 1, one JSON file with
an object for each utterance, are still read; they are held in memory whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from codec.common.checked import field, parse_json
from codec.common.files import read_bytes, sha256_bytes, write_bytes
from codec.errors import SoundloomError
from codec.store.plan_parts import ArrowParts, ListedParts, Parts, slice_of, write_parts
from codec.store.schema import StoreFacts, seal
from codec.store.utterance import Settings, Utterance, whole_path

FORMAT = "soundloom-plan"
VERSION = 3
_MAX_RATIO = 1000  # a packed file that claims to hold more than this many times its size is refused unread


@dataclass(frozen=True)
class PlanRecord:
    """The content of a plan's files; ``files`` are their names with their sha256, the header's first."""

    facts: StoreFacts
    settings: Settings
    first_shard: int
    num_shards: int
    num_utterances: int
    parts: Parts
    files: dict[str, str]


def plan_paths(store: Path, number: int) -> tuple[Path, Path]:
    """Return the paths of the header and the utterances of plan ``number`` (0, then 1 … for what was appended)."""
    name = f"plan-{number}" if number else "plan"
    return store / f"{name}.json", store / f"{name}.arrow.zst"


def write_plan(
    store: Path,
    number: int,
    facts: StoreFacts,
    settings: Settings,
    shards: range,
    count: int,
    batches: Iterable[pa.RecordBatch],
) -> None:
    """Write a plan of ``count`` utterances; the header comes last, so that a plan is there whole or not at all."""
    path, parts_path = plan_paths(store, number)
    bounds = [slice_of(count, len(shards), position) for position in range(len(shards))]
    parts, digest = write_parts(parts_path, [last - first for first, last in bounds], batches)
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION, "codec": asdict(facts)}
    header |= {"settings": asdict(settings), "first_shard": shards.start, "num_shards": len(shards)}
    header |= {"num_utterances": count, "parts": parts, "utterances_sha256": digest}
    write_bytes(path, seal(header))


def read_plan(store: Path, number: int) -> PlanRecord:
    """Read a plan of any version; of the present one the header alone.

    Raises:
        SoundloomError: it names the file and what is wrong with it.
    """
    path, parts_path = plan_paths(store, number)
    name = str(path)
    data = read_bytes(path)
    record = parse_json(data, name)
    first = isinstance(record, dict) and "header" in record
    header = field(record, "header", dict, name) if first else record
    version = field(header, "version", int, name)
    if field(header, "format", str, name) != FORMAT or version not in ((1,) if first else (2, VERSION)):
        raise SoundloomError(f"{name}: expected format {FORMAT!r}, version 1 to {VERSION}")
    if not first and data != seal(header):
        raise SoundloomError(f"{name}: changed after it was written (its sha256 does not hold)")
    facts = StoreFacts.parse(field(header, "codec", dict, name), name)
    settings = Settings.parse(field(header, "settings", dict, name), name)
    shards, count = field(header, "num_shards", int, name, 1), field(header, "num_utterances", int, name, 0)
    if shards > max(1, count):
        raise SoundloomError(f"{name}: {count} utterances in {shards} shards, expected no empty shard")
    files = {path.name: sha256_bytes(data)}
    parts: Parts
    if version == VERSION:
        parts = ArrowParts.parse(parts_path, field(header, "parts", dict, name), shards, count, name)
        files[parts_path.name] = field(header, "utterances_sha256", str, name)
    else:
        items, more = _read_old(path, record, header, first)
        parts, files = ListedParts(items, shards), files | more
        if count != len(items):
            raise SoundloomError(f"{name}: {len(items)} utterances in {shards} shards, its header says otherwise")
    first_shard = field(header, "first_shard", int, name, 0)
    return PlanRecord(facts, settings, first_shard, shards, count, parts, files)


def _read_old(
    path: Path, record: dict[str, Any], header: dict[str, Any], first: bool
) -> tuple[tuple[Utterance, ...], dict[str, str]]:
    """Read the utterances of a plan of version 1 (``first``) or 2; return also the files that the header names."""
    name = str(path)
    if first:
        return tuple(Utterance.parse(item, name) for item in field(record, "utterances", list, name)), {}
    packed_path = path.with_suffix(".json.zst")
    files = {packed_path.name: field(header, "utterances_sha256", str, name)}
    return _unpack(packed_path, header, name), files


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
    return tuple(replace(item, path=whole_path(item.path, item.id)) for item in items)
