"""Files to waveforms and back, resampling, mel filters: the only place that knows soundfile and torchaudio."""

from __future__ import annotations

import functools
import importlib
import io
import math
import os
import sys
import traceback
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from codec.audio.headers import check_whole
from codec.common.files import write_bytes
from codec.errors import SoundloomError

Source = str | os.PathLike[str] | io.BytesIO  # a file's name, "-" for standard input, or a file's bytes

AUDIO_SUFFIXES = (".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
SAMPLE_RATES = (1_000, 768_000)  # outside of these a header lies, and a resampling filter would need gigabytes
MAX_VALUES = (
    2**29
)  # samples returned by one read (2 GiB): a header or a bomb of compressed silence must not take the memory
MAX_CHANNELS = 64
LOUDEST = 1e6  # full scale is 1, some tools write 32,768; beyond this it is no audio
_BLOCK = 1 << 16
_UNKNOWN = 1 << 62  # libsndfile's "I do not know how many samples": streamed FLAC says so, legitimately
_FILTER_ZEROS = 6  # zero crossings on each side of torchaudio's windowed sinc
_LARGEST_FACTOR = 1024  # of a reduced resampling ratio; see _ratio


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says: samples per channel, samples a second, channels."""

    num_samples: int
    sample_rate: int
    channels: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_samples / self.sample_rate


def read_audio(
    path: Source,
    sample_rate: int | None = None,
    channels: int | None = 1,
    start: float = 0.0,
    duration: float | None = None,
) -> Tensor:
    """Read a file, or a part of it, as a waveform.

    ``path``: WAV, FLAC, Ogg (Vorbis, Opus), MP3 …; ``-`` is standard input. ``sample_rate``: resample to it
    (None: the file's own). ``channels``: 1 mixes down by the mean; None keeps what there is. ``start``,
    ``duration``: seconds; a part equals the same slice of the whole file at that rate, and ends where the file ends.
    Returns: float32 [C, N]. Raises: SoundloomError that names the file: missing, broken, truncated, empty, not finite.
    """
    name = _name(path)
    if not (math.isfinite(start) and start >= 0) or not (
        duration is None or (math.isfinite(duration) and duration > 0)
    ):
        raise SoundloomError(
            f"{name}: start={start}, duration={duration}: start must be 0 or more seconds, duration more than 0"
        )
    with _open(path) as sound:
        rate = sample_rate or sound.samplerate
        up, down = _ratio(sound.samplerate, rate)
        # The wanted piece in samples of the output, then the samples of the file that touch it. The piece read
        # begins at a multiple of `down`, where the grids of both rates meet: its filter sees what the whole's sees.
        first = round(start * rate)
        count = None if duration is None else max(1, round(duration * rate))
        margin = 0 if up == down else math.ceil((_FILTER_ZEROS + 1) * max(up, down) / up) + 1
        skip_blocks = max(0, first * down // up - margin) // down
        begin = skip_blocks * down
        end = None if count is None else math.ceil((first + count) * down / up) + margin
        samples = _read_samples(sound, name, begin, end, channels)
    wave = resample(torch.from_numpy(samples), sound.samplerate, rate)
    wave = wave[:, first - skip_blocks * up :]
    wave = wave if count is None else wave[:, :count]
    if wave.shape[1] == 0:
        raise SoundloomError(f"{name}: start={start} s lies behind its end; choose an earlier start")
    return wave.contiguous()


def audio_info(path: Source) -> AudioInfo:
    """What the header of a file says, checked against the file's size.

    Where a header tells no length, the samples are counted by decoding. Raises: SoundloomError that names the file.
    """
    with _open(path) as sound:
        frames = sound.frames
        if frames >= _UNKNOWN:
            frames = sum(len(block) for block in _blocks(sound, _name(path), None))
        return AudioInfo(frames, sound.samplerate, sound.channels)


def audio_files(folder: str | os.PathLike[str]) -> list[Path]:
    """All audio files under ``folder``, sorted by path; links are followed, but no folder is entered twice.

    Known by their suffix (`AUDIO_SUFFIXES`); hidden names are left out. Raises: SoundloomError if it is no folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise SoundloomError(f"{root}: is not a folder; give one that holds audio files")
    found: list[Path] = []
    seen = {root.resolve()}
    waiting = [root]
    while waiting:
        for entry in sorted(waiting.pop().iterdir()):
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    if (real := entry.resolve()) not in seen:
                        seen.add(real)
                        waiting.append(entry)
                elif entry.suffix.lower() in AUDIO_SUFFIXES and entry.is_file():
                    found.append(entry)
            except OSError:  # a link that points to itself: there is no file behind it
                continue
    return sorted(found)


def write_audio(path: str | os.PathLike[str], wave: Tensor, sample_rate: int) -> None:
    """Write a waveform: 16-bit WAV, AIFF or FLAC, Ogg Vorbis, Opus or MP3, as the suffix says.

    ``path``: ``-`` writes WAV to standard output. ``wave``: float [C, N] or [N]; what lies beyond ±1 is clipped.
    The file appears whole or not at all.
    Raises: SoundloomError on an unknown suffix, a waveform that is empty or not finite, a place that cannot be written.
    """
    name = _name(path, "standard output")
    # A pipe or a device has no suffix to go by and nothing that could be replaced.
    streamed = str(path) == "-" or (Path(path).exists() and not Path(path).is_file())
    suffix = ".wav" if streamed else Path(path).suffix.lower()
    data = encode_audio(wave, sample_rate, suffix, name=name)
    if str(path) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    elif streamed:
        try:
            Path(path).write_bytes(data)
        except OSError as error:
            raise SoundloomError(f"{path}: cannot write to it ({error.strerror}); name a file") from error
    else:
        write_bytes(path, data)


def encode_audio(
    wave: Tensor, sample_rate: int, suffix: str = ".wav", bitrate: int | None = None, name: str = "audio"
) -> bytes:
    """The bytes of an audio file; `read_audio` takes them as ``io.BytesIO``.

    ``wave``: float [C, N] or [N]. ``suffix``: the kind of file. ``bitrate``: bit/s that Opus aims at (6,000 to 256,000
    a channel); the true bitrate is what the bytes say. ``name``: how errors call it. Raises: SoundloomError.
    """
    wave = wave.detach().to("cpu", torch.float32)
    wave = wave[None] if wave.dim() == 1 else wave
    if wave.dim() != 2 or wave.numel() == 0:
        raise SoundloomError(
            f"{name}: cannot write a waveform of shape {list(wave.shape)}; wanted [channels, samples] or [samples]"
        )
    if not torch.isfinite(wave).all():
        raise SoundloomError(f"{name}: the waveform holds NaN or infinity; nothing was written")
    if suffix not in _FORMATS:
        raise SoundloomError(f"{name}: unknown kind of file; end its name with one of {', '.join(sorted(_FORMATS))}")
    kind, subtype = _FORMATS[suffix]
    level = None
    if bitrate is not None:
        if suffix != ".opus" or not 6_000 <= bitrate <= 256_000:
            raise SoundloomError(f"{name}: bitrate={bitrate}: wanted 6,000 to 256,000 bit/s, and .opus")
        level = 1 - (bitrate - 6_000) / 250_000  # libsndfile's scale from 256 kbit/s (0) to 6 kbit/s (1)
    data = wave.clamp(-1, 1).t().contiguous().numpy()
    encoded = io.BytesIO()
    try:
        soundfile.write(encoded, data, sample_rate, format=kind, subtype=subtype, compression_level=level)
    except (soundfile.SoundFileError, ValueError) as error:
        raise SoundloomError(
            f"{name}: {kind} cannot hold {data.shape[1]} channels at {sample_rate} Hz ({error}); try .wav"
        ) from error
    return encoded.getvalue()


_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".aiff": ("AIFF", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


def resample(wave: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Resample [..., N] to [..., ceil(N · to_rate / from_rate)] with torchaudio's windowed sinc; differentiable.

    Pairs of rates with no large common divisor are resampled by a ratio a few parts in a million off.

    Raises: SoundloomError on a rate outside of `SAMPLE_RATES`.
    """
    up, down = _ratio(from_rate, to_rate)
    if up == down or wave.shape[-1] == 0:
        return wave
    # The filters are made once per pair of rates: `functional.resample` makes them anew at each call.
    filters = _resampler(up, down, wave.dtype if wave.dtype == torch.float64 else torch.float32, wave.device)
    return filters(wave)


def mel_filterbank(num_mels: int, n_fft: int, sample_rate: int, fmin: float = 0.0, fmax: float | None = None) -> Tensor:
    """Triangular mel filters as librosa and DAC have them: Slaney's scale, each filter with unit area.

    Returns: float32 [n_fft // 2 + 1, num_mels]; multiply a magnitude spectrogram [..., n_fft // 2 + 1] by it.
    """
    functional = _torchaudio().functional
    last = n_fft // 2 * sample_rate / n_fft  # frequency of the last bin: below half the rate where n_fft is odd
    with warnings.catch_warnings():
        # Filters narrower than one bin are empty; with many mels in a short window that is known and harmless.
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        return functional.melscale_fbanks(
            n_fft // 2 + 1, fmin, fmax or sample_rate / 2, num_mels, 2 * last, norm="slaney", mel_scale="slaney"
        )


def _ratio(from_rate: int, to_rate: int) -> tuple[int, int]:
    """The resampling ratio as (up, down), reduced.

    A pair without common divisors (44,099 to 24,000) would need gigabytes of filters: its ratio is taken to
    the nearest with factors up to 1,024, which is off by a few parts in a million.
    """
    for rate in (from_rate, to_rate):
        if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
            raise SoundloomError(f"sample rate {rate}: wanted {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} Hz")
    ratio = Fraction(to_rate, from_rate)
    if max(ratio.numerator, ratio.denominator) > _LARGEST_FACTOR:
        low = ratio < 1
        near = (ratio if low else 1 / ratio).limit_denominator(_LARGEST_FACTOR)
        ratio = near if low else 1 / near
    return ratio.numerator, ratio.denominator


@functools.lru_cache(maxsize=16)
def _resampler(up: int, down: int, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    return _torchaudio().transforms.Resample(down, up, lowpass_filter_width=_FILTER_ZEROS, dtype=dtype).to(device)


@functools.cache
def _torchaudio() -> types.ModuleType:
    """torchaudio, with or without its compiled extension.

    torchaudio from PyPI is linked against CUDA's libraries: beside a CPU-only torch its import ends in an OSError,
    although all that is wanted here is written in Python. torchaudio knows a state in which its extension is
    not built; after that one error it is imported in that state. Every other error is the caller's to see.
    """
    try:
        return importlib.import_module("torchaudio")
    except OSError as error:
        if not any(
            str(frame.f_globals.get("__name__")).startswith("torchaudio._extension")
            for frame, _ in traceback.walk_tb(error.__traceback__)
        ):
            raise
        if torch.version.cuda is not None:  # not the known case: tell it, though nothing here needs the extension
            warnings.warn(f"torchaudio's extension does not load ({error}); its Python parts are used", stacklevel=2)
    sys.modules["torchaudio._extension"] = _absent_extension()
    try:
        return importlib.import_module("torchaudio")
    except BaseException:
        del sys.modules["torchaudio._extension"]
        raise


def _absent_extension() -> types.ModuleType:
    """A stand-in for ``torchaudio._extension`` as it is where torchaudio was built without it."""

    def fail(function: object) -> object:
        def absent(*args: object, **kwargs: object) -> None:
            raise RuntimeError(f"{function!r} needs torchaudio's compiled extension, which does not load here")

        return absent

    stand_in = types.ModuleType("torchaudio._extension")
    stand_in.__path__ = []
    stand_in._IS_TORCHAUDIO_EXT_AVAILABLE = False  # type: ignore[attr-defined]
    stand_in._IS_ALIGN_AVAILABLE = False  # type: ignore[attr-defined]
    stand_in.fail_if_no_align = fail  # type: ignore[attr-defined]
    return stand_in


class _Sequential(soundfile.SoundFile):
    """A file read from one place onwards.

    soundfile seeks to where it already is after every read of a seekable file; at the end of a FLAC that does not
    tell its length that seek fails.
    """

    def seekable(self) -> bool:
        return False


def _name(path: Source, stream: str = "standard input") -> str:
    if isinstance(path, io.BytesIO):
        return "audio in memory"
    return stream if str(path) == "-" else str(path)


def _bytes_of(path: Source) -> tuple[str | io.BytesIO, int]:
    """What soundfile shall open (a name, or the bytes of a pipe), and its size."""
    limit = 4 * MAX_VALUES
    if isinstance(path, io.BytesIO):
        return path, path.getbuffer().nbytes
    if str(path) == "-":
        data = sys.stdin.buffer.read(limit + 1)
    else:
        place = Path(path)
        if place.is_dir():
            raise SoundloomError(f"{place}: is a folder; give an audio file")
        try:
            if place.is_file():
                return str(place), place.stat().st_size
            with open(place, "rb") as stream:  # a pipe: <(ffmpeg …)
                data = stream.read(limit + 1)
        except OSError as error:
            raise SoundloomError(f"{place}: cannot be read ({error.strerror}); check the path") from error
    if len(data) > limit:
        raise SoundloomError(f"{_name(path)}: more than {limit >> 30} GiB; write it to a file and read that in parts")
    return io.BytesIO(data), len(data)


@contextmanager
def _open(path: Source) -> Iterator[_Sequential]:
    """Open a file whose header is plausible for its size. Raises: SoundloomError."""
    name = _name(path)
    try:
        source, size = _bytes_of(path)
    except ValueError as error:  # a NUL in the name
        raise SoundloomError(f"{name!r}: is not a file name") from error
    if size == 0:
        raise SoundloomError(f"{name}: is empty (0 bytes); replace it or leave it out")
    if name.lower().endswith(".raw"):
        raise SoundloomError(f"{name}: headerless audio tells neither rate nor channels; convert it to .wav")
    check_whole(source, size, name)
    try:
        sound = _Sequential(source)
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        reason = str(error).rpartition(": ")[2].rstrip(".")
        raise SoundloomError(
            f"{name}: not an audio file that can be read ({reason}); convert it to .wav or .flac"
        ) from error
    with sound:
        if sound.frames <= 0:
            raise SoundloomError(f"{name}: holds no samples; replace it or leave it out")
        if not SAMPLE_RATES[0] <= sound.samplerate <= SAMPLE_RATES[1] or not 1 <= sound.channels <= MAX_CHANNELS:
            raise SoundloomError(
                f"{name}: header says {sound.samplerate} Hz, {sound.channels} channels; wanted {SAMPLE_RATES[0]} to "
                f"{SAMPLE_RATES[1]} Hz and 1 to {MAX_CHANNELS} channels; the file is broken, replace it"
            )
        # No format here packs more than 65,535 samples into 8 bytes, so a header that says so lies.
        if _UNKNOWN > sound.frames > size * 8192:
            raise SoundloomError(
                f"{name}: header claims {sound.frames:,} samples in {size:,} bytes; the file is broken, replace it"
            )
        yield sound


def _blocks(sound: _Sequential, name: str, count: int | None) -> Iterator[np.ndarray]:
    """Blocks float32 [n, C] from where the file stands: ``count`` samples, or to the end.

    Memory is taken as samples come, never as a header claims.
    """
    done = 0
    while count is None or done < count:
        wanted = _BLOCK if count is None else min(_BLOCK, count - done)
        try:
            block = sound.read(wanted, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise SoundloomError(f"{name}: breaks off after {done:,} samples ({error}); replace it") from error
        if len(block) and not np.abs(block).max() <= LOUDEST:  # NaN compares as False
            raise SoundloomError(
                f"{name}: holds NaN, infinity or values beyond {LOUDEST:,.0f}; repair it or leave it out"
            )
        done += len(block)
        if len(block):
            yield block
        if len(block) < wanted:
            return


def _read_samples(sound: _Sequential, name: str, begin: int, end: int | None, channels: int | None) -> np.ndarray:
    """Samples ``begin`` to ``end`` (or the file's end) of an open file as float32 [C, n]. Raises: SoundloomError."""
    known = sound.frames < _UNKNOWN
    if known and begin >= sound.frames:
        raise SoundloomError(f"{name}: is {sound.frames / sound.samplerate:.2f} s long; choose an earlier start")
    if channels not in (None, 1, sound.channels) and sound.channels != 1:
        raise SoundloomError(f"{name}: has {sound.channels} channels, wanted {channels}; mix it down first")
    skip = 0 if known else begin  # a stream without a length is decoded up to the place
    if begin and known:
        try:
            sound.seek(begin)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise SoundloomError(f"{name}: cannot be read at sample {begin:,} ({error}); replace it") from error
    last = sound.frames if known else end
    if known and end is not None:
        last = min(end, sound.frames)
    count = None if last is None else last - (begin - skip)
    pieces: list[np.ndarray] = []
    values = 0
    for block in _blocks(sound, name, count):
        kept = block[skip:]
        skip = max(0, skip - len(block))
        kept = kept.mean(axis=1, keepdims=True) if channels == 1 else kept
        values += kept.size
        if values > MAX_VALUES:
            raise SoundloomError(
                f"{name}: longer than {MAX_VALUES:,} samples; read it in parts with start and duration"
            )
        pieces.append(kept)
    got = sum(len(piece) for piece in pieces)
    if known and got < last - begin and not _length_is_guess(sound):
        raise SoundloomError(
            f"{name}: header says {sound.frames:,} samples, but it ends after {begin + got:,}: truncated; replace it"
        )
    if got == 0:
        raise SoundloomError(f"{name}: holds no samples there; replace it, leave it out, or choose an earlier start")
    samples = np.ascontiguousarray(np.concatenate(pieces).T)
    return np.repeat(samples, channels, axis=0) if channels and channels > samples.shape[0] else samples


def _length_is_guess(sound: _Sequential) -> bool:
    """MP3 without an index: its length is estimated from the first frames' bitrate."""
    return sound.format in ("MP3", "MPEG")
