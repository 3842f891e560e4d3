"""tokenize_corpus: kinds of corpora, faults and kills, any number of processes, appending."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from store_helpers import FakeCodec, load_fake, speech, store_bytes, tokenize, write_corpus

import codec.common.files
from codec.audio.files import read_audio
from codec.errors import SoundloomError
from codec.store.plan import load_plans
from codec.store.reader import StoreReader, shard_paths, verify_store
from pipelines.tokenize_corpus import main

HELPER = str(Path(__file__).parents[1] / "helpers" / "store_helpers.py")
COUNT = 40


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus of 40 utterances and its store, written by one process without a fault."""
    base = tmp_path_factory.mktemp("tokenize")
    write_corpus(base / "corpus", COUNT)
    assert tokenize(base / "corpus", base / "store", "--shards", "8") == 0
    return base / "corpus", base / "store"


def ids(store: Path) -> list[str]:
    return [row.id for row in StoreReader(store)]


def write_wav(path: Path, seconds: float = 0.3, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speech(seconds, seed), 8000)


# corpora


def test_manifest_split_and_limit(reference: tuple[Path, Path], tmp_path: Path) -> None:
    assert tokenize(reference[0], tmp_path / "dev", "--split", "dev") == 0
    assert ids(tmp_path / "dev") == ["u0009", "u0019", "u0029", "u0039"]
    assert tokenize(reference[0] / "manifest.jsonl", tmp_path / "few", "--split", "train", "--limit", "3") == 0
    assert ids(tmp_path / "few") == ["u0000", "u0001", "u0002"]
    assert tokenize(reference[0], tmp_path / "none", "--split", "tset") == 2
    assert not (tmp_path / "none").exists()


def test_folder_with_texts_in_many_formats(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for suffix in ("wav", "flac", "ogg", "mp3"):
        (folder / "a").mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "a" / f"x-{suffix}.{suffix}", speech(1.0, 1), 8000)
    soundfile.write(folder / "x.opus", speech(1.0, 1), 8000, format="OGG", subtype="OPUS")
    shutil.copy(folder / "a/x-wav.wav", folder / "twice.wav")
    shutil.copy(folder / "a/x-flac.flac", folder / "twice.flac")
    (folder / "a/x-flac.txt").write_text("the  text\n", encoding="utf-8")
    assert tokenize(folder, tmp_path / "store", "--language", "en", "--speaker", "me") == 0
    rows = {row.id: row for row in StoreReader(tmp_path / "store")}
    assert set(rows) == {"a/x-wav", "a/x-flac", "a/x-ogg", "a/x-mp3", "x", "twice.wav", "twice.flac"}
    assert rows["a/x-flac"].text == "the text" and rows["x"].text == ""
    assert {(row.language, row.speaker) for row in rows.values()} == {("en", "me")}
    assert torch.equal(rows["twice.wav"].codes, rows["a/x-wav"].codes)


def test_ljspeech(tmp_path: Path) -> None:
    write_wav(tmp_path / "lj/wavs/LJ001-0001.wav")
    write_wav(tmp_path / "lj/wavs/LJ001-0002.wav")
    lines = 'LJ001-0001|In 1455, "quoted|In fourteen fifty-five, "quoted\nLJ001-0002|Only raw|\n'
    (tmp_path / "lj/metadata.csv").write_text(lines, encoding="utf-8")
    assert tokenize(tmp_path / "lj", tmp_path / "store") == 0
    rows = list(StoreReader(tmp_path / "store"))
    assert [row.text for row in rows] == ['In fourteen fifty-five, "quoted', "Only raw"]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_csv_with_names_of_other_projects(tmp_path: Path, suffix: str) -> None:
    write_wav(tmp_path / "clips/1.wav")
    separator = "," if suffix == "csv" else "\t"
    rows = [["client_id", "path", "sentence", "locale"], ["me", "clips/1.wav", "hello", "en"]]
    (tmp_path / f"m.{suffix}").write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8")
    assert tokenize(tmp_path / f"m.{suffix}", tmp_path / "store") == 0
    row = StoreReader(tmp_path / "store")[0]
    assert (row.id, row.text, row.speaker, row.language) == ("clips/1", "hello", "me", "en")


