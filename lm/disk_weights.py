"""A language model's weights on disk: float32, half precision, or int8 with a scale for each row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from codec.errors import SoundloomError

#: what a tensor becomes on disk; int8: matrices alone, the rest stays float32
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}
SCALE = ".scale"  # ends the name of the tensor that holds the scales of an int8 matrix
_LARGEST = 127


def packed(weights: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Return the tensors as they go to disk in one of `DTYPES`.

    int8 rounds each row of a matrix to 255 steps between plus and minus its largest value (weight-only quantization by
    rows, as in LLM.int8, Dettmers et al. 2022); ``NAME.scale`` float32 [rows] is the size of a step.

    Raises:
        SoundloomError: an unknown type, or values that int8 cannot hold.
    """
    if dtype not in DTYPES:
        raise SoundloomError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    cpu = {name: value.detach().to("cpu") for name, value in weights.items()}
    if dtype != "int8":
        return {name: value.to(DTYPES[dtype]).contiguous() for name, value in cpu.items()}
    tensors = {}
    for name, value in cpu.items():
        if value.ndim == 2:
            tensors[name], tensors[name + SCALE] = _by_rows(name, value.float())
        else:
            tensors[name] = value.float().contiguous()
    return tensors


def _by_rows(name: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix in int8, and the size of a step in each row."""
    if not bool(torch.isfinite(matrix).all()):
        raise SoundloomError(f"{name} holds values that are not finite")
    scale = (matrix.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (matrix / scale[:, None]).round().to(torch.int8).contiguous(), scale


def scale_shapes(dtypes: Mapping[str, str], shapes: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Return the scales that a file with these types needs, with their shapes; its matrices alone may be int8.

    ``dtypes`` are safetensors' names of types; ``shapes`` are the model's.
    """
    whole = {name for name, dtype in dtypes.items() if dtype == "I8"}
    return {name + SCALE: shapes[name][:1] for name in whole if len(shapes.get(name, ())) == 2}


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file in float32, without the scales, which have been multiplied in."""
    weights = {}
    for name, value in tensors.items():
        if value.dtype == torch.int8 and name + SCALE in tensors:
            weights[name] = value.float() * tensors[name + SCALE].float()[:, None]
        elif name.removesuffix(SCALE) not in tensors or not name.endswith(SCALE):
            weights[name] = value.float()
    return weights
