"""A codec's folder: config.json, model.safetensors, and further decoders for the same codes in decoders/."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.common.checked import from_dict, read_json
from codec.common.files import atomic_path, check_file, write_text
from codec.common.hub import Weights
from codec.config import CodecConfig
from codec.errors import SoundloomError, quoted

FORMAT = "soundloom-codec"
DECODERS = "decoders"
_HOLDS = "a codec folder holds config.json and model.safetensors"
_LARGEST_WEIGHT = 1e9  # beyond this a network's sums leave float32; trained weights are below 1,000


def read_config(path: Path) -> CodecConfig:
    """Read a codec's config.json. Raises: `SoundloomError` for unknown keys, wrong types and other formats."""
    record = read_json(path, missing=_HOLDS)
    if record.pop("format", None) != FORMAT:
        raise SoundloomError(f'{path} is not a codec of soundloom: its "format" should be "{FORMAT}"')
    if record.pop("version", None) != 1:
        raise SoundloomError(f"{path} has an unknown version; this soundloom reads version 1")
    return from_dict(CodecConfig, record, str(path))


def open_weights(folder: Path, config: CodecConfig) -> Weights:
    """Open the weights of a codec's folder; none is read yet.

    Raises: `SoundloomError` where there are fewer tensors than config.json has layers: even empty layers take time.
    """
    weights = Weights(folder)
    network = config.spectral if config.network == "spectral" else config.seanet
    counts = [n for name, n in vars(network).items() if name.endswith(("_blocks", "_layers"))]
    if max(*counts, config.quantizer.num_levels) > len(weights):
        raise SoundloomError(
            f"{folder} holds {len(weights)} tensors, too few for the layers that config.json describes"
        )
    return weights


def read_tensors(weights: Weights, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a codec's tensors in float32: the shapes of all are checked before the first is read.

    float16 on disk is exact in float32: the same weights, hence the same codes, on every machine.
    Raises: `SoundloomError` that names the tensor that has another shape or type, or holds NaN or infinities.
    """
    tensors = weights.read({name: [(name, list(value.shape))] for name, value in expected.items()})
    for name, value in tensors.items():
        check_tensor(value, expected[name].dtype, f"{weights.place(name)}: {name}")
    return tensors


def check_tensor(value: Tensor, dtype: torch.dtype, name: str) -> None:
    """Refuse a tensor that is no trained weight. Raises: `SoundloomError` that begins with ``name``."""
    if value.is_floating_point() != dtype.is_floating_point or (dtype == torch.bool) != (value.dtype == torch.bool):
        found, wanted = (str(kind).removeprefix("torch.") for kind in (value.dtype, dtype))
        raise SoundloomError(f"{name} holds {found} values; expected {wanted}")
    if value.is_floating_point() and not bool((value.abs() <= _LARGEST_WEIGHT).all()):
        raise SoundloomError(f"{name} holds values that are not finite or over {_LARGEST_WEIGHT:g}")


def decoder_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the further decoders in a codec's folder."""
    return tuple(sorted(path.stem for path in (folder / DECODERS).glob("*.safetensors") if path.is_file()))


def read_decoder(folder: Path, name: str) -> dict[str, Tensor]:
    """Read the decoder ``decoders/NAME.safetensors``: float32 tensors by their names in the decoder.

    Raises: `SoundloomError` that lists the decoders that there are.
    """
    names = decoder_names(folder)
    if name not in names:
        there = f"it has {', '.join(names)}" if names else "it has none but its own"
        raise SoundloomError(f"{folder} has no decoder {quoted(name)}; {there}")
    return read_layers(folder / DECODERS / f"{name}.safetensors")


def read_layers(path: Path) -> dict[str, Tensor]:
    """Read layers of a decoder: float32 tensors by their names in it.

    Raises: `SoundloomError` where a tensor is no trained weight.
    """
    check_file(path)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise SoundloomError(f"{path}: not readable as safetensors ({error})") from None
    for key, value in tensors.items():
        check_tensor(value, torch.float32, f"{path}: {key}")
    return {key: value.float() for key, value in tensors.items()}


def write_codec(folder: Path, config: CodecConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors, each whole or not at all; ``tensors`` have weight norm folded away.

    Raises: `SoundloomError` where the system refuses to write.
    """
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(dict(tensors), temporary)
    record = {"format": FORMAT, "version": 1, **dataclasses.asdict(config)}
    record["seanet"]["weight_norm"] = False
    write_text(folder / "config.json", json.dumps(record, indent=2) + "\n")


def rounded(tensors: Mapping[str, Tensor], dtype: torch.dtype, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors, those of the networks that ``prefixes`` name in ``dtype``."""
    return {
        name: value.to(dtype) if value.is_floating_point() and name.startswith(prefixes) else value
        for name, value in tensors.items()
    }


@contextmanager
def errors_name(folder: Path) -> Iterator[None]:
    """Turn whatever torch says about sizes that do not fit into one `SoundloomError`."""
    try:
        yield
    except SoundloomError:
        raise
    except Exception as error:
        raise SoundloomError(f"{folder} does not hold the weights that config.json describes: {error}") from None
