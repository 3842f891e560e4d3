"""A recording or a file of codes, sent through a codec piece by piece and described in one line."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.audio.files import read_audio
from codec.audio.opened import is_special, name_of
from codec.audio.pieces import read_pieces
from codec.errors import SoundloomError
from codec.loom import READ_SUFFIXES, CodeFile, load_codes, mark_of, pack
from codec.loudness import LoudnessMeter
from codec.metrics import MelDistance
from codec.pretrained import AudioCodec

_PCM_BITS = 16


@dataclass(frozen=True)
class Reconstruction:
    """The codes of a recording, and the mel distance of what they decode to (None where the input was codes)."""

    codes: CodeFile
    distance: float | None


def reconstruct(
    codec: AudioCodec,
    source: str | Path,
    levels: int | None = None,
    write: Callable[[Tensor], None] | None = None,
    show: Callable[[Tensor], None] | None = None,
    normalize: bool = True,
) -> Reconstruction:
    """Read ``source``, audio or a file of codes, and send it through ``codec``.

    A codec that works in pieces takes the memory of a piece, and computes what it does on the whole, to the bit. Where
    a decoder looks ahead, the codes have one frame more than the recording, of the silence after it: without that frame
    the decoder's last windows are missing, and a sound that does not end in silence fades.

    ``levels``: use the first n levels (None: all that there are). ``write`` takes the decoded wave, piece by piece
    [C, n] on the CPU, and ``show`` the recording. ``normalize``: read the recording twice, and raise a quiet one by the
    gain of its `LoudnessMeter` before it is encoded; the decoded wave has the recording's level either way.
    Raises: `SoundloomError` for input that does not fit.
    """
    if levels is not None and not 1 <= levels <= codec.num_levels:
        raise SoundloomError(f"--levels {levels}: this codec has levels 1 to {codec.num_levels}")
    output = _Output(codec, write, show)
    if Path(source).suffix.lower() in READ_SUFFIXES:
        file = load_codes(source)
        file.check_codec(codec, str(source))
        if levels is not None and levels > file.codes.shape[0]:
            raise SoundloomError(f"--levels {levels}: {source} holds {file.codes.shape[0]} levels")
        codes, gain, output.num_samples = file.codes[:levels], file.gain, file.num_samples
        _decode(codec, codes[None].split(codec.piece_frames() or codes.shape[1], -1), gain, output)
    else:
        output.distance = MelDistance(codec.sample_rate)
        coded: list[Tensor] = []
        with _pieces(codec, source, normalize) as read:
            gain = _gain(codec, read) if normalize else 1.0
            pieces = _kept(
                _by_pieces(codec, codec.encode, codec.encode_chunk, _input(codec, read, gain, output)), coded
            )
            _decode(codec, (piece[:, :levels] for piece in pieces), gain, output)
        codes = torch.cat(coded, -1)[0, :levels]
    mark = mark_of(codec.fingerprint)
    file = CodeFile(codes, codec.codebook_size, codec.sample_rate, codec.hop_length, output.written, mark, gain)
    return Reconstruction(file, output.distance.value() if output.distance is not None else None)


def describe(result: Reconstruction, codec: AudioCodec) -> str:
    """Return one line: seconds, levels, bitrate of the codes and of a packed file, tokens, size, gain, mel distance."""
    seconds = result.codes.num_samples / codec.sample_rate
    levels = result.codes.codes.shape[0]
    bitrate = codec.bitrate(levels)
    pcm = codec.sample_rate * codec.channels * _PCM_BITS
    parts = [
        f"{seconds:.2f} s",
        f"{levels} of {codec.num_levels} levels",
        f"{bitrate / 1000:.2f} kbit/s (packed file {8 * len(pack(result.codes)) / seconds / 1000:.2f})",
        f"{levels * codec.frame_rate:,.4g} tokens/s",
        f"{pcm / bitrate:.0f} times smaller than {_PCM_BITS}-bit PCM",
    ]
    if result.codes.gain != 1:
        parts.append(f"quiet, so encoded {20 * math.log10(result.codes.gain):.1f} dB louder")
    if result.distance is not None:
        parts.append(f"mel distance {result.distance:.3f}")
    return ", ".join(parts)


class _Output:
    """The decoded wave: cut to the recording's length, compared with it, and handed on."""

    def __init__(
        self, codec: AudioCodec, write: Callable[[Tensor], None] | None, show: Callable[[Tensor], None] | None
    ) -> None:
        self.distance: MelDistance | None = None
        self.num_samples = self.written = 0  # of the recording as far as it was read, and of what was decoded
        self._write, self._show = write, show
        self._waiting = torch.zeros(codec.channels, 0)  # the part of the recording that is not decoded yet

    def take(self, wave: Tensor) -> None:
        """Take the next samples of the recording [C, n]."""
        self.num_samples += wave.shape[1]
        if self._show is not None:
            self._show(wave)
        self._waiting = torch.cat([self._waiting, wave], 1)

    def add(self, wave: Tensor) -> None:
        """Take the next decoded samples [C, n]."""
        wave = wave[:, : self.num_samples - self.written]
        count = wave.shape[1]
        self.written += count
        if count and self.distance is not None:
            self.distance.add(self._waiting[:, :count], wave)
            self._waiting = self._waiting[:, count:]
        if count and self._write is not None:
            self._write(wave)


