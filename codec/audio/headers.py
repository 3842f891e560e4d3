"""What a file promises against what it holds: libsndfile reads cut WAV, AIFF, Ogg and MP3 short without a word."""

from __future__ import annotations

import io
from typing import BinaryIO

from codec.errors import SoundloomError

# Programs that write WAV into a pipe cannot come back to fill in the length; they leave one of these, or 0.
_STREAM_LENGTHS = range(0x7FFF0000, 0x100000000)
_OGG_PAGE = 27 + 255 + 255 * 255  # the longest page: header, table of segments, segments


def check_whole(source: str | io.BytesIO, size: int, name: str) -> None:
    """Refuse a file that ends before it says it does.

    ``source``: a file's name or its bytes; ``size``: bytes in it. WAV and AIFF tell the length of their samples,
    Ogg marks its last page, MP3 may count its bytes in a Xing header. FLAC fails while decoding; other formats pass.
    Raises: SoundloomError that names the file.
    """
    if isinstance(source, io.BytesIO):
        source.seek(0)
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
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        _check_wav(stream, size, name)
    elif head[:4] == b"FORM" and 8 + int.from_bytes(head[4:8], "big") > size:
        raise SoundloomError(
            f"{name}: truncated AIFF: {size:,} of {8 + int.from_bytes(head[4:8], 'big'):,} bytes; replace it"
        )
    elif head[:4] == b"OggS":
        _check_ogg(stream, size, name)
    elif head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0):
        _check_mp3(stream, head, size, name)


def _check_wav(stream: BinaryIO, size: int, name: str) -> None:
    place = 12
    for _ in range(1000):  # chunks before the samples; thousands of them are no WAV
        stream.seek(place)
        chunk = stream.read(8)
        if len(chunk) < 8:
            raise SoundloomError(f"{name}: WAV without samples: it ends inside of its header; replace it")
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


def _check_ogg(stream: BinaryIO, size: int, name: str) -> None:
    stream.seek(max(0, size - 2 * _OGG_PAGE))
    tail = stream.read(2 * _OGG_PAGE)
    page = tail.rfind(b"OggS")
    table = tail[page + 27 : page + 27 + tail[page + 26]] if page >= 0 and page + 27 <= len(tail) else b""
    whole = table and len(table) == tail[page + 26] and page + 27 + len(table) + sum(table) <= len(tail)
    if not whole or not tail[page + 5] & 4:
        raise SoundloomError(
            f"{name}: truncated Ogg: its last page is cut or not marked as the last; replace or re-encode it"
        )


def _check_mp3(stream: BinaryIO, head: bytes, size: int, name: str) -> None:
    start = 0
    if head[:3] == b"ID3" and len(head) >= 10:  # tags first; their length is written in 7 bits a byte
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    stream.seek(start)
    frame = stream.read(192)
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if place < 0 or len(frame) < place + 16 or not frame[place + 7] & 2:
        return
    counted = place + 8 + (4 if frame[place + 7] & 1 else 0)
    promised = start + int.from_bytes(frame[counted : counted + 4], "big")
    if promised > size + 2048:  # encoders disagree on whether the tag's own frame counts
        raise SoundloomError(f"{name}: truncated MP3: {size:,} of {promised:,} bytes; replace it")
