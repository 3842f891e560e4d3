"""A store and its corpus drift apart: texts are added, shards lost, plans removed; nothing goes stale in silence."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
from store_helpers import log_size, speech, store_bytes, tokenize, write_corpus

from codec.store.plan import Settings
from codec.store.reader import StoreReader, shard_paths, verify_store
from pipelines.corpus import folder

_CUT = ("--max-seconds", "1.9", "--max-reject-rate", "1")  # longer files become several rows


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus and its finished store of three shards."""
    folder = tmp_path_factory.mktemp("reference")
    write_corpus(folder / "corpus", 12)
    assert tokenize(folder / "corpus", folder / "store", "--shards", "3") == 0
    return folder / "corpus", folder / "store"


def test_a_corpus_that_changed_is_an_error_or_a_refresh(tmp_path: Path, capfd: Any) -> None:
    corpus, store = write_corpus(tmp_path / "corpus", 4), tmp_path / "store"
    manifest = corpus / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines).replace("text 1", "").replace("text 2", ""))
    assert tokenize(corpus, store) == 0
    before = store_bytes(store)
    assert tokenize(corpus, store) == 0  # the same corpus
    manifest.write_text("".join(lines))
    assert tokenize(corpus, store) == 2 and tokenize(corpus, store, "--append") == 2
    told = capfd.readouterr().err
    assert "2 utterances: each has another text (first 'u0001'); --refresh makes" in told
    assert "'u0001' with another text" in told and store_bytes(store) == before
    (store / "notes.txt").write_text("mine")
    assert tokenize(corpus, store, "--refresh") == 0
    assert [row.text for row in StoreReader(store)][1] == "text 1 é" and verify_store(store) == []
    assert (store / "notes.txt").exists()
    fresh = {path: path.stat().st_mtime_ns for path in store.glob("data-*")}
    assert tokenize(corpus, store, "--refresh") == 0  # nothing changed: nothing is made again
    assert fresh == {path: path.stat().st_mtime_ns for path in store.glob("data-*")}
    soundfile.write(corpus / "wavs/0001.wav", speech(0.5, 99), 8000)
    manifest.write_text("".join(lines[1:]) + json.dumps({"id": "new", "audio": "wavs/0000.wav"}) + "\n")
    assert tokenize(corpus, store) == 2
    told = capfd.readouterr().err
    assert "'new' is new; 'u0000' is gone; 'u0001' has another size" in told and "--append adds" in told


def test_audio_that_was_replaced_by_some_of_the_same_size_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    corpus, store = write_corpus(tmp_path / "corpus", 4, seconds=1.5), tmp_path / "store"
    assert tokenize(corpus, store, *_CUT) == 0
    before = store_bytes(store)
    plan = store / "plan.json"
    os.utime(plan, (plan.stat().st_mtime + 100,) * 2)
    monkeypatch.setattr("codec.store.same_audio.sha256_file", lambda path: pytest.fail("hashed without a doubt"))
    assert tokenize(corpus, store, *_CUT) == 0
    monkeypatch.undo()
    os.utime(plan, (plan.stat().st_mtime - 200,) * 2)  # all files are newer, but as they were
    assert tokenize(corpus, store, *_CUT) == 0 and tokenize(corpus, store, *_CUT, "--append") == 0
    assert store_bytes(store) == before
    for number in (1, 3):  # one row, and one in pieces
        soundfile.write(corpus / f"wavs/000{number}.wav", speech(1.5 + 0.15 * number, 99), 8000, subtype="PCM_16")
        capfd.readouterr()
        assert tokenize(corpus, store, *_CUT) == 2
        assert f"'u000{number}' has other audio of the same size; --refresh" in capfd.readouterr().err
        assert tokenize(corpus, store, *_CUT, "--append") == 2
        assert f"'u000{number}' with other audio" in capfd.readouterr().err and store_bytes(store) == before
        assert tokenize(corpus, store, *_CUT, "--refresh") == 0
        before = store_bytes(store)
    assert tokenize(corpus, tmp_path / "fresh", *_CUT) == 0 and store_bytes(tmp_path / "fresh") == before


