"""Corpora and stores of millions of utterances, made up, and what a process needs to plan, list and read them."""

from __future__ import annotations

import gc
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from codec.common.files import sha256_bytes, write_bytes
from codec.store.plan import Settings, Utterance, load_plans, make_plan
from codec.store.plan_parts import slice_of
from codec.store.reader import FORMAT, SCHEMA, VERSION, ShardRecord, StoreFacts, StoreReader, seal, shard_paths
from codec.store.schema import probe_bytes
from lm.data.batch_plan import BatchPlan
from lm.data.dataset import GridDataset
from lm.text.tokenizer import TextTokenizer
from pipelines.corpus.folder import read_folder

FACTS = StoreFacts("made-up", 24_000, 1, 1920, 12.5, 1024, 4)
_LINE = "a quiet river carries seven old ships over green water until the morning comes back home again"
_WORDS = _LINE.split()
_SECONDS = 10.0


@dataclass(frozen=True)
class Cost:
    """What work took in a process of its own: wall and CPU seconds, and growth of its peak memory in bytes."""

    seconds: float
    cpu: float
    memory: int


def cost_of(work: Callable[..., None], *arguments: Any) -> Cost:
    """Do ``work`` in a fresh process and return what it took, imports left out."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    try:
        cost: Cost = ours.recv()  # from our own child
    finally:
        process.join()
    return cost


def _measure(results: Any, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    gc.collect()
    before, began, cpu = _peak(), time.perf_counter(), time.process_time()
    work(*arguments)
    results.send(Cost(time.perf_counter() - began, time.process_time() - cpu, max(0, _peak() - before)))


def _peak() -> int:
    # Not `resource.getrusage`: its peak is that of the parent where that was higher.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def utterances(count: int) -> Iterator[Utterance]:
    """Make up utterances of ten seconds with a text, whose sizes are known, as a list of an object store knows them."""
    for number in range(count):
        text = " ".join(_WORDS[(number * step) % len(_WORDS)] for step in range(1, 17))
        name = f"{number // 1000:06d}/utterance-{number:09d}"
        yield Utterance(
            name, f"{name}.flac", text, f"s{number % 997}", "en", size=300_000 + number % 977, seconds=_SECONDS
        )


def write_plan_of(folder: Path, count: int) -> None:
    """Plan a corpus of ``count`` utterances."""
    make_plan(folder, lambda: utterances(count), FACTS, Settings("s3://made-up", "made-up"))


def open_as_worker(folder: Path) -> None:
    """Do what a worker does before its first utterance: open the plans, and read the part of one shard."""
    (plan,) = load_plans(folder)
    assert plan.shard(plan.shards[len(plan.shards) // 2])[0].id


def make_names(folder: Path, count: int) -> None:
    """Make a folder of ``count`` empty audio files with a text next to each hundredth, a thousand in a folder."""
    for number in range(count):
        if number % 1000 == 0:
            place = folder / f"{number // 1000:06d}"
            place.mkdir(parents=True)
        (place / f"{number:09d}.wav").touch()
        if number % 100 == 0:
            (place / f"{number:09d}.txt").write_text("a text")


def list_names(folder: Path) -> None:
    """List a folder's audio."""
    assert sum(1 for _ in read_folder(folder, Settings("", str(folder))))


def write_store(folder: Path, count: int, frames: tuple[int, int] = (8, 20)) -> None:
    """Write a finished store of ``count`` made-up rows, shard after shard; lengths lie between ``frames``.

    Real rows are longer: what a training does before its first batch depends on their number.
    """
    num_shards = max(1, min(4096, count // 360))
    records = []
    for index in range(num_shards):
        first, last = slice_of(count, num_shards, index)
        records.append(_write_shard(folder, index, first, last, frames))
    shards = [asdict(record) for record in records]
    content = {"format": FORMAT, "version": VERSION, "codec": asdict(FACTS), "shards": shards, "files": {}}
    write_bytes(folder / "store.json", seal(content))


def _write_shard(folder: Path, index: int, first: int, last: int, frames: tuple[int, int]) -> ShardRecord:
    random = np.random.default_rng(index)
    lengths = random.integers(*frames, last - first)
    codes = random.integers(0, FACTS.codebook_size, int(lengths.sum()) * FACTS.num_levels).astype(np.int16)
    offsets = np.concatenate([[0], np.cumsum(lengths * FACTS.num_levels)])
    count = last - first
    texts = pa.array([" ".join(_WORDS[place:] + _WORDS[: place % 5]) for place in range(len(_WORDS))])
    columns: dict[str, Any] = {
        "id": pa.array(np.arange(first, last)).cast(pa.string()),
        "codes": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(codes)),
        "num_frames": lengths,
        "num_samples": lengths * FACTS.hop_length,
        "text": texts.take(pa.array(random.integers(0, len(texts), count))),
        "speaker": pa.array(np.arange(first, last) % 997).cast(pa.string()),
        "language": pa.repeat("en", count),
        "source_sha256": pa.repeat(bytes(32), count),
    }
    arrays = [
        pa.array(columns[spec.name], spec.type) if spec.name.startswith("num") else columns[spec.name]
        for spec in SCHEMA
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as stream:
        stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
    data = sink.getvalue().to_pybytes()
    folder.mkdir(parents=True, exist_ok=True)
    shard_paths(folder, index)[0].write_bytes(data)
    total = int(lengths.sum())
    return ShardRecord(
        count, total, total * FACTS.hop_length, len(data), sha256_bytes(data), 0, 0, "", "", probe_bytes(data)
    )


def first_batch(store: Path, tokenizer: Path) -> None:
    """Do what a training does before its first step: open the store, plan the batches, read the first."""
    dataset = GridDataset(StoreReader(store), TextTokenizer.from_pretrained(tokenizer), max_frames=1500)
    plan = BatchPlan(dataset.lengths, dataset.text_lengths, 6000, 0, dataset.scored)
    assert len(dataset.batch(plan.rows(0), 0).ids)


def measure(count: int, names: int, rows: int, place: Path) -> Iterator[tuple[str, str, Cost]]:
    """Yield (work, size, cost) of each piece of work; ``place`` is a folder with room, which is left as it was."""
    folder = Path(tempfile.mkdtemp(prefix="scale-", dir=place))
    try:
        yield "plan written", f"{count:,} utterances", cost_of(write_plan_of, folder / "plan", count)
        yield "plan opened by a worker", f"{count:,} utterances", cost_of(open_as_worker, folder / "plan")
        for size in (names // 2, names):
            make_names(folder / f"names-{size}", size)
            yield "folder listed", f"{size:,} names", cost_of(list_names, folder / f"names-{size}")
            shutil.rmtree(folder / f"names-{size}")
        write_store(folder / "store", rows)
        TextTokenizer.train(_WORDS, folder / "text")
        yield "first training batch", f"{rows:,} rows", cost_of(first_batch, folder / "store", folder / "text")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
