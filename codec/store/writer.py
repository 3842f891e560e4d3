"""Write a token store: one shard at a time, in any process and order, always the same bytes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from codec.common.checked import dump_json, parse_json
from codec.common.files import atomic_path, read_bytes, sha256_bytes, sha256_file, write_bytes
from codec.errors import SoundloomError
from codec.store.encode import Progress, read_shard
from codec.store.plan import Fetch, Plan, load_plans, open_file
from codec.store.previous import remove_previous
from codec.store.reader import (
    FORMAT,
    SCHEMA,
    VERSION,
    ShardRecord,
    StoreFacts,
    StoreReader,
    edge_ids,
    seal,
    shard_paths,
)
from codec.store.schema import probe_bytes
from codec.store.upkeep import collect_leftovers

if TYPE_CHECKING:
    from codec.pretrained import AudioCodec


def tokenize_shard(
    plan: Plan,
    index: int,
    codec: AudioCodec,
    fetch: Fetch | None = None,
    progress: Progress | None = None,
    batch: int = 1,
) -> ShardRecord:
    """Encode one shard of a plan and commit it; what is written depends on the plan, files, codec and ``batch`` alone.

    ``batch``: how many pieces of about the same length are encoded together. With 1 no neighbour can change a code;
    with more, rounding can, where two codes are equally near (`codec.batched`). Utterances whose codes the store had
    before it was made again (see `codec.store.previous`) are not encoded. A shard that is committed already is left as
    it is; two processes doing the same one write the same bytes.

    Raises:
        SoundloomError: another codec, a full disk or an I/O error; the shard is then still to do.
    """
    plan.facts.require(StoreFacts.of(codec, plan.facts.num_levels), str(plan.store))
    data_path, record_path, rejects_path = shard_paths(plan.store, index)
    if plan.is_done(index):
        return ShardRecord.parse(parse_json(read_bytes(record_path), str(record_path)), str(record_path))
    found = read_shard(plan, index, codec, fetch or open_file(plan.settings.root), progress, batch)
    rows = [row for one in found for row in one.rows()]
    rejects = [one.reject() for one in found if one.reason]
    data = _dump_rows(rows)
    rejects_data = b"".join(rejects)
    record = ShardRecord(
        rows=len(rows),
        frames=sum(row[2] for row in rows),
        samples=sum(row[3] for row in rows),
        bytes=len(data),
        sha256=sha256_bytes(data),
        rejects=len(rejects),
        rejects_bytes=len(rejects_data),
        rejects_sha256=sha256_bytes(rejects_data),
        plan_sha256=plan.sha256,
        probe_sha256=probe_bytes(data),
    )
    try:
        write_bytes(data_path, data)
        write_bytes(rejects_path, rejects_data)
        write_bytes(record_path, dump_json(asdict(record)))  # last: with it the shard is there, without it it is not
    except SoundloomError as error:
        if plan.is_done(index):  # a twin finished it meanwhile, and the leftovers that it swept away were ours
            return record
        raise SoundloomError(f"{error}; finished shards are kept, run the same command again to resume") from error
    return record


def finalize(store: str | Path) -> dict[str, Any] | None:
    """Write what makes the shards one data set, if all are there: returns ``store.json``, or None if some are missing.

    Harmless to repeat, and for several processes at once. Leftovers of killed processes are removed.

    Raises:
        SoundloomError: a shard is not as it was written; every file is hashed. Or the system refuses to write.
    """
    store = Path(store)
    plans = load_plans(store)
    if not plans or any(plan.missing() for plan in plans):
        return None
    files: dict[str, str] = {}
    shards = []
    for plan in plans:
        files |= plan.files
        for index in plan.shards:
            data_path, record_path, rejects_path = shard_paths(store, index)
            commit = read_bytes(record_path)
            record = ShardRecord.parse(parse_json(commit, str(record_path)), str(record_path))
            _check_shard(plan, index, record)
            shards.append(asdict(record))
            files |= {data_path.name: record.sha256, rejects_path.name: record.rejects_sha256}
            files[record_path.name] = sha256_bytes(commit)
    datasets = {name: dump_json(content) for name, content in _datasets_files(len(shards), files).items()}
    files |= {name: sha256_bytes(data) for name, data in datasets.items()}
    totals = {f"num_{key}": sum(shard[key] for shard in shards) for key in ("rows", "frames", "samples", "rejects")}
    content = {"format": FORMAT, "version": VERSION, "codec": asdict(plans[0].facts), **totals}
    content |= {"num_utterances": sum(plan.num_utterances for plan in plans), "shards": shards, "files": files}
    sealed = seal(content)
    try:
        for name, data in datasets.items():
            write_bytes(store / name, data)
        write_bytes(store / "store.json", sealed)
    except SoundloomError:
        # A twin that finished the same store meanwhile took what was being written here for leftovers.
        if not (store / "store.json").exists() or (store / "store.json").read_bytes() != sealed:
            raise
        return content
    collect_leftovers(store, 0.0)
    remove_previous(store)
    return content


def _check_shard(plan: Plan, index: int, record: ShardRecord) -> None:
    """Check that a committed shard is this plan's, holds its rows, and that its files are as they were written."""
    data_path, record_path, rejects_path = shard_paths(plan.store, index)
    if record.plan_sha256 != plan.sha256:
        raise SoundloomError(f"{record_path}: belongs to another plan than {plan.file}; remove it and run again")
    ids = edge_ids(data_path, record, plan.facts.num_levels)
    planned = set(plan.shard_ids(index))
    if not all(name in planned or name.rpartition("#")[0] in planned for name in ids):
        raise SoundloomError(f"{data_path}: holds rows of another shard; remove it and run again")
    for path, digest in ((data_path, record.sha256), (rejects_path, record.rejects_sha256)):
        if sha256_file(path) != digest:
            raise SoundloomError(
                f"{path}: changed after it was written (its sha256 does not hold); remove it and run again"
            )


