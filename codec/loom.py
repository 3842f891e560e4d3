"""Codes in a file: ``.loom``, packed so that its size is the bitrate, or ``.safetensors`` for other tools.

``.loom`` is 44 bytes of header and then the codes frame by frame, level by level, each in ceil(log2 codebook_size)
bits, most significant first; zero bits fill the last byte::

    4s magic "LOOM" | B version 1 | B levels | H codebook_size - 1 | I sample_rate | I hop_length
    I frames | Q samples | 8s sha256(fingerprint)[:8] | I crc32 of the packed codes | I crc32 of the 40 bytes before

Version 2 has a float32 before the last field, the gain (`CodeFile.gain`): 48 bytes of header. A gain of 1 is written
as version 1, which every soundloom reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from codec import ecdc
from codec.common.files import check_file, read_bytes, write_bytes
from codec.errors import SoundloomError

if TYPE_CHECKING:
    from codec.pretrained import AudioCodec

CODE_SUFFIXES = (".loom", ".safetensors")  # written and read
READ_SUFFIXES = (*CODE_SUFFIXES, ".ecdc", ".dac")
_LARGEST_FILE = 1 << 26  # 35 hours at 4 kbit/s
_HEADER = struct.Struct("<4sBBHIIIQ8sI")
_GAIN = struct.Struct("<f")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECK.size  # of version 1
_MAGIC = b"LOOM"
_LARGEST_GAIN = 1e4  # 80 dB, more than 16 bits have between silence and full scale


@dataclass(frozen=True)
class CodeFile:
    """Codes of one recording and what is needed to decode them.

    ``codes``: long [K, T]; ``num_samples``: length of the recording, at most T · hop_length; ``mark``: 16 hex
    digits that identify the codec that wrote them (`mark_of` its fingerprint), or empty where the file has none.
    ``gain``: the recording was multiplied by it before it was encoded, and what the codes decode to is divided by it;
    a float32 (`codec.loudness`).
    """

    codes: Tensor
    codebook_size: int
    sample_rate: int
    hop_length: int
    num_samples: int
    mark: str
    gain: float = 1.0

    def check_codec(self, codec: AudioCodec, name: str) -> None:
        """Check that this codec wrote the codes, by its mark; without one, by its sizes.

        Raises: `SoundloomError` that begins with ``name``.
        """
        ours = (self.sample_rate, self.hop_length, self.codebook_size)
        theirs = (codec.sample_rate, codec.hop_length, codec.codebook_size)
        mark = mark_of(codec.fingerprint) if self.mark else ""
        if ours != theirs or self.mark != mark:
            raise SoundloomError(
                f"{name}: written by another codec ({self.mark or 'EnCodec'}, {self.sample_rate} Hz) than the one "
                f"given ({mark or codec.fingerprint[:16]}, {codec.sample_rate} Hz); choose the codec that wrote it"
            )


def mark_of(fingerprint: str) -> str:
    """Return a codec's fingerprint in 16 hex digits."""
    return hashlib.sha256(fingerprint.encode()).hexdigest()[:16]


def pack(file: CodeFile) -> bytes:
    """Return the bytes of a ``.loom`` file. Raises: `SoundloomError` where the codes do not fit the facts."""
    _check(file, "codes")
    if not _is_mark(file.mark):
        raise SoundloomError("codes: the codec that wrote them is unknown; mark_of its fingerprint is wanted")
    codes = file.codes.cpu().numpy().T.reshape(-1)  # [T · K]: whole frames follow each other
    width = _width(file.codebook_size)
    bits = np.empty((codes.size, width), np.uint8)
    for place in range(width):  # a bit at a time: all at once would take 8 bytes a bit
        bits[:, place] = codes >> (width - 1 - place) & 1
    body = np.packbits(bits).tobytes()
    levels, frames = file.codes.shape
    header = _HEADER.pack(
        _MAGIC,
        1 if file.gain == 1 else 2,
        levels,
        file.codebook_size - 1,
        file.sample_rate,
        file.hop_length,
        frames,
        file.num_samples,
        bytes.fromhex(file.mark),
        zlib.crc32(body),
    )
    header += b"" if file.gain == 1 else _GAIN.pack(file.gain)
    return header + _CHECK.pack(zlib.crc32(header)) + body


