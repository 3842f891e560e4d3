"""What a WAV header promises against what the file holds: libsndfile reads a truncated WAV short without a word."""

from __future__ import annotations

import io
from typing import BinaryIO

from codec.errors import SoundloomError

# Programs that write WAV into a pipe cannot come back to fill in the length; they leave one of these, or 0.
_STREAM_LENGTHS = range(0x7FFF0000, 0x100000000)


def check_riff(source: str | io.BytesIO, size: int, name: str) -> None:
    """Refuse a WAV whose data chunk promises more bytes than the file has.

    ``source``: a file's name or its bytes; ``size``: bytes in it. Other formats, RF64 and WAV from a pipe
    (placeholder lengths) pass. Raises: SoundloomError that names the file.
    """
    if isinstance(source, io.BytesIO):
        _check(source, size, name)
        source.seek(0)
        return
    try:
        with open(source, "rb") as stream:
            _check(stream, size, name)
    except OSError as error:
        raise SoundloomError(
            f"{name}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error


def _check(stream: BinaryIO, size: int, name: str) -> None:
    head = stream.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return
    place = 12
    for _ in range(1000):  # chunks before the samples; thousands of them are no WAV
        stream.seek(place)
        chunk = stream.read(8)
        if len(chunk) < 8:
            raise SoundloomError(f"{name}: WAV without samples: ends inside of its header; replace it")
        length = int.from_bytes(chunk[4:], "little")
        place += 8
        if chunk[:4] == b"data":
            if place + length > size and length not in _STREAM_LENGTHS:
                raise SoundloomError(
                    f"{name}: truncated WAV: its header promises {length:,} bytes of samples, "
                    f"the file holds {size - place:,}; replace it"
                )
            return
        place += length + length % 2
    raise SoundloomError(f"{name}: WAV header with more than 1,000 chunks; replace it")