def test_parts_of_long_files_keep_their_text(tmp_path: Path) -> None:
    write_wav(tmp_path / "long.wav", 9.0)
    segments = [{"start": 0.0, "end": 1.5, "text": "one"}, {"start": 1.5, "end": 2.5, "text": " two"}]
    segments += [{"start": 2.5, "end": 5.0, "text": "three"}]
    lines: list[Any] = [{"id": "s", "audio": "long.wav", "segments": segments}]
    lines += [{"id": "p", "audio": "long.wav", "text": "part", "offset": 6, "duration": 1.25}]
    lines += [{"id": "w", "audio": "long.wav", "text": "whole", "duration": 9.0}, {"id": "b", "audio": "long.wav"}]
    lines[-1]["segments"] = [{"start": 3, "end": "x"}]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    arguments = ("--max-seconds", "4", "--max-reject-rate", "0.5")
    assert tokenize(tmp_path / "m.jsonl", tmp_path / "store", *arguments) == 0
    reader = StoreReader(tmp_path / "store")
    rows = {row.id: row for row in reader}
    assert (rows["s@000"].text, rows["s@000"].num_samples) == ("one two", 20_000)
    assert (rows["s@001"].text, rows["s@001"].num_samples) == ("three", 20_000)
    assert (rows["p"].text, rows["p"].num_samples) == ("part", 10_000)
    wave = read_audio(tmp_path / "long.wav", 8000)
    assert torch.equal(rows["p"].codes.long(), FakeCodec().encode(wave[None, :, 48_000:58_000])[0])
    # A long file without times is cut on silence: nothing is lost or doubled, and its text is not known for a piece.
    pieces = [row for name, row in rows.items() if name.startswith("w#")]
    assert [row.id for row in pieces] == [f"w#{number:03d}" for number in range(len(pieces))]
    assert sum(row.num_samples for row in pieces) == 72_000 and {row.text for row in pieces} == {""}
    position = 0
    for row in pieces:
        assert row.num_samples <= 32_000
        part = wave[None, :, position : position + row.num_samples]
        assert torch.equal(row.codes.long(), FakeCodec().encode(part)[0])
        position += row.num_samples
    assert [reject["id"] for reject in reader.rejects()] == ["b"]


