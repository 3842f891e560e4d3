"""Formats that stream can be read when they are cut together, and hold the sound that went in."""

from __future__ import annotations

import asyncio
import io
import threading
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from codec.errors import SoundloomError
from pipelines.server.encoders import MEDIA_TYPES, Encoding, File, Pcm, new_encoder, pcm16

RATE = 24_000


def tone(seconds: float = 1.5) -> torch.Tensor:
    return 0.3 * torch.sin(torch.arange(round(seconds * RATE)) * 0.1)[None]


def encoded(kind: str, wave: torch.Tensor, size: int = 960) -> list[bytes]:
    encoder = new_encoder(kind, RATE)
    return [*(encoder.push(chunk) for chunk in wave.split(size, dim=1)), encoder.finish()]


@pytest.mark.parametrize("kind", [kind for kind in MEDIA_TYPES if kind != "pcm"])
def test_the_pieces_are_a_file_with_the_whole_sound(kind: str) -> None:
    wave = tone()
    samples, rate = soundfile.read(io.BytesIO(b"".join(encoded(kind, wave))))
    assert rate == RATE
    assert 0 <= len(samples) - wave.shape[1] < 3000  # an encoder may pad, and must not lose
    if kind in ("wav", "flac"):
        assert np.array_equal(np.round(samples * 32768).astype("<i2"), pcm16(wave)[:, 0])
    else:
        assert abs(np.sqrt(np.mean(samples**2)) / 0.3 * np.sqrt(2) - 1) < 0.1


def test_pcm_is_the_samples() -> None:
    assert b"".join(encoded("pcm", tone())) == pcm16(tone()).tobytes()


@pytest.mark.parametrize("kind", ["mp3", "wav", "pcm"])
def test_the_first_chunk_gives_the_first_bytes(kind: str) -> None:
    assert encoded(kind, tone(), size=1920)[0]


def test_mp3_frames_are_of_one_bitrate() -> None:
    data = b"".join(encoded("mp3", tone()))
    assert data[:1] == b"\xff" and b"Xing" not in data[:400], (
        "a head for a variable bitrate would be rewritten at the end"
    )


def test_what_is_not_possible_is_refused() -> None:
    with pytest.raises(SoundloomError, match="expected one of mp3"):
        new_encoder("aac", RATE)
    with pytest.raises(SoundloomError, match="44100 Hz"):
        new_encoder("opus", 44_100)


@pytest.mark.parametrize("kind", ["mp3", "opus", "flac", "pcm"])
def test_slow_formats_are_encoded_beside_the_event_loop(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()

    def recorded(self: Any, wave: torch.Tensor) -> bytes:
        threads.add(threading.current_thread().name)
        return pushes[type(self)](self, wave)

    pushes = {one: one.push for one in (File, Pcm)}
    for one in pushes:
        monkeypatch.setattr(one, "push", recorded)

    async def run() -> bytes:
        encoding = Encoding(kind, RATE)
        parts = [await encoding.push(chunk) for chunk in tone().split(9600, dim=1)]
        return b"".join([*parts, await encoding.finish()])

    data, beside = asyncio.run(run()), threads != {threading.current_thread().name}
    expected = b"".join(encoded(kind, tone(), size=9600))
    assert beside == (kind != "pcm")
    assert len(data) == len(expected) and (kind == "opus" or data == expected)  # Ogg has a random serial number
