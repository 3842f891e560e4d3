"""Read the codes of ``.ecdc`` files, which the ``encodec`` package writes, where no language model compressed them.

!4sBI   magic "ECDC" | version 0 | bytes of JSON
JSON    "m" model | "al" samples | "nc" levels | "lm" compressed by a language model
codes   frame by frame, level by level, 10 bits each, least significant first
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.common.checked import field, parse_json
from codec.errors import SoundloomError, quoted

SAMPLE_RATE, HOP_LENGTH, CODEBOOK_SIZE = 24_000, 320, 1024  # encodec_24khz
_HEADER = struct.Struct("!4sBI")
_LARGEST_JSON = 1 << 16
_BITS = 10
_LEVELS = 32


def unpack_ecdc(data: bytes, name: str) -> tuple[Tensor, int]:
    """Read the bytes of a file: codes long [K, T], and the number of samples. Sizes are checked before allocating.

    Raises: `SoundloomError` that begins with ``name``, also for what the file may be and is not read.
    """
    facts, begin = _read_facts(data, name)
    samples = field(facts, "al", int, name, minimum=1)
    levels = field(facts, "nc", int, name, minimum=1)
    frames = -(-samples // HOP_LENGTH)
    wanted = (frames * levels * _BITS + 7) // 8
    if levels > _LEVELS or len(data) - begin != wanted:
        raise SoundloomError(
            f"{name}: {samples:,} samples of {levels} levels take {wanted:,} bytes, it has {len(data) - begin:,}: "
            "cut or damaged; copy it again"
        )
    flat = np.unpackbits(np.frombuffer(data, np.uint8, offset=begin), count=frames * levels * _BITS, bitorder="little")
    bits = flat.reshape(frames, levels, _BITS)
    codes = np.zeros((frames, levels), np.int64)
    for place in range(_BITS):
        codes |= bits[:, :, place].astype(np.int64) << place
    return torch.from_numpy(codes.T.copy()), samples


def _read_facts(data: bytes, name: str) -> tuple[Any, int]:
    """Return what the header records, and where the codes begin."""
    if data[:4] != b"ECDC" or len(data) < _HEADER.size:
        raise SoundloomError(f"{name}: not an .ecdc file (it begins with {data[:4]!r}); give one that encodec wrote")
    _, version, size = _HEADER.unpack_from(data)
    if version != 0 or size > min(_LARGEST_JSON, len(data) - _HEADER.size):
        raise SoundloomError(f"{name}: its header is damaged or of a later version; copy it again")
    begin = _HEADER.size + size
    facts = parse_json(data[_HEADER.size : begin], name)
    model = field(facts, "m", str, name)
    if model != "encodec_24khz":
        raise SoundloomError(
            f"{name}: codes of {quoted(model)}, whose chunks overlap; only encodec_24khz is read. "
            "Decode it with the encodec package"
        )
    if field(facts, "lm", bool, name):
        raise SoundloomError(
            f"{name}: compressed by a language model (encodec --lm), which is not read; write it again without --lm"
        )
    return facts, begin
