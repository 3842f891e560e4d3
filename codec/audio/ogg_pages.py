"""The pages of an Ogg file: whole, undamaged, and one stream after which nothing follows."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from codec.errors import SoundloomError

_FIRST, _LAST = 2, 4  # flags of a page
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_WINDOW = 1 << 16


class _Page(NamedTuple):
    flags: int
    whole: bool  # all of its bytes are there, and their checksum is right


def check_ogg(stream: BinaryIO, name: str) -> None:
    """Read all pages; libsndfile passes over damaged ones, and stops where a second stream begins.

    Raises:
        SoundloomError: a page is damaged, the last is missing, or several streams follow one another.
    """
    begun, flags = False, 0
    for page in _pages(stream):
        if not page.whole:
            raise SoundloomError(f"{name}: truncated Ogg: a page is cut or damaged; replace or re-encode it")
        if page.flags & _FIRST and begun:
            raise SoundloomError(
                f"{name}: several Ogg streams, one after another; only the first could be read, so convert it to .flac"
            )
        begun = begun or not page.flags & _FIRST
        flags = page.flags
    if not flags & _LAST:
        raise SoundloomError(
            f"{name}: truncated Ogg: its last page is missing or not marked as the last; replace or re-encode it"
        )


def _pages(stream: BinaryIO) -> Iterator[_Page]:
    """Yield the pages in order; bytes after the last are passed over."""
    place = 0
    while (found := _find(stream, place)) >= 0:
        if found > place:  # a page was here once: its first bytes are damaged
            yield _Page(0, False)
        place = found
        stream.seek(place)
        head = stream.read(27)
        table = stream.read(head[26]) if len(head) == 27 else b""
        body = stream.read(sum(table))
        length = 27 + len(table) + len(body)
        if len(head) < 27 or len(table) < head[26] or len(body) < sum(table):
            yield _Page(0, False)
            return
        checked = head[:22] + bytes(4) + head[26:] + table + body
        yield _Page(head[5], _checksum(checked) == int.from_bytes(head[22:26], "little"))
        place += length


def _find(stream: BinaryIO, place: int) -> int:
    """Return where the next page begins, -1 where none does."""
    while True:
        stream.seek(place)
        window = stream.read(_WINDOW)
        found = window.find(b"OggS")
        if found >= 0:
            return place + found
        if len(window) < _WINDOW:
            return -1
        place += _WINDOW - 3


def _checksum(data: bytes) -> int:
    """Return Ogg's CRC-32, which is zlib's with all bits the other way round and nothing inverted."""
    crc = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(crc.to_bytes(4, "little").translate(_REVERSED), "big")
