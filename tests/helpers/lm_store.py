"""A small token store for tests of training, written without any audio: codes follow from the text's letters."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from codec.common.files import sha256_bytes
from codec.store.reader import FORMAT, SCHEMA, VERSION, ShardRecord, StoreFacts, seal

WORDS = ["red", "green", "seven", "ships", "sail", "home", "over", "quiet", "water", "today"]
FACTS = StoreFacts("codec-for-tests", 800, 1, 40, 20.0, 16, 3)


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 7))) + "."


def grid(text: str, facts: StoreFacts = FACTS) -> np.ndarray:
    """Codes [T, K]: two frames a letter, each level shifted by its number."""
    letters = np.repeat(np.frombuffer(text.encode(), np.uint8).astype(np.int64), 2)[:, None]
    return ((letters + np.arange(facts.num_levels)) % facts.codebook_size).astype(np.int16)


def write_rows(
    folder: Path,
    rows: list[tuple[str, str, np.ndarray]],
    facts: StoreFacts = FACTS,
    speakers: Sequence[str] | None = None,
) -> Path:
    """Write a one-shard store of (id, text, codes [T, K]) as `StoreReader` reads it (no plan, no rejects)."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = [len(codes) * facts.hop_length for _, _, codes in rows]
    columns = [
        [identity for identity, _, _ in rows],
        [codes.reshape(-1) for _, _, codes in rows],
        [len(codes) for _, _, codes in rows],
        samples,
        [text for _, text, _ in rows],
        list(speakers or ["heart"] * len(rows)),
        ["en"] * len(rows),
        [b"\0" * 32] * len(rows),
    ]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
    data = sink.getvalue().to_pybytes()
    (folder / "data-000000.arrow").write_bytes(data)
    record = ShardRecord(
        len(rows), sum(columns[2]), sum(samples), len(data), sha256_bytes(data), 0, 0, sha256_bytes(b""), ""
    )
    content = {"format": FORMAT, "version": VERSION, "codec": asdict(facts), "shards": [asdict(record)], "files": {}}
    (folder / "store.json").write_bytes(seal(content))
    return folder


def write_store(folder: Path, count: int, seed: int = 0, facts: StoreFacts = FACTS) -> Path:
    """Write a store of ``count`` random sentences."""
    rng = random.Random(seed)
    texts = [sentence(rng) for _ in range(count)]
    return write_rows(folder, [(f"utt-{seed}-{i}", text, grid(text, facts)) for i, text in enumerate(texts)], facts)