def unpack(data: bytes, name: str = "codes") -> CodeFile:
    """Read the bytes of a ``.loom`` file; its size is checked before anything is allocated.

    Raises: `SoundloomError` that begins with ``name``.
    """
    begin, gain = _check_header(data, name)
    _, _, levels, largest, rate, hop, frames, samples, mark, body_check = _HEADER.unpack_from(data)
    width = _width(largest + 1)
    wanted = begin + (frames * levels * width + 7) // 8
    if len(data) != wanted:
        raise SoundloomError(
            f"{name}: has {len(data):,} bytes, its header promises {wanted:,}: cut or damaged; copy it again"
        )
    if zlib.crc32(data[begin:]) != body_check:
        raise SoundloomError(f"{name}: its codes are damaged; copy it again")
    flat = np.unpackbits(np.frombuffer(data, np.uint8, offset=begin), count=frames * levels * width)
    bits = flat.reshape(frames, levels, width)
    codes = np.zeros((frames, levels), np.int64)
    for place in range(width):
        codes = codes << 1 | bits[:, :, place]
    file = CodeFile(torch.from_numpy(codes.T.copy()), largest + 1, rate, hop, samples, mark.hex(), gain)
    _check(file, name)
    return file


def _check_header(data: bytes, name: str) -> tuple[int, float]:
    """Check that a header is whole; return where the codes begin, and the gain. Raises: `SoundloomError`."""
    if data[:4] != _MAGIC:
        raise SoundloomError(
            f"{name}: not a .loom file (it begins with {data[:4]!r}); give one that reconstruct.py wrote"
        )
    version = data[4] if len(data) >= HEADER_BYTES else 1
    if version not in (1, 2):
        raise SoundloomError(
            f"{name}: .loom version {version}, this soundloom reads versions 1 and 2; update soundloom"
        )
    end = _HEADER.size + (_GAIN.size if version == 2 else 0)
    if len(data) < end + _CHECK.size:
        raise SoundloomError(f"{name}: cut inside its header ({len(data)} bytes); copy it again")
    if zlib.crc32(data[:end]) != _CHECK.unpack_from(data, end)[0]:
        raise SoundloomError(f"{name}: its header is damaged; copy it again")
    return end + _CHECK.size, _GAIN.unpack_from(data, _HEADER.size)[0] if version == 2 else 1.0


def save_codes(path: str | os.PathLike[str], file: CodeFile) -> int:
    """Write codes to a ``.loom`` or ``.safetensors`` file, whole or not at all; return the number of bytes.

    Raises: `SoundloomError` for another suffix, and where the system refuses to write.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".loom":
        data = pack(file)
    elif suffix == ".safetensors":
        _check(file, str(path))
        dtype = torch.int16 if file.codebook_size <= 1 << 15 else torch.int32
        facts = {name: getattr(file, name) for name in _FACTS if name != "gain" or file.gain != 1}
        tensor = file.codes.to("cpu", dtype).contiguous()
        data = safetensors.torch.save({"codes": tensor}, {"soundloom": json.dumps(facts)})
    else:
        raise SoundloomError(f"{path}: codes go into {' or '.join(CODE_SUFFIXES)}; end its name with one of them")
    write_bytes(path, data)
    return len(data)


def load_codes(path: str | os.PathLike[str]) -> CodeFile:
    """Read what `save_codes` wrote, or an ``.ecdc`` file. Raises: `SoundloomError` that names the file."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".dac":
        raise SoundloomError(
            f"{path}: a .dac file is pickled, which can run code, and is never read; decode it with "
            "descript-audio-codec (python -m dac decode) and give the audio file"
        )
    if suffix == ".ecdc":
        codes, samples = ecdc.unpack_ecdc(read_bytes(path, _LARGEST_FILE), str(path))
        return CodeFile(codes, ecdc.CODEBOOK_SIZE, ecdc.SAMPLE_RATE, ecdc.HOP_LENGTH, samples, "")
    if suffix != ".safetensors":
        return unpack(read_bytes(path, _LARGEST_FILE), str(path))
    return _load_tensors(path)


