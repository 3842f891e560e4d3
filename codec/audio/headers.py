"""What a file promises against what it holds: libsndfile reads most cut files short without reporting it.

Formats whose headers state a length are held to it; Ogg marks its last page. A cut FLAC fails while it is decoded.
Formats that state no length pass, among them IRCAM (see `codec.audio.rare_headers`).
"""

from __future__ import annotations

import functools
import io
import os
from typing import BinaryIO

from codec.audio.flac_header import check_flac
from codec.audio.ogg_pages import check_ogg
from codec.audio.rare_headers import promised_bytes
from codec.errors import SoundloomError

# Programs that write WAV into a pipe cannot come back to fill in the length; they leave one of these, or 0.
_STREAM_LENGTHS = range(0x7FFF0000, 0x100000000)
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_MOST_CHUNKS = 1000  # before the samples


def check_whole(source: str | bytes | io.BytesIO, size: int, name: str) -> None:
    """Refuse a file that ends before it says it does.

    ``source``: a file's name or its bytes; ``size``: bytes in it.

    Raises:
        SoundloomError: it names the file.
    """
    if isinstance(source, io.BytesIO):
        source.seek(0)
        _check(source, size, name)
        source.seek(0)
        return
    try:
        _check_file(source, size, os.stat(source).st_mtime_ns, name)
    except OSError as error:
        raise SoundloomError(
            f"{name}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error


@functools.lru_cache(maxsize=4096)  # a training reads the same files again and again, and Ogg is read whole here
def _check_file(source: str | bytes, size: int, changed: int, name: str) -> None:
    with open(source, "rb") as stream:
        _check(stream, size, name)


def _check(stream: BinaryIO, size: int, name: str) -> None:
    head = stream.read(16)
    if head[8:12] == b"WAVE" and head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        _check_wav(stream, head[:4], size, name)
    elif head == _W64_RIFF:
        _check_w64(stream, size, name)
    elif head[:4] == b"FORM":
        _promise("AIFF", 8 + int.from_bytes(head[4:8], "big"), size, name)
    elif head[:4] == b"caff":
        _check_caf(stream, size, name)
    elif head[:4] in (b".snd", b"dns."):
        _check_au(head, size, name)
    elif head == b"Creative Voice F":
        _check_voc(stream, size, name)
    elif head[:4] == b"OggS":
        check_ogg(stream, name)
    elif head[:4] == b"fLaC":
        check_flac(stream, size, name)
    elif head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0):
        _check_mp3(stream, head, size, name)
    elif rare := promised_bytes(stream, head, size):
        _promise(rare[0], rare[1], size, name)


def _promise(kind: str, promised: int, size: int, name: str) -> None:
    if promised > size:
        raise SoundloomError(f"{name}: truncated {kind}: {size:,} of {promised:,} bytes; replace it")


def _check_wav(stream: BinaryIO, kind: bytes, size: int, name: str) -> None:
    order = "big" if kind == b"RIFX" else "little"
    large = -1  # RF64: the length of the samples is in an earlier chunk
    place = 12
    for _ in range(_MOST_CHUNKS):
        stream.seek(place)
        chunk = stream.read(8)
        if len(chunk) < 8:
            raise SoundloomError(f"{name}: WAV without samples: it ends inside of its header; replace it")
        length = int.from_bytes(chunk[4:], order)  # type: ignore[arg-type]
        place += 8
        if chunk[:4] == b"ds64":
            large = int.from_bytes(stream.read(16)[8:], "little")
        if chunk[:4] == b"data":
            known = large if length == 0xFFFFFFFF and large >= 0 else length
            if place + known > size and (known is large or known not in _STREAM_LENGTHS):
                raise SoundloomError(
                    f"{name}: truncated WAV: its header promises {known:,} bytes of samples, "
                    f"the file holds {size - place:,}; replace it"
                )
            return
        place += length + length % 2
    raise SoundloomError(f"{name}: WAV header with more than {_MOST_CHUNKS:,} chunks; replace it")


def _check_w64(stream: BinaryIO, size: int, name: str) -> None:
    """Walk the chunks of a Wave64 file: a GUID, a length that counts both, and padding to 8 bytes."""
    place = 40
    for _ in range(_MOST_CHUNKS):
        stream.seek(min(place, size))  # what the header says may be past what can be sought
        chunk = stream.read(24)
        length = int.from_bytes(chunk[16:], "little")
        if len(chunk) < 24 or length < 24:
            raise SoundloomError(f"{name}: W64 without samples: it ends inside of its header; replace it")
        if chunk[:4] == b"data":
            _promise("W64", place + length, size, name)
            return
        place += -(-length // 8) * 8
    raise SoundloomError(f"{name}: W64 header with more than {_MOST_CHUNKS:,} chunks; replace it")


def _check_caf(stream: BinaryIO, size: int, name: str) -> None:
    """Walk the chunks of a CAF file: four letters and a signed length; data of length -1 go to the end."""
    place = 8
    for _ in range(_MOST_CHUNKS):
        stream.seek(min(place, size))
        chunk = stream.read(12)
        if len(chunk) < 12:
            raise SoundloomError(f"{name}: CAF without samples: it ends inside of its header; replace it")
        length = int.from_bytes(chunk[4:], "big", signed=True)
        if chunk[:4] == b"data":
            _promise("CAF", place + 12 + max(length, 0), size, name)
            return
        place += 12 + max(length, 0)
    raise SoundloomError(f"{name}: CAF header with more than {_MOST_CHUNKS:,} chunks; replace it")


def _check_au(head: bytes, size: int, name: str) -> None:
    order = "big" if head[:1] == b"." else "little"
    start, length = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))  # type: ignore[arg-type]
    if length != 0xFFFFFFFF:  # written into a pipe
        _promise("AU", start + length, size, name)


def _check_voc(stream: BinaryIO, size: int, name: str) -> None:
    """Walk the blocks of a Creative Voice file: a kind, three bytes of length; 0 ends the file."""
    stream.seek(20)
    place = int.from_bytes(stream.read(2), "little")
    for _ in range(1 << 20):
        stream.seek(place)
        block = stream.read(4)
        if block[:1] == b"\0":
            return
        if len(block) < 4:
            break
        place += 4 + int.from_bytes(block[1:], "little")
    # libsndfile leaves out the block that ends a file, so that one that ends where a block ends is whole.
    if place != size:
        _promise("VOC", max(place, size + 1), size, name)


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
    length = int.from_bytes(frame[counted : counted + 4], "big")
    # Encoders disagree on whether the tag's own frame counts.
    if start + length > size + min(2048, length // 4):
        _promise("MP3", start + length, size, name)
