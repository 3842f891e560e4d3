"""Read the weights of Whisper's encoder from the folders that people have: transformers' or faster-whisper's.

    weights = read_whisper_encoder(Path("whisper-tiny"))     # names as in transformers, without "model.encoder."

A transformers folder has model.safetensors and config.json; a CTranslate2 folder, as faster-whisper opens it, has
model.bin. Neither format can run code.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from codec.common.checked import field, read_json
from codec.errors import SoundloomError

_PREFIX = "model.encoder."
_CTRANSLATE2_VERSION = 6
_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 2: np.dtype("<i2"), 3: np.dtype("<i4"), 4: np.dtype("<f2")}
_IN_LAYER = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_ENDINGS = {"gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class WhisperEncoderWeights:
    """Whisper's encoder: ``tensors`` float32 by transformers' names, and the number of attention ``heads``."""

    tensors: dict[str, Tensor]
    heads: int


def read_whisper_encoder(folder: Path) -> WhisperEncoderWeights:
    """Return the encoder's weights.

    Raises:
        SoundloomError: the folder holds neither format, or its file is damaged.
    """
    if (folder / "model.safetensors").is_file():
        return _from_transformers(folder)
    if (folder / "model.bin").is_file():
        return _from_ctranslate2(folder / "model.bin")
    raise SoundloomError(
        f"{folder}: no Whisper model; wanted a folder with model.safetensors (transformers) or model.bin (CTranslate2)"
    )


def _from_transformers(folder: Path) -> WhisperEncoderWeights:
    try:
        config = read_json(folder / "config.json")
        heads = field(config, "encoder_attention_heads", int, f"{folder / 'config.json'}", 1)
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError, ValueError) as error:
        raise SoundloomError(f"{folder}: not a Whisper model of transformers: {error}") from error
    own = {name.removeprefix(_PREFIX): t.float() for name, t in tensors.items() if name.startswith(_PREFIX)}
    return WhisperEncoderWeights(own, heads)


def _from_ctranslate2(path: Path) -> WhisperEncoderWeights:
    try:
        with path.open("rb") as file:
            arrays = _read_arrays(file)
        heads = int(arrays.pop("num_heads").item())
        tensors: dict[str, Tensor] = {}
        for name, array in arrays.items():
            tensors |= _renamed(name, torch.from_numpy(array.astype(np.float32)))
    except (OSError, struct.error, ValueError, KeyError) as error:
        raise SoundloomError(f"{path}: not a Whisper model of CTranslate2, or cut short: {error!r}") from error
    return WhisperEncoderWeights(tensors, heads)


def _read_arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    """Return the encoder's arrays by their CTranslate2 names, without "encoder/"."""
    (version,) = _unpack(file, "<I")
    if version != _CTRANSLATE2_VERSION:
        raise ValueError(f"format version {version}, wanted {_CTRANSLATE2_VERSION}")
    _read_name(file)  # of the model's kind
    _, count = _unpack(file, "<II")
    arrays = {}
    for _ in range(count):
        name = _read_name(file)
        (rank,) = _unpack(file, "<B")
        shape = _unpack(file, f"<{rank}I")
        kind, size = _unpack(file, "<BI")
        if not name.startswith("encoder/"):
            file.seek(size, 1)
            continue
        if kind not in _TYPES:
            raise ValueError(f"{name} has 8-bit weights; wanted float32 or float16")
        arrays[name.removeprefix("encoder/")] = np.frombuffer(file.read(size), _TYPES[kind]).reshape(shape)
    return arrays


def _read_name(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<H")
    return file.read(length).rstrip(b"\0").decode()


def _unpack(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _renamed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return a CTranslate2 tensor under transformers' names; its query, key and value are one matrix there."""
    stem, _, ending = name.rpartition("/")
    ending = _ENDINGS.get(ending, ending)
    if stem == "position_encodings":
        return {"embed_positions.weight": tensor}
    if not stem.startswith("layer_") or stem == "layer_norm":
        return {f"{stem}.{ending}": tensor}
    layer, _, part = stem.partition("/")
    where = f"layers.{layer.removeprefix('layer_')}."
    if part != "self_attention/linear_0":
        return {f"{where}{_IN_LAYER[part]}.{ending}": tensor} if part in _IN_LAYER else {}
    parts = zip("qkv", tensor.chunk(3), strict=True)
    return {f"{where}self_attn.{letter}_proj.{ending}": piece for letter, piece in parts}