def test_hugging_face_data_set_on_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write_wav(tmp_path / "a.wav")
    write_wav(tmp_path / "b.wav", seed=1)
    paths = [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    rows = datasets.Dataset.from_dict({"speech": paths, "text": ["eins", "zwei"], "speaker_id": [7, 8]})
    rows = rows.cast_column("speech", datasets.Audio(decode=False))
    embedded = rows.map(lambda row: {"speech": {"bytes": Path(row["speech"]["path"]).read_bytes(), "path": "x.wav"}})
    datasets.DatasetDict({"train": rows, "test": embedded}).save_to_disk(tmp_path / "hf")
    for split in ("train", "test"):
        assert tokenize(tmp_path / "hf", tmp_path / split, "--split", split) == 0
        reader = StoreReader(tmp_path / split)
        assert [(row.id, row.text, row.speaker) for row in reader] == [
            ("row-00000000", "eins", "7"),
            ("row-00000001", "zwei", "8"),
        ]
        wave = read_audio(tmp_path / "b.wav", 8000)
        assert torch.equal(reader[1].codes.long(), FakeCodec().encode(wave[None])[0])
    assert tokenize(tmp_path / "hf", tmp_path / "no", "--split", "dev") == 2


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set as the hub has them: two Parquet files with audio in them, one of the six no audio."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("parquet")
    for file in range(2):
        rows: dict[str, list[Any]] = {"speech": [], "sentence": [], "speaker_id": []}
        for number in range(3):
            write_wav(folder / "x.wav", 0.3 + 0.1 * number, 3 * file + number)
            content = (folder / "x.wav").read_bytes() if (file, number) != (1, 1) else b"no audio"
            rows["speech"].append({"bytes": content, "path": f"{number}.wav"})
            rows["sentence"].append(f"satz {file} {number}")
            rows["speaker_id"].append(file)
        data = datasets.Dataset.from_dict(rows).cast_column("speech", datasets.Audio(decode=False))
        data.to_parquet(folder / f"train-{file:05d}-of-00002.parquet")
    (folder / "x.wav").unlink()
    return folder


def test_a_stream_is_tokenized_without_being_kept(parquet: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    store = tmp_path / "store"
    arguments = (f"stream:{parquet}", store, "--shards", "4", "--language", "de", "--max-reject-rate", "0.2")
    for part in ("2:4", "0:2"):  # a shard that begins inside of a file, before the one at its start
        assert tokenize(*arguments, "--shard-range", part) == 0
    reader = StoreReader(store)
    expected = [(file, number) for file in range(2) for number in range(3) if (file, number) != (1, 1)]
    assert [row.id for row in reader] == [f"row-{file:05d}-{number:07d}" for file, number in expected]
    for row, (file, number) in zip(reader, expected, strict=True):
        assert (row.text, row.speaker, row.language) == (f"satz {file} {number}", str(file), "de")
        write_wav(tmp_path / "x.wav", 0.3 + 0.1 * number, 3 * file + number)
        assert torch.equal(row.codes.long(), FakeCodec().encode(read_audio(tmp_path / "x.wav", 8000)[None])[0])
    assert [(reject["source"], bool(reject["reason"])) for reject in reader.rejects()] == [("file 1, row 1", True)]
    assert not list(tmp_path.glob("cache/**/*.arrow"))
    whole = (f"hf:{parquet}", tmp_path / "whole", *arguments[2:])
    assert tokenize(*whole) == 0  # the same codes as from the kept data set
    assert all(torch.equal(a.codes, b.codes) for a, b in zip(reader, StoreReader(tmp_path / "whole"), strict=True))
    assert tokenize(f"stream:{parquet}", tmp_path / "no", "--split", "dev") == 2


def test_a_stream_that_changed_since_the_plan_is_seen(parquet: Path, tmp_path: Path, capfd: Any) -> None:
    folder = tmp_path / "data"
    shutil.copytree(parquet, folder)
    arguments = (f"stream:{folder}", tmp_path / "store", "--shards", "2", "--max-reject-rate", "1")
    assert tokenize(*arguments, "--plan-only") == 0
    (folder / "train-00001-of-00002.parquet").unlink()
    assert tokenize(*arguments) == 2
    assert "changed since the plan" in capfd.readouterr().err
    shutil.copy(parquet / "train-00000-of-00002.parquet", folder / "train-00001-of-00002.parquet")
    assert tokenize(*arguments) == 0
    reasons = [reject["reason"] for reject in StoreReader(tmp_path / "store").rejects()]
    assert len(reasons) == 3 and all("changed" in reason for reason in reasons)


# a bad corpus


@pytest.mark.proof("a bad corpus is finished with every reject named")
def test_a_bad_corpus_is_finished_and_every_reject_named(tmp_path: Path, capfd: Any, record_property: Any) -> None:
    folder = tmp_path / "folder"
    for number in range(60):
        write_wav(folder / f"good{number:02d}.wav", 0.2, number)
    good = (folder / "good00.wav").read_bytes()
    (folder / "bad-truncated.wav").write_bytes(good[:-500])
    (folder / "bad-empty.wav").write_bytes(b"")
    soundfile.write(folder / "bad-nan.wav", speech(0.2, 0) * float("nan"), 8000, subtype="FLOAT")
    soundfile.write(folder / "bad-one-sample.wav", [0.1], 8000)
    lying = bytearray(good)
    lying[40:44] = (1 << 30).to_bytes(4, "little")
    (folder / "bad-header.wav").write_bytes(lying)
    (folder / "bad-ending.mp3").write_text("this is no audio\n" * 50, encoding="utf-8")
    os.symlink("bad-loop.wav", folder / "bad-loop.wav")
    os.symlink(".", folder / "again")
    assert tokenize(folder, tmp_path / "store", "--shards", "4") == 1
    assert "more than 1.00% rejected" in capfd.readouterr().err
    reader = StoreReader(tmp_path / "store")
    assert [row.id for row in reader] == [f"good{number:02d}" for number in range(60)]
    rejects = reader.rejects()
    expected = ("empty", "ending", "header", "loop", "nan", "one-sample", "truncated")
    assert sorted(reject["id"] for reject in rejects) == [f"bad-{name}" for name in expected]
    assert all(reject["reason"] and str(tmp_path) not in reject["reason"] for reject in rejects)
    record_property("files:", f"{len(reader)} good ones tokenized, {len(rejects)} bad ones of as many kinds named")
    assert tokenize(folder, tmp_path / "store", "--max-reject-rate", "0.2") == 0
    assert verify_store(tmp_path / "store") == []


def test_bad_lines_of_a_manifest_are_rejects(tmp_path: Path) -> None:
    for number in range(3):
        write_wav(tmp_path / f"{number}.wav", seed=number)
    lines = [
        '{"audio": "0.wav"}',
        "not json",
        "[1]",
        '{"text": "no audio"}',
        '{"audio": "0.wav"}',
        '{"audio": "../x\\u0000"}',
    ]
    lines += ['{"audio": "1.wav", "id": "0#000"}', '{"audio": "2.wav", "start": -1, "end": 3}', '{"audio": 5}']
    (tmp_path / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert tokenize(tmp_path / "m.jsonl", tmp_path / "store") == 1
    reader = StoreReader(tmp_path / "store")
    assert [row.id for row in reader] == ["0"] and len(reader.rejects()) == len(lines) - 1


def test_audio_that_changed_after_the_plan_is_a_reject(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", 4)
    assert tokenize(tmp_path / "corpus", tmp_path / "store", "--plan-only") == 0
    write_wav(tmp_path / "corpus/wavs/0001.wav", 0.5, 99)
    (tmp_path / "corpus/wavs/0002.wav").unlink()
    assert tokenize(tmp_path / "corpus", tmp_path / "store") == 1
    reasons = {reject["id"]: reject["reason"] for reject in StoreReader(tmp_path / "store").rejects()}
    assert "changed" in reasons["u0001"] and "no such file" in reasons["u0002"] and len(reasons) == 2


def test_a_corpus_that_vanishes_stops_the_run_and_it_goes_on(tmp_path: Path, capfd: Any) -> None:
    write_corpus(tmp_path / "corpus", 4)
    assert tokenize(tmp_path / "corpus", tmp_path / "store", "--plan-only") == 0
    from codec.store.writer import tokenize_shard

    (tmp_path / "corpus").rename(tmp_path / "unmounted")
    with pytest.raises(SoundloomError, match="run again"):
        tokenize_shard(load_plans(tmp_path / "store")[0], 0, FakeCodec())
    (tmp_path / "unmounted").rename(tmp_path / "corpus")
    assert tokenize(tmp_path / "corpus", tmp_path / "store") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "s"], "does not exist"),
        ([HELPER, "s"], "unknown kind of corpus"),
        ([".", "s", "--workers", "0"], "--workers"),
        ([".", "s", "--max-seconds", "0.2"], "--max-seconds"),
        ([".", "s", "--levels", "5"], "levels"),
    ],
)
def test_bad_input_is_told(tmp_path: Path, monkeypatch: Any, capfd: Any, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert tokenize(*arguments) == 2
    assert message in capfd.readouterr().err


def test_an_empty_folder_and_bad_shard_ranges(reference: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert tokenize(tmp_path / "empty", tmp_path / "s") == 2
    for wrong in ("3", "b:c", "4:2", "-1:2"):
        with pytest.raises(SoundloomError, match="shard-range"):
            main([str(reference[0]), str(reference[1]), f"--shard-range={wrong}"], load_fake)


# any number of processes


@pytest.mark.proof("2 workers write the bytes of 1")
def test_workers_write_the_same_bytes(reference: tuple[Path, Path], tmp_path: Path) -> None:
    run_helper(reference[0], tmp_path / "store", "--shards", "8", "--workers", "2")
    assert store_bytes(tmp_path / "store") == store_bytes(reference[1])


@pytest.mark.slow
@pytest.mark.proof("3 workers write the bytes of 1")
def test_three_workers_write_the_same_bytes(reference: tuple[Path, Path], tmp_path: Path) -> None:
    run_helper(reference[0], tmp_path / "store", "--shards", "8", "--workers", "3")
    assert store_bytes(tmp_path / "store") == store_bytes(reference[1])


def test_shares_of_a_launcher_write_the_same_bytes(reference: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in ("0", "2", "1"):
        monkeypatch.setenv("RANK", rank)
        assert not (tmp_path / "store/store.json").exists()
        assert tokenize(reference[0], tmp_path / "store", "--shards", "8") == 0
    assert store_bytes(tmp_path / "store") == store_bytes(reference[1])


def test_shard_ranges_write_the_same_bytes(reference: tuple[Path, Path], tmp_path: Path) -> None:
    for part in ("5:8", "0:3", "2:5"):
        assert tokenize(reference[0], tmp_path / "store", "--shards", "8", "--shard-range", part) == 0
    assert store_bytes(tmp_path / "store") == store_bytes(reference[1])


@pytest.mark.slow
@pytest.mark.proof("datatrove's tasks write the bytes of one process")
def test_datatrove_writes_the_same_bytes(reference: tuple[Path, Path], tmp_path: Path) -> None:
    """In a process of its own: datatrove sets up logging and start methods for the whole process."""
    pytest.importorskip("datatrove")
    store = tmp_path / "store"
    words = ["--shards", "8", "--engine", "local", "--tasks", "3", "--engine-option", "workers=2"]
    run_helper(reference[0], store, "--shards", "8", "--shard-range", "2:4")  # it goes on where another launcher was
    run_helper(reference[0], store, *words)
    assert store_bytes(store) == store_bytes(reference[1])
    told = subprocess.run(
        [sys.executable, HELPER, str(reference[0]), str(tmp_path / "x"), *words[:-1], "wokers=2"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 2 and "wokers" in told.stderr


@pytest.mark.slow
@pytest.mark.proof("accelerate launch writes the bytes of one process")
def test_accelerate_launch_writes_the_same_bytes(reference: tuple[Path, Path], tmp_path: Path) -> None:
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    subprocess.run(
        [*launch, HELPER, str(reference[0]), str(tmp_path / "store"), "--shards", "8"], check=True, timeout=300
    )
    assert store_bytes(tmp_path / "store") == store_bytes(reference[1])


def run_helper(*arguments: str | Path) -> str:
    command = [sys.executable, HELPER, *[str(argument) for argument in arguments]]
    return subprocess.run(command, check=True, timeout=600, capture_output=True, text=True).stdout


# faults


def check_kills(tmp_path: Path, monkeypatch: Any, kills: int, processes: int, utterances: int) -> str:
    """Kill ``kills`` times; then nothing is lost or doubled, and little was done again."""
    shard = 5
    corpus, store, log = write_corpus(tmp_path / "corpus", utterances), tmp_path / "store", tmp_path / "log"
    arguments = (corpus, store, "--shards", str(utterances // shard), "--codec", "slow")
    monkeypatch.setenv("STORE_TEST_LOG", str(log))
    words = ["kill", str(kills), str(processes), "7", *map(str, arguments)]
    ran = subprocess.run([sys.executable, HELPER, *words], check=True, timeout=600, capture_output=True, text=True)
    told, encoded = json.loads(ran.stdout), log.stat().st_size
    assert told["finished"] == 1, ran.stderr[-3000:]  # of all starts; the last one should have said why
    assert told["hits"] >= 0.8 * kills and told["shards"] >= kills // 5
    assert tokenize(corpus, tmp_path / "reference", *arguments[2:4]) == 0
    assert store_bytes(store) == store_bytes(tmp_path / "reference")  # no leftovers either
    assert verify_store(store) == [] and ids(store) == [f"u{number:04d}" for number in range(utterances)]
    # A kill costs a worker less than its shard, and each start encodes two for the forecast.
    assert encoded <= utterances + (told["hits"] * shard + (kills + 1) * 2) * processes
    again = max(0, encoded - utterances - (kills + 1) * 2 * processes) / max(1, told["hits"] * processes)
    return f"{told['hits']} of {kills} met work; {again:.1f} utterances of {shard} done again for each and worker"


@pytest.mark.parametrize("processes", [1, 2])
def test_kills_lose_and_double_nothing(tmp_path: Path, monkeypatch: Any, processes: int) -> None:
    check_kills(tmp_path, monkeypatch, 5, processes, 50 * processes)


@pytest.mark.slow
@pytest.mark.proof("50 kills lose and double nothing and repeat less than a shard a worker")
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_fifty_kills_lose_and_double_nothing(
    tmp_path: Path, monkeypatch: Any, record_property: Any, processes: int
) -> None:
    record_property("kills:", check_kills(tmp_path, monkeypatch, 50, processes, 300 * processes))


@pytest.mark.slow
def test_workers_end_with_their_parent(reference: tuple[Path, Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    arguments = [str(reference[0]), str(store), "--shards", "8", "--workers", "2", "--codec", "slow"]
    parent = subprocess.Popen([sys.executable, HELPER, *arguments], start_new_session=True)
    while not list(store.glob("data-*.json")):
        time.sleep(0.01)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if not group_members(parent.pid):
            break
        time.sleep(0.1)
    assert group_members(parent.pid) == []
    run_helper(*arguments)
    assert store_bytes(store) == store_bytes(reference[1])


def group_members(group: int) -> list[int]:
    """List the processes of a group that are not dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.proof("a disk that fails ends clearly and resumes")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_disk_that_fails_ends_clearly_and_resumes(
    reference: tuple[Path, Path], tmp_path: Path, monkeypatch: Any, capfd: Any, code: int, call: str
) -> None:
    """Each write of the run fails once, one after another; the same command then goes on to the same bytes."""
    real = getattr(os, call)
    store = tmp_path / "store"
    failures = 0
    for position in range(1, 200):
        calls = iter(range(1, 1 << 30))

        def fail(*arguments: Any, calls: Any = calls, position: int = position) -> Any:
            if next(calls) == position:
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(codec.common.files.os, call, fail)
            result = tokenize(reference[0], store, "--shards", "8")
        if result == 0:
            break
        assert result == 2 and os.strerror(code) in capfd.readouterr().err
        failures += 1
        if position > 3:  # let it get on: the later writes are to fail too
            tokenize(reference[0], store, "--shards", "8", "--shard-range", f"{position % 8}:{position % 8 + 1}")
    assert failures > 3
    assert store_bytes(store) == store_bytes(reference[1])


def test_a_file_that_may_not_grow_ends_clearly_and_resumes(reference: tuple[Path, Path], tmp_path: Path) -> None:
    """The system's own refusal, not a pretended one: a limit on the size of files cuts the writing short."""
    store = tmp_path / "store"
    assert tokenize(reference[0], store, "--shards", "8", "--plan-only") == 0
    script = f"ulimit -f 1; exec {sys.executable} {HELPER} {reference[0]} {store} --shards 8"
    told = subprocess.run(["bash", "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert told.returncode == 2 and "run the same command again" in told.stderr
    assert not list(store.glob(".data*")) and not list(store.glob("data-*"))
    assert tokenize(reference[0], store, "--shards", "8") == 0
    assert store_bytes(store) == store_bytes(reference[1])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_a_read_only_folder_ends_clearly(reference: tuple[Path, Path], tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        assert tokenize(reference[0], tmp_path / "store") == 2
    finally:
        tmp_path.chmod(0o755)


def test_a_store_below_a_file_ends_clearly(reference: tuple[Path, Path], tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert tokenize(reference[0], tmp_path / "file/store") == 2
    assert "cannot write" in capfd.readouterr().err


def test_a_damaged_plan_is_refused_by_name(reference: tuple[Path, Path], tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "plan.json").write_bytes((reference[1] / "plan.json").read_bytes()[:-40])
    assert tokenize(reference[0], tmp_path) == 2
    assert "plan.json" in capfd.readouterr().err


# going on, appending, telling


def test_a_finished_store_is_left_alone(reference: tuple[Path, Path]) -> None:
    before = store_bytes(reference[1])
    times = {path: path.stat().st_mtime_ns for path in reference[1].glob("data-*")}
    assert tokenize(reference[0], reference[1]) == 0
    assert store_bytes(reference[1]) == before
    assert times == {path: path.stat().st_mtime_ns for path in reference[1].glob("data-*")}


def test_appending(tmp_path: Path, capfd: Any) -> None:
    store = tmp_path / "store"
    write_corpus(tmp_path / "one", 6)
    (tmp_path / "one/wavs/0003.wav").rename(tmp_path / "away.wav")
    assert tokenize(tmp_path / "one", store, "--max-reject-rate", "0.5") == 0
    assert len(ids(store)) == 5
    # Another codec is refused, appending or not; another corpus only without --append.
    write_wav(tmp_path / "two/x.wav")
    for extra in ([], ["--append"]):
        assert tokenize(tmp_path / "two", store, "--codec", "other", *extra) == 2
        assert "another codec" in capfd.readouterr().err
    assert tokenize(tmp_path / "two", store) == 2
    assert "--append" in capfd.readouterr().err
    assert tokenize(tmp_path / "two", store, "--append") == 0
    assert sorted(ids(store)) == ["u0000", "u0001", "u0002", "u0004", "u0005", "x"]
    # A corpus that grew: what is there stays, what was a reject is tried again.
    first = shard_paths(store, 0)[0].read_bytes()
    (tmp_path / "away.wav").rename(tmp_path / "one/wavs/0003.wav")
    assert tokenize(tmp_path / "one", store, "--append") == 0
    assert sorted(ids(store))[3] == "u0003" and len(ids(store)) == 7
    assert shard_paths(store, 0)[0].read_bytes() == first
    assert verify_store(store) == []
    before = store_bytes(store)
    assert tokenize(tmp_path / "one", store, "--append") == 0
    assert store_bytes(store) == before
    # The same name for other audio is a mistake, not a thing to skip.
    write_wav(tmp_path / "two/x.wav", 0.4, 5)
    assert tokenize(tmp_path / "two", store, "--append") == 2
    assert "'x' with other audio" in capfd.readouterr().err
    assert tokenize(tmp_path / "two", store, "--append", "--id-prefix", "two/") == 0
    assert {"x", "two/x"} < set(ids(store)) and verify_store(store) == []


def test_an_append_that_was_cut_off_goes_on(reference: tuple[Path, Path], tmp_path: Path, capfd: Any) -> None:
    store = tmp_path / "store"
    write_wav(tmp_path / "two/x.wav")
    write_wav(tmp_path / "two/y.wav", seed=1)
    assert tokenize(reference[0], store, "--limit", "3") == 0
    arguments = (tmp_path / "two", store, "--append", "--shards", "2")
    assert tokenize(*arguments, "--shard-range", "0:1") == 0
    assert tokenize(reference[0], store, "--append") == 2
    assert "unfinished" in capfd.readouterr().err
    assert tokenize(*arguments) == 0
    assert ids(store) == ["u0000", "u0001", "u0002", "x", "y"]


def test_the_forecast_comes_first_and_is_near(reference: tuple[Path, Path], tmp_path: Path, capfd: Any) -> None:
    assert tokenize(reference[0], tmp_path, "--shards", "8", "--plan-only") == 0
    told = capfd.readouterr().err
    assert "40 utterances" in told and "forecast: store" in told and not list(tmp_path.glob("data*"))
    kilobytes = float(told.partition("forecast: store ")[2].split()[0])
    size = sum(path.stat().st_size for path in reference[1].glob("data-*.arrow"))
    size += sum(path.stat().st_size for path in tmp_path.glob("plan*"))
    assert 0.7 < kilobytes * 1000 / size < 1.4


def test_verify_and_export_commands(reference: tuple[Path, Path], tmp_path: Path, capfd: Any) -> None:
    store = tmp_path / "store"
    shutil.copytree(reference[1], store)
    assert tokenize("verify", store) == 0
    assert tokenize("export", store, tmp_path / "out.parquet", "--levels", "2") == 0
    assert (tmp_path / "out.parquet").stat().st_size > 0
    data = bytearray(shard_paths(store, 2)[0].read_bytes())
    data[-100] ^= 4
    shard_paths(store, 2)[0].write_bytes(data)
    capfd.readouterr()
    assert tokenize("verify", store) == 1
    assert "data-000002.arrow" in capfd.readouterr().out


def test_levels_kept_in_the_store(reference: tuple[Path, Path], tmp_path: Path) -> None:
    assert tokenize(reference[0], tmp_path, "--levels", "2", "--limit", "2") == 0
    reader = StoreReader(tmp_path)
    assert reader.num_levels == 2 and torch.equal(reader[1].codes, StoreReader(reference[1])[1].codes[:2])
    reader.require_codec(FakeCodec())


def test_help_is_quick_and_has_examples() -> None:
    script = Path(main.__code__.co_filename)
    told = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    assert "accelerate launch" in told.stdout and "verify STORE" in told.stdout
