"""Files to waveforms and back."""

from __future__ import annotations

import io
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from codec.audio.opened import MAX_CHANNELS, UNKNOWN, Source, is_special, name_of, open_sound, read_blocks, read_samples
from codec.audio.signal import resample, resampling_ratio
from codec.common.files import write_bytes
from codec.errors import SoundloomError, quoted

AUDIO_SUFFIXES = (".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
FILTER_SAMPLES = 7  # of the slower rate, which resampling reads on each side of a sample


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header states: samples per channel, samples a second, channels."""

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
    Returns float32 [C, N].

    Raises:
        SoundloomError: it names the file, which is missing, broken, truncated, empty or not finite.
    """
    name = name_of(path)
    if not (math.isfinite(start) and start >= 0) or not (
        duration is None or (math.isfinite(duration) and duration > 0)
    ):
        raise SoundloomError(
            f"{name}: start={start}, duration={duration}: start must be 0 or more seconds, duration more than 0"
        )
    if channels is not None and not 1 <= channels <= MAX_CHANNELS:
        raise SoundloomError(f"{name}: channels={quoted(channels)}: expected 1 to {MAX_CHANNELS}, or None for all")
    with open_sound(path) as sound:
        rate = sound.samplerate if sample_rate is None else sample_rate
        up, down = resampling_ratio(sound.samplerate, rate)
        # The wanted piece in samples of the output, then the samples of the file that touch it. The piece read
        # begins at a multiple of `down`, where the grids of both rates meet: its filter sees what the whole's sees.
        first = round(start * rate)
        count = None if duration is None else max(1, round(duration * rate))
        margin = 0 if up == down else math.ceil(FILTER_SAMPLES * max(up, down) / up) + 1
        skip_blocks = max(0, first * down // up - margin) // down
        begin = skip_blocks * down
        end = None if count is None else math.ceil((first + count) * down / up) + margin
        samples = read_samples(sound, name, begin, end, channels)
    wave = resample(torch.from_numpy(samples), sound.samplerate, rate)
    wave = wave[:, first - skip_blocks * up :]
    wave = wave if count is None else wave[:, :count]
    if wave.shape[1] == 0:
        raise SoundloomError(f"{name}: start={start} s lies behind its end; choose an earlier start")
    return wave.contiguous()


def audio_info(path: Source) -> AudioInfo:
    """Return what the header of a file states, checked against the file's size.

    Where a header states no length, the samples are counted by decoding.

    Raises:
        SoundloomError: it names the file.
    """
    with open_sound(path) as sound:
        frames = sound.frames
        if frames >= UNKNOWN:
            frames = sum(len(block) for block in read_blocks(sound, name_of(path), None))
        return AudioInfo(frames, sound.samplerate, sound.channels)


def audio_files(folder: str | os.PathLike[str]) -> list[Path]:
    """List all audio files under ``folder``, sorted by path; links are followed, but no folder is entered twice.

    Known by their suffix (`AUDIO_SUFFIXES`); hidden names are left out.

    Raises:
        SoundloomError: it is no folder.
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

    Raises:
        SoundloomError: an unknown suffix, a waveform that is empty or not finite, or a place that cannot be written.
    """
    name = name_of(path, "standard output")
    # A pipe or a device has no suffix to go by and nothing that could be replaced.
    streamed = str(path) == "-" or is_special(Path(path))
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
    """Return the bytes of an audio file; `read_audio` takes them as ``io.BytesIO``.

    ``wave``: float [C, N] or [N]. ``suffix``: the kind of file. ``bitrate``: bit/s that Opus aims at (6,000 to 256,000
    a channel); the true bitrate is what the bytes say. ``name``: how errors call it.

    Raises:
        SoundloomError: the waveform, the suffix or the bitrate cannot be used.
    """
    wave = wave.detach().to("cpu", torch.float32)
    wave = wave[None] if wave.dim() == 1 else wave
    if wave.dim() != 2 or wave.numel() == 0:
        raise SoundloomError(
            f"{name}: cannot write a waveform of shape {list(wave.shape)}; wanted [channels, samples] or [samples]"
        )
    if not torch.isfinite(wave).all():
        raise SoundloomError(f"{name}: the waveform holds NaN or infinity; nothing was written")
    if suffix not in WRITABLE:
        raise SoundloomError(f"{name}: unknown kind of file; end its name with one of {', '.join(sorted(WRITABLE))}")
    kind, subtype = WRITABLE[suffix]
    level = None
    if bitrate is not None:
        if suffix != ".opus" or not 6_000 <= bitrate <= 256_000:
            raise SoundloomError(f"{name}: bitrate={bitrate}: expected 6,000 to 256,000 bit/s, and .opus")
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


WRITABLE = {
    ".wav": ("WAV", "PCM_16"),
    ".aiff": ("AIFF", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