def export_parquet(store: str | Path, path: str | Path, levels: int | None = None) -> int:
    """Write a store as one Parquet file with the same columns, a row group for each shard; returns the rows.

    With ``levels`` the codes hold the first n levels only. The codec's facts are in the schema's metadata.
    """
    import pyarrow.parquet

    reader = StoreReader(store, levels)
    facts = {**asdict(reader.facts), "num_levels": reader.num_levels}
    schema = SCHEMA.with_metadata({"soundloom": json.dumps(facts)})
    with atomic_path(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for index in range(len(reader.records)):
            with pa.memory_map(str(shard_paths(reader.path, index)[0])) as source:
                batch = pa.ipc.open_stream(source).read_next_batch()
            if reader.num_levels < reader.stored_levels:
                lengths = np.array(batch.column("num_frames"), np.int64) * reader.num_levels
                grid = np.array(batch.column("codes").values).reshape(-1, reader.stored_levels)  # [T, K]
                values = pa.array(grid[:, : reader.num_levels].reshape(-1), pa.int16())
                offsets = pa.array(np.cumsum([0, *lengths]), pa.int32())
                batch = batch.set_column(1, SCHEMA.field("codes"), pa.ListArray.from_arrays(offsets, values))
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    return len(reader)


def _dump_rows(rows: list[tuple[Any, ...]]) -> bytes:
    columns: list[Any] = list(zip(*rows, strict=True)) if rows else [[] for _ in SCHEMA]
    offsets = np.cumsum([0, *(len(codes) for codes in columns[1])])
    if offsets[-1] >= 1 << 31:
        raise SoundloomError(f"a shard of {offsets[-1]} codes is too large; ask for more shards (--shards)")
    values = np.concatenate([np.empty(0, np.int16), *columns[1]])
    codes = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, pa.int16()))
    arrays = [
        codes if spec.name == "codes" else pa.array(column, spec.type)
        for spec, column in zip(SCHEMA, columns, strict=True)
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
    return sink.getvalue().to_pybytes()


def _datasets_files(num_shards: int, files: dict[str, str]) -> dict[str, Any]:
    """Describe the shards as Hugging Face `datasets` does, so that ``load_from_disk`` opens the folder."""
    features: dict[str, Any] = {}
    for spec in SCHEMA:
        if spec.name == "codes":
            features[spec.name] = {"feature": {"dtype": "int16", "_type": "Value"}, "_type": "List"}
        else:
            features[spec.name] = {"dtype": str(spec.type), "_type": "Value"}
    state: dict[str, Any] = {
        "_data_files": [{"filename": f"data-{index:06d}.arrow"} for index in range(num_shards)],
        "_fingerprint": sha256_bytes(dump_json(files))[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    return {"state.json": state, "dataset_info.json": info}
