"""A FLAC whose header states fewer samples than its frames hold: libsndfile would stop at the header's number."""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

from codec.errors import SoundloomError

_TAIL = 1 << 17  # the last frame is in here: 4,608 samples of 8 channels in 24 bits, stored as they are
_MOST_CHECKED = 8


class _Stream(NamedTuple):
    block: int  # samples of a frame where all have the same number
    samples: int  # 0: not known


def check_flac(stream: BinaryIO, size: int, name: str) -> None:
    """Compare the header's number of samples with where the last frame begins.

    Raises:
        SoundloomError: the file holds more samples than its header states.
    """
    stream.seek(8)
    info = stream.read(34)
    if len(info) < 34:
        return
    facts = _Stream(int.from_bytes(info[2:4], "big"), int.from_bytes(info[13:18], "big") & 0xFFFFFFFFF)
    if not facts.samples:
        return
    stream.seek(max(42, size - _TAIL))
    tail = stream.read(_TAIL)
    place, checked = len(tail), 0
    while checked < _MOST_CHECKED and (place := tail.rfind(b"\xff", 0, place)) >= 0:
        first = _first_sample(tail[place : place + 16], facts)
        # The checksum of the whole frame makes sure that this is a frame and no chance; it costs too much for all.
        if first < facts.samples:
            continue
        checked += 1
        if _crc16(tail[place:]) == 0:
            raise SoundloomError(
                f"{name}: header says {facts.samples:,} samples, but it holds more than {first:,}; "
                "the file is broken, replace it"
            )


def _first_sample(head: bytes, facts: _Stream) -> int:
    """Return the number of the first sample of the frame with this header; -1 where it is no frame's header."""
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return -1
    number, length = _utf8(head[4:])
    end = 4 + length + {6: 1, 7: 2}.get(head[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if not length or len(head) <= end or _crc8(head[:end]) != head[end]:
        return -1
    return number if head[1] & 1 else number * facts.block


def _utf8(data: bytes) -> tuple[int, int]:
    """Read a number that is coded as UTF-8 codes characters, up to 36 bits: (number, bytes); (0, 0) for none."""
    ones = 8 - (data[0] ^ 0xFF).bit_length()
    if ones == 0:
        return data[0], 1
    if ones == 1 or ones > 7 or len(data) < ones or any(byte >> 6 != 2 for byte in data[1:ones]):
        return 0, 0
    number = data[0] & (0x7F >> ones)
    for byte in data[1:ones]:
        number = number << 6 | byte & 0x3F
    return number, ones


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc16(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
    return crc


def _table(polynomial: int, bits: int) -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << (bits - 8)
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc >> (bits - 1) & 1 else crc << 1) & ((1 << bits) - 1)
        table.append(crc)
    return table


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)
