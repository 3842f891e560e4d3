"""Lengths in the headers of rare formats that libsndfile reads: AVR, MPC2K, WVE, NIST, MATLAB 4 and 5.

IRCAM, PAF and PVF state no length, and libsndfile writes 0 into XI's: a cut one of these is a valid shorter file.
"""

from __future__ import annotations

import re
from typing import BinaryIO

_NIST_COUNTS = (b"sample_count", b"channel_count", b"sample_n_bytes")
_MAT4_WIDTHS = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}
_MOST_PARTS = 1000


def promised_bytes(stream: BinaryIO, head: bytes, size: int) -> tuple[str, int] | None:
    """Return a rare format's name and the bytes that its header promises; None for other files.

    ``head``: the file's first 16 bytes.
    """
    for magic, name, measure in _FORMATS:
        if head.startswith(magic):
            stream.seek(0)
            promised = measure(stream, size)
            return None if promised is None else (name, promised)
    return None


def _avr(stream: BinaryIO, size: int) -> int:
    head = stream.read(128).ljust(128, b"\0")
    channels = 2 if head[12:14] != b"\0\0" else 1
    return 128 + int.from_bytes(head[26:30], "big") * channels * (head[15] // 8)


def _mpc(stream: BinaryIO, size: int) -> int:
    head = stream.read(42).ljust(42, b"\0")
    return 42 + int.from_bytes(head[30:34], "little") * (2 if head[21] else 1) * 2


def _wve(stream: BinaryIO, size: int) -> int:
    return 32 + int.from_bytes(stream.read(32)[18:22], "big")


def _nist(stream: BinaryIO, size: int) -> int | None:
    head = stream.read(1024)
    start = re.match(rb"NIST_1A\s+(\d{1,9})\s", head)
    counts = [re.search(rb"\n\s*" + key + rb" -(?:i|s\d) (\d{1,12})\s", head) for key in _NIST_COUNTS]
    if not start or not all(counts):
        return None
    samples, channels, width = (int(found[1]) for found in counts if found)
    return int(start[1]) + samples * channels * width


def _mat4(stream: BinaryIO, size: int) -> int | None:
    """Walk the matrices: type, rows, columns, complex, length of the name; the type's tens state the number's width."""
    place = 0
    for _ in range(_MOST_PARTS):
        stream.seek(place)
        numbers = [int.from_bytes(stream.read(4), "little") for _ in range(5)]
        width = _MAT4_WIDTHS.get(numbers[0] // 10)
        if numbers[0] > 59 or numbers[4] > 64 or width is None:
            return None
        place += 20 + numbers[4] + numbers[1] * numbers[2] * width
        if place >= size:
            return place
    return None


def _mat5(stream: BinaryIO, size: int) -> int | None:
    """Walk the elements: a type, a length, and the data."""
    stream.seek(126)
    order = {b"IM": "little", b"MI": "big"}.get(stream.read(2))
    place = 128
    for _ in range(_MOST_PARTS if order else 0):
        stream.seek(place + 4)
        place += 8 + int.from_bytes(stream.read(4), order)  # type: ignore[arg-type]
        if place >= size:
            return place - 8  # libsndfile itself writes lengths that are 8 too large
    return None


_FORMATS = (
    (b"2BIT", "AVR", _avr),
    (b"\x01\x04", "MPC2K", _mpc),
    (b"ALawSoundFile**", "WVE", _wve),
    (b"NIST_1A", "NIST", _nist),
    (b"\0\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0", "MATLAB 4", _mat4),
    (b"MATLAB 5.0", "MATLAB 5", _mat5),
)
