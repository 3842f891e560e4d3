"""Open sound files, and read their samples block by block, with every header and sample checked."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import soundfile

from codec.audio.headers import check_whole
from codec.audio.signal import SAMPLE_RATES
from codec.errors import SoundloomError

Source = str | os.PathLike[str] | io.BytesIO  # a file's name, "-" for standard input, or a file's bytes

#: samples returned by one read (2 GiB): a header or a bomb of compressed silence must not take the memory
MAX_VALUES = 2**29
MAX_CHANNELS = 64
LOUDEST = 1e6  # full scale is 1, some tools write 32,768; beyond this it is no audio
UNKNOWN = 1 << 62  # libsndfile's "I do not know how many samples": streamed FLAC says so, legitimately
_BLOCK = 1 << 16


class SoundFile(soundfile.SoundFile):
    """A file read from one place onwards.

    soundfile seeks to where it already is after every read of a seekable file; at the end of a FLAC that does not
    state its length that seek fails.
    """

    def seekable(self) -> bool:
        return False


class _Bytes:
    """Bytes for libsndfile, which seeks before their start where a damaged header says so; it notices by itself."""

    def __init__(self, data: io.BytesIO) -> None:
        self._data = data
        self.read, self.readinto, self.tell = data.read, data.readinto, data.tell

    def seek(self, place: int, whence: int = 0) -> int:
        """Return the new position; it stays where it is if the wanted one is before the start."""
        with suppress(ValueError):
            self._data.seek(place, whence)
        return self._data.tell()


def name_of(path: Source, stream: str = "standard input") -> str:
    if isinstance(path, io.BytesIO):
        return "audio in memory"
    return stream if str(path) == "-" else str(path)


def is_special(path: Path) -> bool:
    """Return whether this is a pipe or a device; a name that no file can have is left to whoever opens it."""
    try:
        return path.exists() and not path.is_file()
    except (OSError, ValueError):
        return False


def _bytes_of(path: Source) -> tuple[bytes | io.BytesIO, int]:
    """Return what soundfile shall open (a name, or the bytes of a pipe), and its size."""
    limit = 4 * MAX_VALUES
    if isinstance(path, io.BytesIO):
        return path, path.getbuffer().nbytes
    if str(path) == "-":
        data = sys.stdin.buffer.read(limit + 1)
    else:
        place = Path(path)
        try:
            if place.is_dir():
                raise SoundloomError(f"{place}: is a folder; give an audio file")
            if place.is_file():
                return os.fsencode(place), place.stat().st_size  # as bytes: a name need not be UTF-8
            with open(place, "rb") as stream:  # a pipe: <(ffmpeg …)
                data = stream.read(limit + 1)
        except OSError as error:
            raise SoundloomError(f"{place}: cannot be read ({error.strerror}); check the path") from error
    if len(data) > limit:
        raise SoundloomError(f"{name_of(path)}: more than {limit >> 30} GiB; write it to a file and read that in parts")
    return io.BytesIO(data), len(data)


@contextmanager
def open_sound(path: Source) -> Iterator[SoundFile]:
    """Open a file whose header is plausible for its size.

    Raises:
        SoundloomError: it names the file.
    """
    name = name_of(path)
    try:
        source, size = _bytes_of(path)
    except ValueError as error:  # a NUL in the name
        raise SoundloomError(f"{name!r}: is not a file name") from error
    if size == 0:
        raise SoundloomError(f"{name}: is empty (0 bytes); replace it or leave it out")
    if name.lower().endswith(".raw"):
        raise SoundloomError(f"{name}: headerless audio states neither rate nor channels; convert it to .wav")
    check_whole(source, size, name)
    try:
        sound = SoundFile(_Bytes(source) if isinstance(source, io.BytesIO) else source)
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
        if UNKNOWN > sound.frames > size * 8192:
            raise SoundloomError(
                f"{name}: header claims {sound.frames:,} samples in {size:,} bytes; the file is broken, replace it"
            )
        yield sound


def read_blocks(sound: SoundFile, name: str, count: int | None) -> Iterator[np.ndarray]:
    """Yield blocks float32 [n, C] from the file's position: ``count`` samples, or to the end.

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


def read_samples(sound: SoundFile, name: str, begin: int, end: int | None, channels: int | None) -> np.ndarray:
    """Read samples ``begin`` to ``end`` (or the file's end) of an open file as float32 [C, n].

    Raises:
        SoundloomError: it names the file.
    """
    pieces = list(mixed_blocks(sound, name, begin, end, channels))
    return np.ascontiguousarray(np.concatenate(pieces).T)


def mixed_blocks(
    sound: SoundFile, name: str, begin: int = 0, end: int | None = None, channels: int | None = None
) -> Iterator[np.ndarray]:
    """Yield what `read_samples` joins, block by block: float32 [n, C], with the wanted number of channels.

    Raises:
        SoundloomError: it names the file; that it was truncated is known at its end.
    """
    known = sound.frames < UNKNOWN
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
    got = values = 0
    for block in read_blocks(sound, name, count):
        kept = block[skip:]
        skip = max(0, skip - len(block))
        kept = kept.mean(axis=1, keepdims=True) if channels == 1 else kept
        values += kept.size
        if values > MAX_VALUES:
            raise SoundloomError(
                f"{name}: longer than {MAX_VALUES:,} samples; read it in parts with start and duration"
            )
        got += len(kept)
        yield np.repeat(kept, channels, axis=1) if channels and channels > kept.shape[1] else kept
    if known and last is not None and got < last - begin and not _length_is_guess(sound):
        raise SoundloomError(
            f"{name}: header says {sound.frames:,} samples, but it ends after {begin + got:,}: truncated; replace it"
        )
    if got == 0:
        raise SoundloomError(f"{name}: holds no samples there; replace it, leave it out, or choose an earlier start")


def _length_is_guess(sound: SoundFile) -> bool:
    """Return whether a length may be an estimate from the first frames' bitrate: MP3 without an index."""
    return sound.format in ("MP3", "MPEG")
