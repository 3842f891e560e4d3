"""Write a token store: one shard at a time, in any process and order, always the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from codec.audio.files import audio_info, read_audio
from codec.common.checked import dump_json, parse_json
from codec.common.files import atomic_path, read_bytes, sha256_bytes, sha256_file, write_bytes
from codec.errors import SoundloomError
from codec.store.measure import SourceChanged
from codec.store.plan import Fetch, Plan, Utterance, describe_unusable, load_plans, open_file
from codec.store.previous import PreviousCodes, remove_previous
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
from codec.store.upkeep import collect_leftovers

if TYPE_CHECKING:
    from codec.pretrained import AudioCodec

_CHANGED = "its audio changed after the plan was made"
#: called after each utterance with it and its reason if it was rejected, else ""
Progress = Callable[[Utterance, str], None]


class _Unusable(Exception):
    """An utterance that goes to the rejects; the message is the reason."""


def tokenize_shard(
    plan: Plan, index: int, codec: AudioCodec, fetch: Fetch | None = None, progress: Progress | None = None
) -> ShardRecord:
    """Encode one shard of a plan and commit it; what is written depends on nothing but the plan, files and codec.

    Utterances are encoded one by one, so that no neighbour in a batch can change a code. Those whose codes the store
    had before it was made again (see `codec.store.previous`) are not encoded. A shard that is
    committed already is left as it is; two processes doing the same one write the same bytes.

    Raises:
        SoundloomError: another codec, a full disk or an I/O error; the shard is then still to do.
    """
    plan.facts.require(StoreFacts.of(codec, plan.facts.num_levels), str(plan.store))
    data_path, record_path, rejects_path = shard_paths(plan.store, index)
    if plan.is_done(index):
        return ShardRecord.parse(parse_json(read_bytes(record_path), str(record_path)), str(record_path))
    fetch = fetch or open_file(plan.settings.root)
    previous = PreviousCodes(plan)
    rows: list[tuple[Any, ...]] = []
    rejects: list[bytes] = []
    for item in plan.shard(index):
        reason = ""
        try:
            rows += _tokenize(plan, item, codec, fetch, previous)
        except _Unusable as error:
            reason = str(error)
            reject = {"id": item.id, "source": item.source, "reason": reason}
            rejects.append(json.dumps(reject, ensure_ascii=False).encode("utf-8") + b"\n")
        if progress is not None:
            progress(item, reason)
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


def cut_on_silence(wave: torch.Tensor, sample_rate: int, shortest: int, longest: int) -> int:
    """Find where to cut ``wave`` ``[C, N]``: the quietest 0.2 s between ``shortest`` and ``longest`` samples.

    Returns: a number of samples, ``longest`` at most; the same for the same samples on every machine.
    """
    longest = min(longest, wave.shape[1])
    window = max(1, sample_rate // 5)
    if longest - shortest <= window:
        return longest
    # Whole numbers: sums of floats may differ in their last bit from one machine to the next, and move the cut.
    power = (wave.detach().cpu().numpy().astype(np.float64) * 32768).round().astype(np.int64)
    total = np.concatenate([[0], np.cumsum((power**2).sum(axis=0))])
    energy = total[shortest + window : longest + 1] - total[shortest : longest + 1 - window]
    return shortest + int(energy.argmin()) + window // 2


def _tokenize(
    plan: Plan, item: Utterance, codec: AudioCodec, fetch: Fetch, previous: PreviousCodes
) -> list[tuple[Any, ...]]:
    """Turn one utterance into rows of `SCHEMA`: one, or several where it is longer than the plan allows."""
    if item.problem:
        raise _Unusable(item.problem)
    try:
        with fetch(item) as path:
            digest = sha256_file(path) if item.size in (0, path.stat().st_size) else ""
            if not digest or not digest.startswith(item.sha256):
                raise _Unusable(_CHANGED)
            grids = previous.find(item, digest) or _encode_file(plan, item, path, codec)
    except SourceChanged as error:
        raise _Unusable(_CHANGED) from error
    except (OSError, ValueError) as error:
        problem = describe_unusable(error) if Path(plan.settings.root).exists() or item.row >= 0 else ""
        if not problem:
            raise SoundloomError(f"{item.source}: cannot be read ({error}); run again when the disk is well") from error
        raise _Unusable(problem) from error
    whole = len(grids) == 1
    # Which words a piece of a cut file holds is not known, so that its text is not either.
    text = item.text if whole else ""
    return [
        (
            item.id if whole else f"{item.id}#{number:03d}",
            grid.reshape(-1),
            len(grid),
            samples,
            text,
            item.speaker,
            item.language,
            bytes.fromhex(digest),
        )
        for number, (grid, samples) in enumerate(grids)
    ]


def _encode_file(plan: Plan, item: Utterance, path: Path, codec: AudioCodec) -> list[tuple[np.ndarray, int]]:
    """Encode a file in pieces of at most ``max_seconds``: a list of (codes int16 ``[T, K]``, samples)."""
    rate, settings = plan.facts.sample_rate, plan.settings
    longest = max(1, round(settings.max_seconds * rate))
    shortest = max(1, round(settings.min_seconds * rate))
    grids: list[tuple[np.ndarray, int]] = []
    try:
        end = item.start + item.duration if item.duration else audio_info(path).duration
        # Positions count samples from the start; a piece and the rest after it are both long enough to be kept.
        position, last = 0, round((end - item.start) * rate)
        while not grids or position < last:
            room = last - position
            is_rest = room <= longest
            # The rest of a file is read to where it really ends: a header may be a little off.
            seconds = (longest if not is_rest else room) / rate if item.duration or not is_rest else None
            wave = read_audio(path, rate, plan.facts.channels, item.start + position / rate, seconds)
            if wave.shape[1] < (shortest if is_rest else longest) or wave.shape[1] > longest + rate:
                reason = f"{position / rate + wave.shape[1] / rate:.3f} s long, expected "
                said = f"the {end - item.start:.3f} s of its header"
                raise _Unusable(reason + (said if grids or not is_rest else f"at least {settings.min_seconds} s"))
            if not is_rest:
                wave = wave[:, : cut_on_silence(wave, rate, longest // 2, min(longest, room - shortest))]
            grids.append((_encode(plan, codec, wave), wave.shape[1]))
            position = last if is_rest else position + wave.shape[1]
    except SoundloomError as error:
        raise _Unusable(str(error).replace(f"{path}: ", "").replace(str(path), item.source)) from error
    return grids


def _encode(plan: Plan, codec: AudioCodec, wave: torch.Tensor) -> np.ndarray:
    facts = plan.facts
    parameters = getattr(codec, "parameters", None)
    device = next((parameter.device for parameter in parameters()), None) if parameters else None
    with torch.inference_mode():
        codes = codec.encode(wave[None] if device is None else wave[None].to(device))
    B, K, T = codes.shape
    frames = -(-wave.shape[1] // facts.hop_length)
    if B != 1 or facts.num_levels > K or frames != T:
        raise RuntimeError(f"codec gave {list(codes.shape)} codes, expected [1, {facts.num_levels}, {frames}]")
    grid = codes[0, : facts.num_levels].T.cpu().numpy()  # [T, K]
    if grid.min() < 0 or grid.max() >= facts.codebook_size:
        raise RuntimeError(f"codec gave codes outside 0..{facts.codebook_size - 1}")
    return np.ascontiguousarray(grid, np.int16)


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