def test_a_corpus_that_was_appended_again_is_not_new(tmp_path: Path, capfd: Any) -> None:
    corpus, store = write_corpus(tmp_path / "corpus", 4), tmp_path / "store"
    manifest = corpus / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:2]))
    assert tokenize(corpus, store) == 0
    manifest.write_text("".join(lines))
    assert tokenize(corpus, store) == 2 and "--append adds what is new" in capfd.readouterr().err
    assert tokenize(corpus, store, "--append") == 0 and len(StoreReader(store)) == 4
    before = store_bytes(store)
    assert tokenize(corpus, store) == 0 and store_bytes(store) == before
    manifest.write_text("".join(lines).replace("text 3", "text three"))
    assert tokenize(corpus, store) == 2 and tokenize(corpus, store, "--refresh") == 0
    assert len(StoreReader(store)) == 4 and not (store / "plan-1.json").exists()


def test_texts_that_changed_before_a_run_resumes_are_an_error(tmp_path: Path, capfd: Any) -> None:
    corpus, store = write_corpus(tmp_path / "corpus", 4), tmp_path / "store"
    assert tokenize(corpus, store, "--shards", "2", "--shard-range", "0:1") == 0
    manifest = corpus / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("text 3", "text three"))
    assert tokenize(corpus, store) == 2
    assert "'u0003' has another text" in capfd.readouterr().err


def test_a_finished_store_that_lost_or_swapped_shards_is_made_whole(
    reference: tuple[Path, Path], tmp_path: Path, capfd: Any
) -> None:
    store = tmp_path / "store"
    shutil.copytree(reference[1], store)
    wanted = store_bytes(store)
    one, other = (shard_paths(store, index)[0] for index in (0, 1))
    one.unlink()
    shard_paths(store, 2)[2].write_text("cut")
    assert tokenize(reference[0], store) == 0 and store_bytes(store) == wanted
    one.write_bytes(wanted[other.name])
    other.write_bytes(wanted[one.name])
    if len(wanted[one.name]) == len(wanted[other.name]):
        assert tokenize(reference[0], store) == 2 and "rows of another shard" in capfd.readouterr().err
    else:
        assert tokenize(reference[0], store) == 0 and store_bytes(store) == wanted


def test_a_refresh_encodes_only_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus, store = write_corpus(tmp_path / "corpus", 8, seconds=1.5), tmp_path / "store"
    options = ("--shards", "2", "--max-seconds", "1.9", "--max-reject-rate", "1")  # the longer ones are cut
    assert tokenize(corpus, store, *options) == 0
    assert any("#001" in row.id for row in StoreReader(store))
    monkeypatch.setenv("STORE_TEST_LOG", str(tmp_path / "log"))

    def refresh() -> int:
        """Refresh; return the number of waves encoded, without the two by which the speed is measured."""
        (tmp_path / "log").write_bytes(b"")
        assert tokenize(corpus, store, *options, "--refresh") == 0
        encoded = log_size() - 2
        assert tokenize(corpus, tmp_path / "fresh", *options) == 0
        assert store_bytes(store) == store_bytes(tmp_path / "fresh")  # nothing is left over either
        shutil.rmtree(tmp_path / "fresh")
        return encoded

    manifest = corpus / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("text 3", "text three"))
    assert refresh() == 0
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[1:]))  # the shards move
    soundfile.write(corpus / "wavs/0006.wav", speech(1.2, 99), 8000)
    assert refresh() == 1
    # Rot in the codes that would be kept: everything is encoded. The error of the first run is no obstacle.
    data = shard_paths(store, 0)[0]
    data.write_bytes(data.read_bytes()[:-20] + bytes(20))
    manifest.write_text(manifest.read_text().replace("text 4", "text four"))
    assert refresh() > 6


