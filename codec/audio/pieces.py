"""Long sounds piece by piece: read, resampled and written with the memory of a piece, to the same samples as whole."""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import IO, Any

import soundfile
import torch
from torch import Tensor

from codec.audio.files import FILTER_SAMPLES, WRITABLE
from codec.audio.opened import Source, is_special, mixed_blocks, name_of, open_sound
from codec.audio.signal import resample, resampling_ratio
from codec.common.files import atomic_path
from codec.errors import SoundloomError


def read_pieces(path: Source, sample_rate: int, channels: int | None, samples: int) -> Iterator[Tensor]:
    """Yield a file as waveforms float32 [C, samples], the last one shorter; joined they are `read_audio`'s.

    Raises:
        SoundloomError: as `read_audio`; that the file was truncated is known at its end.
    """
    with open_sound(path) as sound:
        blocks = (torch.from_numpy(block.T) for block in mixed_blocks(sound, name_of(path), channels=channels))
        yield from resampled_pieces(blocks, sound.samplerate, sample_rate, samples)


def resampled_pieces(blocks: Iterable[Tensor], from_rate: int, to_rate: int, samples: int) -> Iterator[Tensor]:
    """Resample a sound that comes in blocks [C, n] of any length; yield [C, samples], the last piece shorter.

    With pieces of seconds the samples are those of the whole, to the bit.
    """
    up, down = resampling_ratio(from_rate, to_rate)
    margin = 0 if up == down else math.ceil(FILTER_SAMPLES * max(up, down) / up) + 1
    source, is_open = iter(blocks), True
    held: list[Tensor] = []
    position = first = 0  # of what is held, at the old rate, and of the next piece, at the new one
    while True:
        # As in `read_audio`: a piece begins where the grids of both rates meet; its filters see what the whole's do.
        skip_blocks = max(0, first * down // up - margin) // down
        end = math.ceil((first + samples) * down / up) + margin
        while is_open and position + sum(block.shape[1] for block in held) < end:
            block = next(source, None)
            is_open = block is not None
            held += [block] if block is not None else []
        if not held:
            return
        joined = torch.cat(held, 1)
        if not is_open and up != down:
            # Torch has another kernel for short waves, with other last bits: a short rest gets longer.
            long_enough = position + joined.shape[1] - samples * down // up
            skip_blocks = max(position // down, min(skip_blocks, long_enough // down))
        begin = skip_blocks * down
        piece = resample(joined[:, begin - position : end - position], from_rate, to_rate)
        piece = piece[:, first - skip_blocks * up :][:, :samples]
        if piece.shape[1]:
            yield piece.contiguous()
        if piece.shape[1] < samples:
            return
        held, position = [joined[:, begin - position :]], begin
        first += samples


@contextmanager
def open_writer(path: str | PathLike[str], sample_rate: int) -> Iterator[Callable[[Tensor], None]]:
    """Give a function that appends waveforms [C, n] to a file; see `write_audio`, which writes a whole one.

    The file appears when the block ends without an error, and its folder with the first wave. Standard output and
    pipes get everything at the end.

    Raises:
        SoundloomError: as `write_audio`.
    """
    streamed = str(path) == "-" or is_special(Path(path))
    append: Callable[[Tensor], None] | None = None
    with ExitStack() as stack:

        def write(wave: Tensor) -> None:
            nonlocal append
            if append is None:
                target = _to_stream(path) if streamed else _to_file(Path(path))
                file, suffix = stack.enter_context(target), ".wav" if streamed else Path(path).suffix.lower()
                name = name_of(path, "standard output")
                append = stack.enter_context(_encoder(file, name, suffix, sample_rate, len(wave)))
            append(wave)

        yield write


@contextmanager
def _to_file(path: Path) -> Iterator[IO[bytes]]:
    with atomic_path(path) as temporary, open(temporary, "w+b") as file:
        yield file


@contextmanager
def _to_stream(path: str | PathLike[str]) -> Iterator[IO[bytes]]:
    """Collect in a temporary file: a header states the length, so nothing can be sent before the end is known."""
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        if str(path) == "-":
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        try:
            with open(path, "wb") as target:
                shutil.copyfileobj(file, target)
        except OSError as error:
            raise SoundloomError(f"{path}: cannot write to it ({error.strerror}); name a file") from error


@contextmanager
def _encoder(
    file: IO[bytes], name: str, suffix: str, sample_rate: int, channels: int
) -> Iterator[Callable[[Tensor], None]]:
    if suffix not in WRITABLE:
        raise SoundloomError(f"{name}: unknown kind of file; end its name with one of {', '.join(sorted(WRITABLE))}")
    kind, subtype = WRITABLE[suffix]
    target = _Target(file)

    def write(wave: Tensor) -> None:
        wave = wave.detach().to("cpu", torch.float32)
        if not torch.isfinite(wave).all():
            raise SoundloomError(f"{name}: the waveform holds NaN or infinity; nothing was written")
        sound.write(wave.clamp(-1, 1).t().contiguous().numpy())
        target.check()

    try:
        sound = soundfile.SoundFile(target, "w", sample_rate, channels, subtype, format=kind)
    except (soundfile.SoundFileError, ValueError) as error:
        raise SoundloomError(
            f"{name}: {kind} cannot hold {channels} channels at {sample_rate} Hz ({error}); try .wav"
        ) from error
    try:
        yield write
        sound.close()
        target.check()
        file.flush()
    except (soundfile.SoundFileError, AssertionError):  # what libsndfile makes of a write that the system refused
        target.check()
        raise
    finally:
        with suppress(soundfile.SoundFileError):
            sound.close()


class _Target:
    """A file for libsndfile to write to, which keeps the system's error: the library cannot pass it on."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._error: OSError | None = None
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def write(self, data: Any) -> int:
        """Return the number of bytes written, 0 after an error."""
        try:
            return 0 if self._error else self._file.write(data)
        except OSError as error:
            self._error = error
            return 0

    def check(self) -> None:
        """Raise the system's error, if there was one."""
        if self._error:
            raise self._error
