"""Files that end before they say they do, or go on after it, are refused whatever their format."""

import contextlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.audio import audio_info, encode_audio, read_audio, write_audio
from codec.audio.headers import check_whole
from codec.errors import SoundloomError

RATE = 24_000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32)
FORMATS = {
    "WAV": "PCM_16",
    "RF64": "PCM_16",
    "W64": "PCM_16",
    "AU": "PCM_16",
    "AIFF": "PCM_16",
    "NIST": "PCM_16",
    "VOC": "PCM_16",
    "CAF": "PCM_16",
    "FLAC": "PCM_16",
    "MP3": "MPEG_LAYER_III",
    "OGG": "VORBIS",
}


def made(kind: str, wave: np.ndarray = NOISE, endian: str | None = None) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, wave, RATE, format=kind, subtype=FORMATS[kind], endian=endian)
    return out.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_whole_files_are_read_and_cut_ones_refused(tmp_path: Path, kind: str) -> None:
    data = made(kind)
    assert abs(read_audio(io.BytesIO(data)).shape[1] - RATE) < 3000
    path = tmp_path / "cut.sound"
    for end in (len(data) // 2, len(data) - 300 if kind != "MP3" else 3000):  # MP3: its length is known to 2 kB
        path.write_bytes(data[:end])
        with pytest.raises(SoundloomError, match=r"cut\.sound: (truncated|.*breaks off|.*truncated|not an audio)"):
            read_audio(path)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["AVR", "MPC2K", "NIST", "WVE", "MAT4", "MAT5"])
def test_rare_formats_are_held_to_their_lengths(kind: str, channels: int) -> None:
    count = 0
    for subtype in soundfile.available_subtypes(kind):
        out = io.BytesIO()
        with contextlib.suppress(soundfile.LibsndfileError):
            soundfile.write(out, NOISE[:8000].reshape(-1, channels), RATE, format=kind, subtype=subtype)
            data = out.getvalue()
            assert read_audio(io.BytesIO(data)).shape[1] == 8000 // channels
            for end in (len(data) // 2, len(data) * 3 // 4, len(data) - 20):
                with pytest.raises(SoundloomError, match=r"truncated|not an audio"):
                    read_audio(io.BytesIO(data[:end]))
            count += 1
    assert count or (kind, channels) == ("WVE", 2)


@pytest.mark.parametrize("kind", ["W64", "CAF"])
def test_lengths_past_what_can_be_sought(tmp_path: Path, kind: str) -> None:
    data = bytearray(made(kind))
    begin, order = (56, "little") if kind == "W64" else (12, "big")
    data[begin : begin + 8] = (2**63 - 1).to_bytes(8, order)  # the first chunk of the header
    path = tmp_path / "far.sound"
    path.write_bytes(data)
    for source in (path, io.BytesIO(bytes(data))):
        with pytest.raises(SoundloomError, match=f"{kind} without samples"):
            check_whole(str(path) if source is path else source, len(data), "far")


@pytest.mark.parametrize("kind", ["WAV", "AU"])
def test_the_other_byte_order(kind: str) -> None:
    data = made(kind, endian="BIG" if kind == "WAV" else "LITTLE")
    assert read_audio(io.BytesIO(data)).shape == (1, RATE)
    with pytest.raises(SoundloomError, match="truncated"):
        read_audio(io.BytesIO(data[:-1000]))


def test_lengths_that_were_never_filled_in_are_no_damage() -> None:
    au = bytearray(made("AU"))
    au[8:12] = b"\xff\xff\xff\xff"
    assert read_audio(io.BytesIO(bytes(au))).shape == (1, RATE)


@pytest.mark.parametrize("suffix", [".ogg", ".opus"])
def test_ogg_streams_one_after_another_are_refused(tmp_path: Path, suffix: str) -> None:
    one, other = (encode_audio(torch.from_numpy(NOISE[n:]), RATE, suffix) for n in (0, 5000))
    assert audio_info(io.BytesIO(one + b"trailing tag")).num_samples > 20_000
    for data in (one + other, one + one):
        with pytest.raises(SoundloomError, match=r"several Ogg streams.*\.flac"):
            read_audio(io.BytesIO(data))


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_damaged_ogg_page_is_noticed(place: float) -> None:
    data = bytearray(encode_audio(torch.from_numpy(np.tile(NOISE, 3)), RATE, ".opus", bitrate=64_000))
    begin = round(place * len(data))
    data[begin : begin + 200] = bytes(200)
    with pytest.raises(SoundloomError, match="a page is cut or damaged"):
        read_audio(io.BytesIO(bytes(data)))


def flac_stating(samples: int, kind: str = "FLAC") -> bytes:
    data = bytearray(made(kind))
    data[21] = (data[21] & 0xF0) | (samples >> 32)
    data[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def test_a_flac_that_holds_more_than_its_header_says() -> None:
    assert read_audio(io.BytesIO(flac_stating(RATE))).shape == (1, RATE)
    for samples in (RATE // 2, 1, RATE - 5000):
        with pytest.raises(SoundloomError, match=f"header says {samples:,} samples, but it holds more"):
            read_audio(io.BytesIO(flac_stating(samples)))


def test_senseless_channels_and_rates(tmp_path: Path) -> None:
    write_audio(tmp_path / "x.wav", torch.from_numpy(NOISE), RATE)
    for channels in (0, -1, 65, 10**9):
        with pytest.raises(SoundloomError, match=r"x\.wav: channels="):
            read_audio(tmp_path / "x.wav", channels=channels)
    for rate in (0, -1, 10**12, 24000.5):
        with pytest.raises(SoundloomError, match="sample rate"):
            read_audio(tmp_path / "x.wav", rate)  # type: ignore[arg-type]


def test_odd_file_names(tmp_path: Path) -> None:
    data = encode_audio(torch.from_numpy(NOISE), RATE)
    for name in (b"line\nbreak.wav", b"not utf-8 \xff.wav"):
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        path.write_bytes(data)
        assert read_audio(path).shape == (1, RATE)
        path.write_bytes(data[:-100])
        with pytest.raises(SoundloomError, match="truncated WAV") as caught:
            read_audio(path)
        assert str(caught.value).isprintable()
        path.unlink()
        write_audio(path, torch.from_numpy(NOISE), RATE)
        assert path.read_bytes() == data
    for action in (
        read_audio,
        lambda path: write_audio(path, torch.from_numpy(NOISE), RATE),
        audio_info,
    ):
        with pytest.raises(SoundloomError, match=r"[Ff]ile name too long"):
            action(tmp_path / ("a" * 300 + ".wav"))


SHORT = {kind: made(kind, NOISE[:600]) for kind in FORMATS}


@settings(deadline=5000, max_examples=300)
@given(
    kind=st.sampled_from(sorted(FORMATS)),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    cut=st.none() | st.integers(0, 600),
)
def test_mutated_headers_are_read_or_refused(kind: str, edits: list[tuple[int, int]], cut: int | None) -> None:
    data = bytearray(SHORT[kind])
    for place, value in edits:
        data[place % len(data)] = value
    whole = bytes(data[:cut])
    with contextlib.suppress(SoundloomError):
        check_whole(io.BytesIO(whole), len(whole), "x")


@pytest.mark.filterwarnings("error")  # what a callback raises becomes a warning here, and a traceback elsewhere
def test_a_damaged_aiff_in_memory_is_one_error() -> None:
    data = made("AIFF").replace(b"SSND", b"SSN?")
    with pytest.raises(SoundloomError, match="audio in memory"):
        read_audio(io.BytesIO(data))
