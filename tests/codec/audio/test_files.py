"""Audio files come back as written, broken ones fail by name, torchaudio works with and without its extension."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.audio import audio_files, audio_info, encode_audio, mel_filterbank, read_audio, resample, write_audio
from codec.audio import files as audio
from codec.errors import SoundloomError

RATE = 24_000


def tone(seconds: float = 0.5, rate: int = RATE, hertz: float = 440.0) -> torch.Tensor:
    """[1, N], half of full scale."""
    return (
        0.5
        * torch.sin(2 * torch.pi * hertz * torch.arange(int(seconds * rate), dtype=torch.float64) / rate)[None].float()
    )


def noise(samples: int, channels: int = 1) -> torch.Tensor:
    return 0.3 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)


# ---- reading and writing


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff"])
def test_lossless_files_come_back(tmp_path: Path, suffix: str) -> None:
    wave = noise(5000, 2)
    write_audio(tmp_path / f"x{suffix}", wave, RATE)
    again = read_audio(tmp_path / f"x{suffix}", channels=None)
    assert again.shape == wave.shape and again.dtype == torch.float32
    assert (again - wave).abs().max() < 1 / 32000
    assert audio_info(tmp_path / f"x{suffix}") == audio.AudioInfo(5000, RATE, 2)
    assert audio_info(tmp_path / f"x{suffix}").duration == 5000 / RATE


@pytest.mark.parametrize("suffix", [".ogg", ".opus", ".mp3"])
def test_lossy_files_come_back_nearly(tmp_path: Path, suffix: str) -> None:
    wave = tone(1.0)
    write_audio(tmp_path / f"x{suffix}", wave, RATE)
    again = read_audio(tmp_path / f"x{suffix}", RATE)
    assert abs(again.shape[1] - wave.shape[1]) < 3000
    n = min(again.shape[1], wave.shape[1])
    assert (again[:, 4000 : n - 4000] - wave[:, 4000 : n - 4000]).square().mean() < 0.01 * wave.square().mean()


def test_channels(tmp_path: Path) -> None:
    stereo = torch.stack([torch.full((100,), 0.5), torch.full((100,), -0.25)])
    write_audio(tmp_path / "stereo.wav", stereo, RATE)
    write_audio(tmp_path / "mono.wav", stereo[0], RATE)
    assert read_audio(tmp_path / "stereo.wav").mean() == pytest.approx(0.125, abs=1e-4)
    assert read_audio(tmp_path / "stereo.wav", channels=2).shape == (2, 100)
    assert read_audio(tmp_path / "mono.wav", channels=2).shape == (2, 100)
    with pytest.raises(SoundloomError, match=r"stereo\.wav.*2 channels"):
        read_audio(tmp_path / "stereo.wav", channels=3)


@settings(deadline=None, max_examples=40)
@given(
    rates=st.sampled_from([(24_000, 24_000), (48_000, 24_000), (16_000, 24_000), (44_100, 16_000), (44_099, 24_000)]),
    start=st.floats(0, 0.4),
    duration=st.none() | st.floats(0.001, 0.5),
    length_known=st.booleans(),
)
def test_a_part_equals_the_slice_of_the_whole(
    rates: tuple[int, int], start: float, duration: float | None, length_known: bool
) -> None:
    from_rate, to_rate = rates
    data = bytearray(encode_audio(noise(from_rate // 2), from_rate, ".flac"))
    if not length_known:  # as ffmpeg writes FLAC into a pipe
        data[21] &= 0xF0
        data[22:26] = bytes(4)
    whole = read_audio(io.BytesIO(bytes(data)), to_rate)
    part = read_audio(io.BytesIO(bytes(data)), to_rate, start=start, duration=duration)
    first = round(start * to_rate)
    last = whole.shape[1] if duration is None else min(whole.shape[1], first + max(1, round(duration * to_rate)))
    assert part.shape[1] == last - first
    assert (part - whole[:, first:last]).abs().max() < 1e-5


def test_start_behind_the_end_and_senseless_parts(tmp_path: Path) -> None:
    write_audio(tmp_path / "x.wav", tone(), RATE)
    with pytest.raises(SoundloomError, match=r"x\.wav.*earlier start"):
        read_audio(tmp_path / "x.wav", start=9)
    for start, duration in ((-1, None), (float("nan"), None), (0, 0), (0, float("inf"))):
        with pytest.raises(SoundloomError, match="start"):
            read_audio(tmp_path / "x.wav", start=start, duration=duration)


def test_pipes(tmp_path: Path) -> None:
    """`-` is standard input and standard output; a named pipe works too."""
    code = "from codec.audio import *; write_audio('-', read_audio('-', 16_000), 16_000)"
    done = subprocess.run(
        [sys.executable, "-c", code], input=encode_audio(tone(), RATE, ".flac"), capture_output=True, check=True
    )
    assert read_audio(io.BytesIO(done.stdout)).shape == (1, 8000)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "x.wav").write_bytes(encode_audio(tone(), RATE))
        with subprocess.Popen(["sh", "-c", f"cat '{tmp_path}/x.wav' > '{tmp_path}/pipe'"]):
            assert read_audio(tmp_path / "pipe").shape == (1, 12_000)


def test_writing_is_atomic_and_refuses_nonsense(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "x.wav"
    write_audio(target, tone(), RATE)
    before = target.read_bytes()
    for bad, message in (
        (torch.tensor([0.0, float("nan")]), "NaN"),
        (torch.zeros(0), "shape"),
        (torch.zeros(1, 2, 3), "shape"),
    ):
        with pytest.raises(SoundloomError, match=message):
            write_audio(target, bad, RATE)
    with pytest.raises(SoundloomError, match=r"x\.xyz.*\.wav"):
        write_audio(target.with_suffix(".xyz"), tone(), RATE)
    with pytest.raises(SoundloomError, match=r"Opus|OGG|hold"):
        write_audio(target.with_suffix(".opus"), tone(), 22_050)
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["x.wav"]
    assert target.stat().st_mode & 0o077 == 0o666 & ~_umask() & 0o077


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SoundloomError, match="cannot write"):
        write_audio(tmp_path / "file" / "x.wav", tone(), RATE)


def test_loud_waves_are_clipped() -> None:
    again = read_audio(io.BytesIO(encode_audio(4 * tone(), RATE)))
    assert again.max() == pytest.approx(1, abs=1e-3) and again.min() == pytest.approx(-1, abs=1e-3)


def test_opus_bitrate_is_a_dial() -> None:
    wave = noise(RATE * 2)
    sizes = [len(encode_audio(wave, RATE, ".opus", bitrate=rate)) for rate in (6_000, 12_000, 32_000, 64_000)]
    assert sizes == sorted(sizes) and sizes[-1] > 4 * sizes[0]
    with pytest.raises(SoundloomError, match="bitrate"):
        encode_audio(wave, RATE, ".wav", bitrate=12_000)


# ---- folders


def test_audio_files_survives_link_loops(tmp_path: Path) -> None:
    for name in ("b.wav", "a/c.FLAC", "a/readme.txt", ".hidden.wav"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "self.wav").symlink_to(tmp_path / "self.wav")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nothing.wav")
    assert [str(path.relative_to(tmp_path)) for path in audio_files(tmp_path)] == ["a/c.FLAC", "b.wav"]
    with pytest.raises(SoundloomError, match="not a folder"):
        audio_files(tmp_path / "b.wav")


# ---- broken files


def flac_claiming(samples: int) -> bytes:
    data = bytearray(encode_audio(tone(), RATE, ".flac"))
    data[21] = (data[21] & 0xF0) | (samples >> 32)
    data[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def float_wav(*values: float) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.asarray(values, dtype=np.float32), RATE, format="WAV", subtype="FLOAT")
    return out.getvalue()


def with_rate(rate: int) -> bytes:
    data = bytearray(encode_audio(tone(), RATE))
    data[24:28] = struct.pack("<I", rate)
    return bytes(data)


BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"hello world, this is no audio" * 10, "not an audio file"),
    "truncated wav": (encode_audio(tone(), RATE)[:-1000], "truncated WAV.*replace"),
    "wav header only": (encode_audio(tone(), RATE)[:30], "inside of its header"),
    "wav without samples": (float_wav(), "no samples"),
    "truncated flac": (encode_audio(noise(RATE), RATE, ".flac")[:-1000], "breaks off|truncated"),
    "truncated ogg": (encode_audio(tone(), RATE, ".ogg")[:-100], "truncated Ogg"),
    "truncated opus": (encode_audio(tone(2), RATE, ".opus")[:3000], "truncated Ogg"),
    "truncated mp3": (encode_audio(noise(RATE), RATE, ".mp3")[:4000], "truncated MP3"),
    "truncated aiff": (encode_audio(tone(), RATE, ".aiff")[:2000], "truncated AIFF"),
    "flac with too many samples": (flac_claiming(2**36 - 1), "header claims"),
    "flac with some too many": (flac_claiming(13_000), "truncated|breaks off"),
    "nan": (float_wav(0.0, float("nan"), 0.0), "NaN"),
    "infinity": (float_wav(0.0, float("-inf")), "infinity"),
    "absurd values": (float_wav(0.0, 1e30), "beyond"),
    "rate 1": (with_rate(1), "1 Hz"),
    "rate 2^31": (with_rate(2**31 - 1), "Hz|not an audio"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    data, message = BROKEN[case]
    path = tmp_path / "broken.audio"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(SoundloomError, match=f"(?s)broken.audio.*({message})"):
        read_audio(path, 16_000)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path, "a\0b.wav"):
        with pytest.raises(SoundloomError):
            read_audio(path)
        with pytest.raises(SoundloomError):
            audio_info(path)


def test_flac_and_wav_that_tell_no_length_are_read() -> None:
    assert read_audio(io.BytesIO(flac_claiming(0))).shape == (1, 12_000)
    assert audio_info(io.BytesIO(flac_claiming(0))).num_samples == 12_000
    wav = bytearray(encode_audio(tone(), RATE))
    wav[40:44] = b"\xff\xff\xff\xff"
    assert read_audio(io.BytesIO(bytes(wav))).shape == (1, 12_000)


SEEDS = [encode_audio(noise(600), RATE, suffix) for suffix in (".wav", ".flac", ".ogg", ".aiff")] + [flac_claiming(0)]


@settings(deadline=5000, max_examples=300)
@given(
    data=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    cut=st.none() | st.integers(0, 600),
)
def test_mutated_files_parse_or_raise_our_error(data: bytes, edits: list[tuple[int, int]], cut: int | None) -> None:
    changed = bytearray(data)
    for place, value in edits:
        changed[place % len(changed)] = value
    try:
        wave = read_audio(io.BytesIO(bytes(changed[:cut])), 16_000)
    except SoundloomError:
        return
    assert torch.isfinite(wave).all() and 0 < wave.numel() < 1 << 24


# ---- resampling and mel filters


@settings(deadline=None, max_examples=30)
@given(
    rates=st.tuples(
        st.sampled_from([8_000, 16_000, 22_050, 24_000, 44_100, 48_000]), st.sampled_from([16_000, 24_000])
    ),
    n=st.integers(1, 3000),
)
def test_resampled_length(rates: tuple[int, int], n: int) -> None:
    from_rate, to_rate = rates
    assert resample(torch.zeros(2, n), from_rate, to_rate).shape == (2, -(-n * to_rate // from_rate))


@pytest.mark.parametrize("rates", [(24_000, 16_000), (16_000, 24_000), (44_100, 24_000), (44_099, 24_000)])
def test_resampled_tone_is_the_tone(rates: tuple[int, int]) -> None:
    from_rate, to_rate = rates
    got, wanted = resample(tone(1, from_rate), *rates), tone(1, to_rate)
    n = min(got.shape[1], wanted.shape[1])
    assert (got[:, 500 : n - 500] - wanted[:, 500 : n - 500]).abs().max() < 5e-3


def test_resample_is_differentiable_and_refuses_absurd_rates() -> None:
    wave = torch.randn(100, requires_grad=True)
    resample(wave, 24_000, 16_000).sum().backward()
    assert wave.grad is not None and wave.grad.abs().sum() > 0
    for rates in ((0, 16_000), (16_000, -1), (16_000, 10**9)):
        with pytest.raises(SoundloomError, match="sample rate"):
            resample(torch.zeros(10), *rates)


def test_mel_filterbank_shape_area_and_centres() -> None:
    filters = mel_filterbank(80, 2048, RATE)
    assert filters.shape == (1025, 80) and filters.dtype == torch.float32 and (filters >= 0).all()
    area = filters.sum(0) * RATE / 2048  # Slaney's normalisation: every triangle has area 1 over frequency
    assert (area[10:] - 1).abs().max() < 0.1
    assert (filters.argmax(0).diff() >= 0).all()
    assert mel_filterbank(40, 512, RATE, fmin=100, fmax=4000)[180:].sum() == 0


@pytest.mark.parametrize(("mels", "n_fft", "rate"), [(80, 512, 24_000), (120, 321, 16_000), (40, 400, 44_100)])
def test_mel_filterbank_equals_a_written_out_one(mels: int, n_fft: int, rate: int) -> None:
    def hertz(mel: float) -> float:
        return 200 * mel / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + 27 * np.log(rate / 2 / 1000) / np.log(6.4)
    edges = [hertz(i * top / (mels + 1)) for i in range(mels + 2)]
    wanted = np.zeros((n_fft // 2 + 1, mels))
    for k in range(n_fft // 2 + 1):
        for m, (left, middle, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
            at = k * rate / n_fft
            height = min((at - left) / (middle - left), (right - at) / (right - middle))
            wanted[k, m] = max(0.0, height) * 2 / (right - left)
    assert abs(mel_filterbank(mels, n_fft, rate).numpy() - wanted).max() < 1e-3 * wanted.max()


# ---- torchaudio, with and without its extension


def python(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter; packages in ``tmp_path`` hide the installed ones."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(audio.__file__).parents[2])])}
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", textwrap.dedent(code)],
        check=False, capture_output=True, text=True, env=environment,
    )  # fmt: skip


CHECK = """
from codec.audio import resample, mel_filterbank
assert "torchaudio" not in sys.modules, "importing codec.audio must not cost torchaudio"
assert resample(torch.zeros(2, 24000), 24000, 16000).shape == (2, 16000)
assert mel_filterbank(80, 512, 24000).shape == (257, 80)
import torchaudio
print(torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE)
"""


def test_torchaudio_as_it_is_installed_here(tmp_path: Path) -> None:
    done = python(f"import sys, torch\n{CHECK}", tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "message", ["libc10_cuda.so: cannot open", "Could not load this library: /torchaudio/lib/x.so"]
)
def test_torchaudio_whose_extension_does_not_load(tmp_path: Path, message: str) -> None:
    done = python(
        f"""
