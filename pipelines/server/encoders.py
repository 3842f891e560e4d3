"""Chunks of sound in, bytes of a file out, as the chunks come. All of it is soundfile's; there is no ffmpeg.

MP3 at a constant bit rate and Ogg Opus are written front to back, so they stream. A FLAC's head needs the whole. A WAV
that streams has the largest sizes in its head, which readers take as "until the end".
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import anyio.to_thread
import numpy as np
import soundfile
from torch import Tensor

from codec.errors import SoundloomError

MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


_THREADS = anyio.CapacityLimiter(2)  # chunks that are encoded at once, of all clients


class Encoder(Protocol):
    """Bytes as they come; ``streams``: whether they do before the end; ``slow``: whether a chunk takes milliseconds."""

    streams: bool
    slow: bool

    def push(self, wave: Tensor) -> bytes: ...

    def finish(self) -> bytes: ...


def new_encoder(kind: str, sample_rate: int, channels: int = 1) -> Encoder:
    """Return an encoder for a ``response_format``. Raises: SoundloomError for one that cannot be made."""
    if kind == "pcm":
        return Pcm()
    if kind == "wav":
        return Wav(sample_rate, channels)
    if kind == "flac":
        return File(_Sink(), sample_rate, channels, {"format": "FLAC", "subtype": "PCM_16"}, streams=False)
    if kind == "mp3":
        options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.5}
        return File(_Sink(), sample_rate, channels, options)
    if kind == "opus":
        if sample_rate not in _OPUS_RATES:
            raise SoundloomError(f"opus at {sample_rate} Hz is not possible; ask for wav or mp3")
        return File(_Sink(), sample_rate, channels, {"format": "OGG", "subtype": "OPUS"})
    raise SoundloomError(f"unknown response_format {kind[:20]!r}; expected one of {', '.join(MEDIA_TYPES)}")


def pcm16(wave: Tensor) -> np.ndarray:
    """Return wave float [C, n] as little-endian int16 [n, C]."""
    return (wave.clamp(-1, 1) * 32767).round().t().contiguous().cpu().numpy().astype("<i2")


class Encoding:
    """An encoder for the event loop: a slow one works in a thread, so that the other clients do not wait for it.

    Await each call before the next: an encoder takes its chunks in order.
    """

    def __init__(self, kind: str, sample_rate: int, channels: int = 1) -> None:
        self.encoder = new_encoder(kind, sample_rate, channels)

    async def push(self, wave: Tensor) -> bytes:
        """Encode a chunk."""
        if not self.encoder.slow:
            return self.encoder.push(wave)
        return await anyio.to_thread.run_sync(self.encoder.push, wave, limiter=_THREADS)

    async def finish(self) -> bytes:
        """Return what is left."""
        if not self.encoder.slow:
            return self.encoder.finish()
        return await anyio.to_thread.run_sync(self.encoder.finish, limiter=_THREADS)


class Pcm:
    """Raw samples: 16 bits, little-endian, channels interleaved."""

    streams = True
    slow = False

    def push(self, wave: Tensor) -> bytes:
        """Encode a chunk."""
        return pcm16(wave).tobytes()

    def finish(self) -> bytes:
        """Return what is left: nothing."""
        return b""


class Wav(Pcm):
    """A head that states no length, then raw samples."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        unknown = 0xFFFFFFFF
        form = struct.pack("<HHIIHH", 1, channels, sample_rate, 2 * channels * sample_rate, 2 * channels, 16)
        self.head = b"RIFF" + struct.pack("<I", unknown) + b"WAVEfmt " + struct.pack("<I", 16) + form
        self.head += b"data" + struct.pack("<I", unknown)

    def push(self, wave: Tensor) -> bytes:
        """Encode a chunk, the head before the first."""
        head, self.head = self.head, b""
        return head + super().push(wave)

    def finish(self) -> bytes:
        """Return the head where nothing came."""
        head, self.head = self.head, b""
        return head


@dataclass
class File:
    """What libsndfile writes, taken as it is written where ``streams``, else at the end."""

    sink: _Sink
    sample_rate: int
    channels: int
    options: dict[str, Any]
    streams: bool = True
    slow: bool = True

    def __post_init__(self) -> None:
        self.file = soundfile.SoundFile(
            self.sink, mode="w", samplerate=self.sample_rate, channels=self.channels, **self.options
        )

    def push(self, wave: Tensor) -> bytes:
        """Encode a chunk; the bytes that are final, if any."""
        # As 16-bit samples, like the other formats, so that all hold the same sound. libsndfile's MP3 wants floats.
        self.file.write(pcm16(wave).astype(np.float32) / 32768)
        return self.sink.taken() if self.streams else b""

    def finish(self) -> bytes:
        """Close the file; the rest of its bytes."""
        self.file.close()
        return self.sink.taken()


class _Sink(io.RawIOBase):
    """A file in memory whose written front can be taken."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()
        self.place = 0
        self.sent = 0  # bytes that were taken; `data` begins after them

    def write(self, data: Any) -> int:
        """Write at the place; what was taken already cannot be changed any more."""
        new = bytes(data)
        begin = self.place - self.sent
        if begin < 0:  # a head that is rewritten at the end: readers of a stream have passed it
            new, begin = new[-begin:], 0
        self.data[begin : begin + len(new)] = new
        self.place += len(bytes(data))
        return len(bytes(data))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the place."""
        self.place = (0, self.place, self.sent + len(self.data))[whence] + offset
        return self.place

    def tell(self) -> int:
        """Return the place."""
        return self.place

    def read(self, size: int = -1) -> bytes:
        """Return nothing: the sink is for writing. libsndfile asks for the method."""
        return b""

    def taken(self) -> bytes:
        """Return the bytes since the last call."""
        data, self.data = bytes(self.data), bytearray()
        self.sent += len(data)
        return data
