"""The program makes a corpus, resumes it, gives the same files at any number of workers, and says what is missing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from fake_fluidsynth import fake_fluidsynth

from codec.audio import audio_info, read_audio
from codec.errors import SoundloomError
from pipelines.corpus.manifest import read_manifest
from pipelines.make_music_corpus import main
from pipelines.music_corpus.render import find_synthesizer

SMALL = ["--scores", "3", "--variations", "2", "--seconds", "2"]


def files(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_a_corpus_is_made_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthesizer = fake_fluidsynth(tmp_path)
    out = tmp_path / "corpus"
    assert main([str(out), *SMALL, *synthesizer]) == 0
    before = files(out)
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 6 and len(list(read_manifest(out / "manifest.jsonl"))) == 6
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["attributes"]["score"], set()).add(row["split"])
        assert row["text"] == row["captions"][0]["text"]
        info = audio_info(out / row["audio"])
        assert (info.sample_rate, info.duration) == (24_000, 2.0)
        assert 0.3 < float(read_audio(out / row["audio"]).abs().max()) < 1
        notes = json.loads((out / row["notes"]).read_text(encoding="utf-8"))
        assert notes["key"] == row["attributes"]["key"] and notes["parts"][0]["notes"][0]
    assert len(splits) == 3 and all(len(found) == 1 for found in splits.values())

    removed, kept = out / rows[0]["audio"], out / rows[1]["audio"]
    removed.unlink()
    written = kept.stat().st_mtime_ns
    assert main([str(out), *SMALL, *synthesizer]) == 0
    assert files(out) == before and kept.stat().st_mtime_ns == written
    removed.write_bytes(removed.read_bytes()[:2000])
    assert main([str(out), *SMALL, *synthesizer, "--verify"]) == 0
    assert files(out) == before

    Path(synthesizer[-1]).write_bytes(b"another font")
    with pytest.raises(SoundloomError, match=r"was not made with font\.sf2"):
        main([str(out), *SMALL, *synthesizer])


def test_two_workers_give_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    synthesizer = fake_fluidsynth(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    small = ["--scores", "2", "--variations", "1", "--seconds", "2", *synthesizer]
    assert main([str(one), *small]) == main([str(two), *small, "--workers", "2"]) == 0
    assert files(one) == files(two)
    assert main([str(tmp_path / "three"), *small, "--seed", "1"]) == 0
    assert not {row.id for row in read_manifest(one / "manifest.jsonl")} & {
        row.id for row in read_manifest(tmp_path / "three" / "manifest.jsonl")
    }


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, font = fake_fluidsynth(tmp_path)[1::2]
    with pytest.raises(SoundloomError, match="apt install fluidsynth"):
        find_synthesizer(str(tmp_path / "nothing"), font)
    with pytest.raises(SoundloomError, match="no such sound font"):
        find_synthesizer(program, str(tmp_path / "none.sf2"))
    monkeypatch.setenv("SOUNDLOOM_FLUIDSYNTH", program)
    monkeypatch.setenv("SOUNDLOOM_SF2", font)
    assert find_synthesizer().font == font
    with pytest.raises(SoundloomError, match="nothing to make"):
        main([str(tmp_path / "x"), "--scores", "0"])
    with pytest.raises(SoundloomError, match="--seconds"):
        main([str(tmp_path / "x"), "--seconds", "0.5"])
    (tmp_path / "fluidsynth").write_text("#!/bin/sh\necho broken font >&2; exit 1\n", encoding="utf-8")
    assert main([str(tmp_path / "y"), *SMALL]) == 1
    assert "broken font" in (tmp_path / "y" / "rejects.jsonl").read_text(encoding="utf-8")