import sys, torch
torch.version.cuda = None
def fail(path): raise OSError({message!r})
torch.ops.load_library = fail
{CHECK}
try: torchaudio.functional.forced_align(None, None)
except RuntimeError as error: assert "extension" in str(error)
""",
        tmp_path,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_torchaudio_whose_extension_fails_beside_cuda_warns(tmp_path: Path) -> None:
    done = python(
        """
import sys, torch, warnings
warnings.simplefilter("always")
torch.version.cuda = "13.0"
def fail(path): raise OSError("undefined symbol")
torch.ops.load_library = fail
from codec.audio import resample
resample(torch.zeros(2, 24000), 24000, 16000)
""",
        tmp_path,
    )
    assert done.returncode == 0 and "undefined symbol" in done.stderr


def test_torchaudio_whose_extension_loads(tmp_path: Path) -> None:
    done = python(
        f"""
import sys, torch, types
torch.ops.load_library = lambda path: None
torch.ops._torchaudio = types.SimpleNamespace(cuda_version=lambda: None, is_align_available=lambda: True)
torch.ops.torchaudio = types.SimpleNamespace(_lfilter_core_loop=None, _overdrive_core_loop=None)
{CHECK}
""",
        tmp_path,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


@pytest.mark.parametrize("error", ["OSError('disk error')", "ImportError('broken')", "RuntimeError('CUDA versions')"])
def test_other_errors_of_torchaudio_are_not_hidden(tmp_path: Path, error: str) -> None:
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text(f"raise {error}\n")
    done = python("import torch; from codec.audio import resample; resample(torch.zeros(9), 24000, 16000)", tmp_path)
    assert done.returncode == 1 and error.split("'")[1] in done.stderr.splitlines()[-1]