def test_a_refresh_that_was_killed_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, store = write_corpus(tmp_path / "corpus", 6), tmp_path / "store"
    assert tokenize(corpus, store, "--shards", "2") == 0
    monkeypatch.setenv("STORE_TEST_LOG", str(tmp_path / "log"))
    manifest = corpus / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("text 3", "text three"))
    assert tokenize(corpus, store, "--shards", "2", "--refresh", "--shard-range", "0:1") == 0
    assert (store / ".previous").is_dir() and not (store / "store.json").exists()
    manifest.write_text(manifest.read_text().replace("text 4", "text four"))
    assert tokenize(corpus, store, "--shards", "2", "--refresh") == 0
    assert log_size() == 4 and verify_store(store) == [] and not (store / ".previous").exists()
    assert [row.text for row in StoreReader(store)][3:5] == ["text three é", "text four é"]


def test_shards_that_several_plans_lost_are_made_again_at_once(tmp_path: Path) -> None:
    corpus, store = write_corpus(tmp_path / "corpus", 3), tmp_path / "store"
    lines = (corpus / "manifest.jsonl").read_text().splitlines(keepends=True)
    (corpus / "manifest.jsonl").write_text("".join(lines[:2]))
    assert tokenize(corpus, store) == 0
    (corpus / "manifest.jsonl").write_text("".join(lines))
    assert tokenize(corpus, store, "--append") == 0
    wanted = store_bytes(store)
    for index in (0, 1):
        shard_paths(store, index)[0].unlink()
    assert tokenize(corpus, store) == 0 and store_bytes(store) == wanted


def test_a_store_without_its_plan_is_left_alone(reference: tuple[Path, Path], tmp_path: Path, capfd: Any) -> None:
    store = tmp_path / "store"
    shutil.copytree(reference[1], store)
    for path in store.glob("plan*"):
        path.unlink()
    before = store_bytes(store)
    assert tokenize(reference[0], store) == 2
    assert "plan.json is gone" in capfd.readouterr().err and store_bytes(store) == before
    assert tokenize(reference[0], store, "--refresh") == 0 and verify_store(store) == []


def test_listing_a_folder_takes_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number // 2}.{'wav' if number % 2 else 'flac'}" for number in range(40_000)]
    entries = [SimpleNamespace(name=name, is_dir=lambda: False, is_file=lambda: True) for name in names]
    monkeypatch.setattr(folder.os, "scandir", lambda path: nullcontext(entries))
    monkeypatch.setattr(folder.Path, "is_file", lambda path: pytest.fail("no file is asked for that is not listed"))
    began = time.process_time()
    ids = {item.id for item, _ in folder.read_folder(tmp_path, Settings("", str(tmp_path)))}
    assert len(ids) == 40_000 and time.process_time() - began < 5


def test_a_folder_is_listed_in_the_order_of_its_paths(tmp_path: Path) -> None:
    names = [
        "b.wav",
        "b/x.wav",
        "b/a.b.flac",
        "a b/c.ogg",
        "a/z.wav",
        "a/z.mp3",
        "a-.wav",
        "B.wav",
        ".h/x.wav",
        "a/t.txt",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.normalized.txt").write_text("of b\n here")
    (tmp_path / "b.txt").write_text("another")
    items = [item for item, _ in folder.read_folder(tmp_path, Settings("", str(tmp_path)))]
    audio = sorted(
        [tmp_path / name for name in names if name[-4:] != ".txt" and name[0] != "."] + [tmp_path / "gone.wav"]
    )
    assert [item.path for item in items] == [path.relative_to(tmp_path).as_posix() for path in audio]
    found = {item.id: item for item in items}
    assert {"a/z.wav", "a/z.mp3", "b/a.b"} < set(found) and found["b"].text == "of b here"
    assert "leads nowhere" in found["gone"].problem


def test_odd_rows_do_not_look_like_changes(tmp_path: Path) -> None:
    corpus, store = write_corpus(tmp_path / "corpus", 3), tmp_path / "store"
    odd = [{"audio": "a\0b.wav"}, {"audio": "gone.wav"}, {"id": "u0000", "audio": "wavs/0001.wav"}, 7, {}]
    odd += [{"audio": "wavs/0002.wav", "segments": [{"start": 0, "end": 0.1}, {"start": 0.1, "end": 0.25}]}]
    with open(corpus / "manifest.jsonl", "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in odd)
    for _ in range(2):
        assert tokenize(corpus, store, "--max-reject-rate", "1") == 0