def _decode(codec: AudioCodec, pieces: Iterable[Tensor], gain: float, output: _Output) -> None:
    for wave in _by_pieces(codec, codec.decode, codec.decode_chunk, pieces):
        output.add(wave[0].cpu() / gain)


@contextmanager
def _pieces(codec: AudioCodec, source: str | Path, twice: bool) -> Iterator[Callable[[], Iterator[Tensor]]]:
    """Give a function that reads a recording in the pieces [C, n] that the codec works in, ``twice`` if wanted."""
    size = codec.piece_frames() * codec.hop_length
    if not size:
        whole = read_audio(source, codec.sample_rate, codec.channels)
        yield lambda: iter([whole])
    elif twice and (str(source) == "-" or is_special(Path(source))):
        with tempfile.TemporaryFile() as file:  # a pipe gives its bytes once
            yield _kept_on_disk(read_pieces(source, codec.sample_rate, codec.channels, size), file, name_of(source))
    else:
        yield lambda: read_pieces(source, codec.sample_rate, codec.channels, size)


def _kept_on_disk(pieces: Iterable[Tensor], file: IO[bytes], name: str) -> Callable[[], Iterator[Tensor]]:
    """Write the samples of all pieces to a file; return a function that yields them."""
    shapes = []
    try:
        for piece in pieces:
            file.write(piece.numpy().tobytes())
            shapes.append(piece.shape)
        file.flush()
    except OSError as error:
        raise SoundloomError(
            f"{name}: its samples do not fit into {tempfile.gettempdir()} ({error.strerror}); give a file"
        ) from error

    def read() -> Iterator[Tensor]:
        file.seek(0)
        for shape in shapes:
            yield torch.frombuffer(bytearray(file.read(4 * shape.numel())), dtype=torch.float32).view(shape)

    return read


def _gain(codec: AudioCodec, read: Callable[[], Iterator[Tensor]]) -> float:
    meter = LoudnessMeter(codec.sample_rate)
    for piece in read():
        meter.add(piece)
    return meter.gain()


def _input(codec: AudioCodec, read: Callable[[], Iterator[Tensor]], gain: float, output: _Output) -> Iterator[Tensor]:
    """Yield the encoder's input in pieces [1, C, n], with a frame of silence at its end if the codec looks ahead."""
    size = codec.piece_frames() * codec.hop_length
    held: Tensor | None = None
    for piece in read():
        output.take(piece)
        if held is not None:
            yield held[None]
        held = piece * gain
    assert held is not None  # an empty file is an error
    held = F.pad(held, (0, codec.hop_length if codec.lookahead else 0))
    yield from held[None].split(size or held.shape[1], -1)


def _by_pieces(
    codec: AudioCodec, whole: Callable[[Tensor], Tensor], chunk: Callable[..., Tensor], pieces: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Apply ``whole`` to what comes in one piece, and ``chunk`` to the pieces of a stream."""
    source = iter(pieces)
    piece, following = next(source), next(source, None)
    if following is None:
        yield whole(piece)
        return
    state = codec.init_state()
    while True:
        yield chunk(piece, state, last=following is None)
        if following is None:
            return
        piece, following = following, next(source, None)


def _kept(pieces: Iterable[Tensor], kept: list[Tensor]) -> Iterator[Tensor]:
    for piece in pieces:
        kept.append(piece.cpu())
        yield piece
