"""Corpora in tar and Parquet files, and on an object store (fsspec's in memory), give the codes of a folder's files."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from store_helpers import tokenize, write_corpus

from codec.store.plan import load_plans
from codec.store.reader import StoreReader, verify_store

COUNT = 9


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StoreReader]:
    base = tmp_path_factory.mktemp("remote")
    write_corpus(base / "corpus", COUNT)
    assert tokenize(base / "corpus", base / "store") == 0
    return base / "corpus", StoreReader(base / "store")


@pytest.fixture
def bucket() -> Iterator[str]:
    url = f"memory://bucket-{uuid.uuid4().hex}"
    yield url
    files = fsspec.filesystem("memory")
    if files.exists(url):
        files.rm(url, recursive=True)


def records(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def pack_tar(folder: Path, first: int, last: int) -> bytes:
    """Pack samples as WebDataset does: text in .txt for even ones, text and speaker in .json for odd ones."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, record in enumerate(records(folder)[first:last]):
            text = record["text"].encode() if number % 2 == 0 else json.dumps(record).encode()
            sound = (folder / record["audio"]).read_bytes()
            for ending, data in (("wav", sound), ("txt" if number % 2 == 0 else "json", text), ("npy", b"\0" * 9)):
                info = tarfile.TarInfo(f"part/{record['id']}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pack_parquet(folder: Path, path: Path, as_struct: bool) -> None:
    rows = records(folder)
    sounds = [(folder / row["audio"]).read_bytes() for row in rows]
    audio = [{"bytes": data, "path": row["audio"]} for data, row in zip(sounds, rows, strict=True)]
    columns = {key: [row[key] for row in rows] for key in ("id", "text", "speaker", "language", "split")}
    pyarrow.parquet.write_table(pa.table({**columns, "audio": audio if as_struct else sounds}), path, row_group_size=4)


def same_rows(store: Path, expected: StoreReader, prefix: str = "", speakers: bool = True) -> None:
    reader = StoreReader(store)
    assert verify_store(store) == [] and len(reader) == len(expected)
    for ours, theirs in zip(reader, expected, strict=True):
        assert ours.id == prefix + theirs.id and ours.text == theirs.text and torch.equal(ours.codes, theirs.codes)
        assert ours.speaker == theirs.speaker or not speakers


@pytest.mark.parametrize("where", ["folder", "file", "memory"])
def test_tars_give_the_same_codes(corpus: tuple[Path, StoreReader], tmp_path: Path, where: str, bucket: str) -> None:
    parts = (
        [pack_tar(corpus[0], 0, 4), pack_tar(corpus[0], 4, COUNT)] if where != "file" else [pack_tar(corpus[0], 0, 99)]
    )
    source = str(tmp_path / "tars") if where != "memory" else bucket
    with fsspec.open(f"{source}/.hidden.tar", "wb", auto_mkdir=True) as file:
        file.write(b"not a tar")
    for number, data in enumerate(parts):
        with fsspec.open(f"{source}/shard-{number:03d}.tar", "wb") as file:
            file.write(data)
    name = f"{source}/shard-000.tar" if where == "file" else source
    for part in ("1/2", "0/2"):
        if part == "1/2":
            assert tokenize(name, tmp_path / "store", "--shards", "3", "--plan-only") == 0
        assert tokenize(name, tmp_path / "store", "--shards", "3", "--part", part) == 0
    same_rows(tmp_path / "store", corpus[1], "part/", speakers=False)
    (plan,) = load_plans(tmp_path / "store")
    assert all(item.size and item.seconds > 0.2 for item in plan)


@pytest.mark.parametrize(("as_struct", "remote"), [(True, False), (False, True)])
def test_parquet_gives_the_same_codes(
    corpus: tuple[Path, StoreReader], tmp_path: Path, as_struct: bool, remote: bool, bucket: str
) -> None:
    pack_parquet(corpus[0], tmp_path / "a.parquet", as_struct)
    if remote:
        fsspec.filesystem("memory").put(str(tmp_path / "a.parquet"), f"{bucket}/data/a.parquet")
    assert tokenize(bucket if remote else tmp_path / "a.parquet", tmp_path / "store", "--shards", "2") == 0
    same_rows(tmp_path / "store", corpus[1])
    split = ("--split", "dev", "--max-seconds", "20")
    assert tokenize(tmp_path / "a.parquet", tmp_path / "none", *split) == 2


def test_audio_on_an_object_store(corpus: tuple[Path, StoreReader], tmp_path: Path, bucket: str) -> None:
    files = fsspec.filesystem("memory")
    for row in records(corpus[0]):
        files.pipe(f"{bucket}/sounds/{row['id']}.wav", (corpus[0] / row["audio"]).read_bytes())
        files.pipe(f"{bucket}/sounds/{row['id']}.txt", row["text"].encode())
    assert tokenize(f"{bucket}/sounds", tmp_path / "store") == 0
    same_rows(tmp_path / "store", corpus[1], speakers=False)
    assert tokenize(f"{bucket}/sounds", tmp_path / "store") == 0  # nothing changed
    files.pipe(f"{bucket}/sounds/u0003.wav", (corpus[0] / "wavs/0004.wav").read_bytes())
    assert tokenize(f"{bucket}/sounds", tmp_path / "store") == 2


def test_a_manifest_on_an_object_store(corpus: tuple[Path, StoreReader], tmp_path: Path, bucket: str) -> None:
    files = fsspec.filesystem("memory")
    for path in corpus[0].rglob("*"):
        if path.is_file():
            files.pipe(f"{bucket}/{path.relative_to(corpus[0])}", path.read_bytes())
    assert tokenize(bucket, tmp_path / "store") == 0
    same_rows(tmp_path / "store", corpus[1])
    assert tokenize(f"{bucket}/manifest.jsonl", tmp_path / "planned", "--plan-only") == 0
    files.rm(f"{bucket}/wavs/0002.wav")
    assert tokenize(f"{bucket}/manifest.jsonl", tmp_path / "planned", "--max-reject-rate", "1") == 0
    assert [reject["id"] for reject in StoreReader(tmp_path / "planned").rejects()] == ["u0002"]


def test_what_cannot_be_opened_is_named(tmp_path: Path, bucket: str, capfd: pytest.CaptureFixture[str]) -> None:
    for name, message in (
        (f"{bucket}/nowhere", "does not exist"),
        ("nonsense://bucket/x", "cannot be opened"),
    ):
        assert tokenize(name, tmp_path / "store") == 2 and message in capfd.readouterr().err
    fsspec.filesystem("memory").pipe(f"{bucket}/a.tar", b"no tar at all" * 100)
    assert tokenize(bucket, tmp_path / "store") == 2 and "not a tar" in capfd.readouterr().err
