"""Scores are functions of their number; keys, notes, MIDI bytes and captions agree with each other."""

from __future__ import annotations

import struct

import pytest

from pipelines.music_corpus.arrange import arrange
from pipelines.music_corpus.captions import describe_clip
from pipelines.music_corpus.compose import compose
from pipelines.music_corpus.instruments import DRUMS, INSTRUMENTS
from pipelines.music_corpus.midi import _variable_length, to_midi
from pipelines.music_corpus.styles import DRUM_PATTERNS, STYLES
from pipelines.music_corpus.theory import MODES, chord_pitches, key_name, scale_pitch, third

CLIPS = [arrange(compose(seed), variation, 10.0) for seed in range(40) for variation in range(2)]


def test_the_same_number_gives_the_same_clip_and_another_gives_another() -> None:
    again = [arrange(compose(seed), variation, 10.0) for seed in range(40) for variation in range(2)]
    assert again == CLIPS
    assert len({clip.id for clip in CLIPS}) == len(CLIPS)
    assert len({to_midi(clip) for clip in CLIPS}) == len(CLIPS)


def test_every_style_is_sampled_and_its_tables_agree() -> None:
    assert len(STYLES) >= 12 and {compose(seed).style for seed in range(200)} == set(STYLES)
    for style in STYLES.values():
        assert set(style.modes) <= set(MODES) and set(style.drums) <= set(DRUM_PATTERNS)
        assert {*style.melody_by, *style.chords_by, *style.bass_by} <= set(INSTRUMENTS)
        for drums in style.drums:
            assert {len(line) for line in DRUM_PATTERNS[drums]} == {4 * style.meter}


def test_notes_are_in_the_key_and_in_the_clip() -> None:
    outside = total = 0
    for clip in CLIPS:
        scale = {(clip.tonic + step) % 12 for step in MODES[clip.piece.mode]}
        for part in clip.parts:
            for note in part.notes:
                assert 0 <= note.start < 10 and note.length > 0 and note.start + note.length <= 10.001
                assert 0 <= note.pitch <= 127 and 1 <= note.velocity <= 127
            if part.instrument != DRUMS:
                pitches = [note.pitch for note in part.notes]
                total += len(pitches)
                outside += sum(pitch % 12 not in scale for pitch in pitches)
    # the leading tone of minor and approaches of a walking bass
    assert outside / total < 0.06


def test_the_melody_is_the_piece_in_another_key_at_another_tempo() -> None:
    piece = compose(3)
    clip = arrange(piece, 0, 10.0)
    melody = next(part for part in clip.parts if part.role == "melody")
    beats = [(note.start * clip.tempo / 60, (note.pitch - clip.tonic) % 12) for note in melody.notes]
    written = [(note.start % piece.beats, note.pitch % 12) for note in piece.lines["melody"]]
    offsets = [
        offset for offset in range(0, piece.beats, 4 * piece.beats_per_bar) if _matches(beats, written, offset, piece)
    ]
    assert offsets


def _matches(beats: list[tuple[float, int]], written: list[tuple[float, int]], offset: int, piece: object) -> bool:
    length = piece.beats  # type: ignore[attr-defined]
    moved = {(round((at + offset) % length, 2), pitch) for at, pitch in beats}
    return moved <= {(round(at, 2), pitch) for at, pitch in written}


def test_theory() -> None:
    assert [scale_pitch("major", step) for step in (0, 4, 7, -1)] == [0, 7, 12, -1]
    assert chord_pitches("major", 4) == (7, 11, 14) and chord_pitches("minor", 4) == (7, 11, 14)
    assert chord_pitches("dorian", 3, 4) == (5, 9, 12, 15)
    assert third("dorian") == "minor" and third("lydian") == "major"
    assert key_name(6, "minor") == "F sharp minor" and key_name(10, "mixolydian") == "B flat mixolydian"


def test_midi_is_well_formed_and_holds_every_note() -> None:
    clip = CLIPS[0]
    data = to_midi(clip)
    name, size, kind, tracks, ticks = struct.unpack(">4sIHHH", data[:14])
    assert (name, size, kind, tracks, ticks) == (b"MThd", 6, 1, 1 + len(clip.parts), 480)
    at, begins = 14, 0
    for track in range(tracks):
        name, length = struct.unpack(">4sI", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert name == b"MTrk" and body.endswith(b"\x00\xff\x2f\x00")
        if track == 0:
            assert round(60e6 / int.from_bytes(body[4:7], "big")) == clip.tempo
        else:
            begins += sum(body[i] & 0xF0 == 0x90 and body[i - 1] < 0x80 for i in range(1, len(body)) if body[i] & 0x80)
        at += 8 + length
    assert at == len(data)
    assert begins >= sum(len(part.notes) for part in clip.parts)
    assert [_variable_length(n) for n in (0, 127, 128, 16383, 16384)] == [
        b"\x00", b"\x7f", b"\x81\x00", b"\xff\x7f", b"\x81\x80\x00"
    ]  # fmt: skip


@pytest.mark.parametrize("clip", CLIPS[::5], ids=lambda clip: clip.id)
def test_captions_state_only_what_is_true(clip: object) -> None:
    captions = describe_clip(clip)  # type: ignore[arg-type]
    assert captions == describe_clip(clip)  # type: ignore[arg-type]
    assert 2 <= len(captions) <= 4 and len({caption.text for caption in captions}) == len(captions)
    facts = clip.attributes()  # type: ignore[attr-defined]
    for caption in captions:
        stated = {
            "key": facts["key"] in caption.text,
            "style": facts["style"].lower() in caption.text.lower(),
            "instruments": all(name in caption.text for name in facts["instruments"]),
            "tempo number": f"{facts['tempo']} beats" in caption.text,
        }
        for name, there in stated.items():
            assert there or name not in caption.names, (caption, name)
            assert not there or name in caption.names or name == "style", (caption, name)
