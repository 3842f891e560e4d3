"""Write a clip as a Standard MIDI File, one track an instrument."""

from __future__ import annotations

import struct

from pipelines.music_corpus.instruments import DRUM_CHANNEL, DRUMS, INSTRUMENTS
from pipelines.music_corpus.score import Clip, Part

_TICKS = 480  # in a quarter note
_VOLUME = 7  # the controller's number


def to_midi(clip: Clip) -> bytes:
    """Return the bytes of the clip's MIDI file, format 1; the first track holds the tempo."""
    tracks = [_track([(0, b"\xff\x51\x03" + round(60e6 / clip.tempo).to_bytes(3, "big"))])]
    melodic = (channel for channel in range(16) if channel != DRUM_CHANNEL)
    for part in clip.parts:
        channel = DRUM_CHANNEL if part.instrument == DRUMS else next(melodic)
        tracks.append(_track(_events(part, channel, clip.tempo)))
    return struct.pack(">4sIHHH", b"MThd", 6, 1, len(tracks), _TICKS) + b"".join(tracks)


def _events(part: Part, channel: int, tempo: int) -> list[tuple[int, bytes]]:
    """Return (tick, message); at one tick notes end before others begin, so that a repeated note sounds again."""
    program = INSTRUMENTS[part.instrument].program
    events = [(0, 0, bytes([0xC0 | channel, program])), (0, 0, bytes([0xB0 | channel, _VOLUME, part.volume]))]
    for note in part.notes:
        begin, end = (round(at * tempo / 60 * _TICKS) for at in (note.start, note.start + note.length))
        events.append((begin, 2, bytes([0x90 | channel, note.pitch, note.velocity])))
        events.append((max(end, begin + 1), 1, bytes([0x80 | channel, note.pitch, 0])))
    return [(tick, message) for tick, _, message in sorted(events)]


def _track(events: list[tuple[int, bytes]]) -> bytes:
    body, now = b"", 0
    for tick, message in events:
        body += _variable_length(tick - now) + message
        now = tick
    body += b"\x00\xff\x2f\x00"
    return struct.pack(">4sI", b"MTrk", len(body)) + body


def _variable_length(number: int) -> bytes:
    """Return a delta time: seven bits a byte, the highest first, all but the last with bit 7 set."""
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))