def _load_tensors(path: Path) -> CodeFile:
    check_file(path, 8 * _LARGEST_FILE)
    try:
        with safetensors.safe_open(path, "pt") as stream:
            if "codes" not in stream.keys():  # noqa: SIM118 - not a dict
                raise SoundloomError(f"{path}: holds no tensor named codes; give a file that reconstruct.py wrote")
            facts = json.loads((stream.metadata() or {}).get("soundloom", "null"))
            codes = stream.get_tensor("codes")
    except OSError as error:
        raise SoundloomError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise SoundloomError(f"{path}: not a safetensors file that can be read ({error}); copy it again") from error
    if (
        not isinstance(facts, dict)
        or set(facts) | {"gain"} != set(_FACTS)  # which only codes of raised sound have
        or codes.dtype not in (torch.int16, torch.int32, torch.int64)
    ):
        raise SoundloomError(f"{path}: lacks soundloom's facts about its codes; give a file that reconstruct.py wrote")
    wrong = [name for name, value in facts.items() if type(value) is not _FACTS[name]]
    if wrong or not _is_mark(facts["mark"]):
        raise SoundloomError(f"{path}: facts of the wrong type: {', '.join(wrong) or 'mark'}; copy it again")
    file = CodeFile(codes.long(), **facts)
    _check(file, str(path))
    return file


_FACTS: dict[str, type] = {
    "codebook_size": int, "sample_rate": int, "hop_length": int, "num_samples": int, "mark": str, "gain": float
}  # fmt: skip


def _is_mark(text: str) -> bool:
    return len(text) == 16 and set(text) <= set("0123456789abcdef")


def _width(codebook_size: int) -> int:
    return max(1, (codebook_size - 1).bit_length())


def _check(file: CodeFile, name: str) -> None:
    """Check everything that decoding relies on. Raises: `SoundloomError`."""
    if file.codes.dim() != 2 or not 1 <= file.codes.shape[0] <= 255 or not 1 <= file.codes.shape[1] < 1 << 32:
        raise SoundloomError(f"{name}: codes of shape {list(file.codes.shape)}; wanted [levels 1 to 255, frames]")
    if not 2 <= file.codebook_size <= 1 << 16:
        raise SoundloomError(f"{name}: codebooks of {file.codebook_size} codes; expected 2 to 65,536")
    if not 1 <= file.hop_length < 1 << 32 or not 1 <= file.sample_rate < 1 << 32:
        raise SoundloomError(f"{name}: hop_length={file.hop_length}, sample_rate={file.sample_rate}; wanted at least 1")
    if not 1 <= file.num_samples <= file.codes.shape[1] * file.hop_length:
        raise SoundloomError(
            f"{name}: {file.num_samples} samples in {file.codes.shape[1]} frames of {file.hop_length}: they do not fit"
        )
    if not 1 / _LARGEST_GAIN <= file.gain <= _LARGEST_GAIN:  # NaN compares as False
        raise SoundloomError(f"{name}: gain {file.gain:g}; expected {1 / _LARGEST_GAIN:g} to {_LARGEST_GAIN:,.0f}")
    low, high = int(file.codes.min()), int(file.codes.max())
    if low < 0 or high >= file.codebook_size:
        raise SoundloomError(f"{name}: codes from {low} to {high}; expected 0 to {file.codebook_size - 1}")
