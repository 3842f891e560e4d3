"""Tunes in ABC become pieces in C with chords; files that state a copyright are left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from codec.errors import SoundloomError
from pipelines.music_corpus.score import Note
from pipelines.music_corpus.tunes import LEFT_OUT, SOURCES, harmonise, read_tune, tune_texts

TUNE = "X:1\nT:A Reel\nM:4/4\nL:1/4\nK:D\n" + "D F A d | G B d2 | A c e2 | d4 |\n" * 2


def test_only_listed_sources_without_a_claim_are_read(tmp_path: Path) -> None:
    for source in SOURCES:
        (tmp_path / source.folder).mkdir()
        (tmp_path / source.folder / "a.abc").write_text(TUNE + "\n" + TUNE.replace("T:A Reel", "T:B\nZ:(c) 1999 N.N."))
    (tmp_path / "bach").mkdir()
    (tmp_path / "bach" / "b.abc").write_text(TUNE)
    names = [name for name, _, _ in tune_texts(tmp_path)]
    assert names == [f"{source.folder}-a-000" for source in SOURCES]
    assert not {source.folder for source in SOURCES} & set(LEFT_OUT)
    with pytest.raises(SoundloomError, match="no tunes"):
        next(tune_texts(tmp_path / "bach"))


def test_each_bar_gets_the_chord_of_its_melody() -> None:
    pitches = [(60, 64, 67, 72), (65, 69, 72, 69), (67, 71, 74, 71), (69, 72, 76, 69), (60, 64, 67, 60)]
    melody = [Note(4 * bar + i, 0.9, pitch, 90) for bar, row in enumerate(pitches) for i, pitch in enumerate(row)]
    assert harmonise(melody, "major", 4, 5) == [0, 3, 4, 5, 0]


def test_a_tune_becomes_a_piece_in_c() -> None:
    pytest.importorskip("music21")
    piece = read_tune("tune", SOURCES[0], TUNE)
    assert piece is not None
    assert (piece.mode, piece.beats_per_bar, piece.bars, piece.style) == ("major", 4, 8, "folk")
    assert [note.pitch % 12 for note in piece.lines["melody"][:7]] == [0, 4, 7, 0, 5, 9, 0]
    assert {"melody", "chords", "bass"} <= set(piece.lines)
    assert read_tune("tune", SOURCES[0], TUNE.replace("M:4/4", "M:5/4")) is None
    assert read_tune("tune", SOURCES[0], "X:1\nK:D\n") is None
    assert read_tune("tune", SOURCES[0], "no tune at all") is None
