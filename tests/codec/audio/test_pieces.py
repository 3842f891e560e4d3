"""Long sounds piece by piece: the samples and the files of the whole, and the same errors."""

from __future__ import annotations

import io
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.audio.files import encode_audio, read_audio, write_audio
from codec.audio.pieces import open_writer, read_pieces, resampled_pieces
from codec.audio.signal import resample
from codec.errors import SoundloomError


def noise(samples: int, channels: int = 1) -> torch.Tensor:
    return 0.3 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)


RATES = [(24_000, 24_000), (48_000, 24_000), (16_000, 24_000), (44_100, 24_000), (8_000, 24_000)]


@settings(deadline=None, max_examples=30)
@given(
    rates=st.sampled_from(RATES),
    samples=st.integers(1, 30_000),
    size=st.sampled_from([480, 4_800, 24_000]),
    block=st.sampled_from([100, 1 << 16]),
)
def test_pieces_joined_are_the_whole(rates: tuple[int, int], samples: int, size: int, block: int) -> None:
    wave = noise(samples)
    pieces = list(resampled_pieces(wave.split(block, 1), *rates, size))
    whole = resample(wave, *rates)
    assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-5 and sum(piece.shape[1] for piece in pieces) == len(
        whole[0]
    )
    assert all(piece.shape[1] == size for piece in pieces[:-1]) and 0 < pieces[-1].shape[1] <= size


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("seconds", [30, 60.01, 91])
def test_pieces_of_half_a_minute_are_the_whole_to_the_bit(rates: tuple[int, int], seconds: float) -> None:
    wave = noise(round(seconds * rates[0]))
    pieces = list(resampled_pieces(wave.split(1 << 16, 1), *rates, 30 * rates[1]))
    assert torch.equal(torch.cat(pieces, 1), resample(wave, *rates))


@pytest.mark.parametrize("channels, wanted", [(1, 1), (2, 1), (2, 2), (1, 2), (2, None)])
def test_files_in_pieces_are_the_whole(tmp_path: Path, channels: int, wanted: int | None) -> None:
    write_audio(tmp_path / "x.flac", noise(150_000, channels), 16_000)
    for rate in (16_000, 24_000):
        whole = read_audio(tmp_path / "x.flac", rate, wanted)
        joined = torch.cat(list(read_pieces(tmp_path / "x.flac", rate, wanted, 80_000)), 1)
        assert joined.shape == whole.shape and (joined - whole).abs().max() < (1e-6 if rate == 24_000 else 1e-9)


def test_a_file_that_breaks_off_is_an_error_at_its_end(tmp_path: Path) -> None:
    data = encode_audio(noise(200_000), 24_000, ".flac")
    pieces = read_pieces(io.BytesIO(data[: len(data) * 3 // 4]), 24_000, 1, 24_000)
    with pytest.raises(SoundloomError, match=r"truncated|breaks off"):
        list(pieces)


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".flac"])
def test_a_file_written_in_pieces_has_the_bytes_of_the_whole(tmp_path: Path, suffix: str) -> None:
    wave = noise(100_000, 2) * 2  # some of it beyond full scale
    with open_writer(tmp_path / "new" / f"x{suffix}", 24_000) as write:
        for piece in wave.split(7_777, 1):
            write(piece)
        assert not (tmp_path / "new" / f"x{suffix}").exists()
    assert (tmp_path / "new" / f"x{suffix}").read_bytes() == encode_audio(wave, 24_000, suffix)
    assert len(os.listdir(tmp_path / "new")) == 1


@pytest.mark.parametrize("suffix", [".ogg", ".opus", ".mp3"])
def test_lossy_files_written_in_pieces_sound_as_the_whole(tmp_path: Path, suffix: str) -> None:
    wave = noise(30_000)
    with open_writer(tmp_path / f"x{suffix}", 24_000) as write:
        for piece in wave.split(7_777, 1):
            write(piece)
    # From a file: libsndfile now and then refuses an MP3 in memory, for reasons of its own.
    (tmp_path / f"whole{suffix}").write_bytes(encode_audio(wave, 24_000, suffix))
    whole = read_audio(tmp_path / f"whole{suffix}")
    again = read_audio(tmp_path / f"x{suffix}")
    assert again.shape == whole.shape
    if suffix != ".ogg":  # Vorbis places its blocks by how much it has seen
        assert (again - whole).abs().max() < 1e-5


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SoundloomError, match="NaN"), open_writer(tmp_path / "x.wav", 24_000) as write:
        write(noise(100))
        write(torch.full((1, 5), np.nan))
    with pytest.raises(SoundloomError, match="unknown kind"), open_writer(tmp_path / "x.txt", 24_000) as write:
        write(noise(100))
    with pytest.raises(RuntimeError), open_writer(tmp_path / "x.wav", 24_000) as write:
        write(noise(100))
        raise RuntimeError
    with open_writer(tmp_path / "x.wav", 24_000):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_full_disk_is_one_error(tmp_path: Path, suffix: str) -> None:
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with (
            pytest.raises(SoundloomError, match="cannot write it"),
            open_writer(tmp_path / f"x{suffix}", 9000) as write,
        ):
            for piece in noise(200_000).split(7_777, 1):
                write(piece)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []
