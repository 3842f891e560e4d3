"""Weights laid out for products of a few rows: steps of a generation, short chunks of a stream.

PyTorch's general product of a few rows reads weights several times slower than memory allows. `pack_linear` lays a
weight out once, as a copy: in half precision if half precision holds it exactly (products and sums stay float32), else
in float32. The numbers are those of the general product, within rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_ONE_THREAD_ROWS = 4  # for so few, starting other threads takes longer than they save


def pack_linear(weight: Tensor, bias: Tensor | None = None, rows: int = 2) -> Callable[[Tensor], Tensor]:
    """Return x [..., in] -> x · weightᵀ + bias [..., out], fast for few rows: a snapshot of both as they are now.

    ``weight`` [out, in], ``bias`` [out]; ``rows``: how many rows to expect, for which the float32 layout is tuned.
    float32 on a CPU is packed for FBGEMM if half precision holds it exactly, else for oneDNN. Anything else, or a
    build of PyTorch without these libraries, goes through `F.linear`.
    """
    weight, bias = weight.detach(), None if bias is None else bias.detach().clone()
    if _is_copied(weight):
        if packs_in_half(weight):
            return _HalfProduct(weight, bias)
        if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            blocked = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
            product = torch.ops.mkldnn._linear_pointwise.default
            return lambda x: product(x, blocked, bias, "none", [], "")
    return lambda x: F.linear(x, weight, bias)


def packs_in_half(weight: Tensor) -> bool:
    """Return whether `pack_linear` reads two bytes a weight: half precision holds it exactly, and FBGEMM is there."""
    if not _is_copied(weight):
        return False
    return torch.backends.quantized.engine in ("fbgemm", "x86", "onednn") and torch.equal(weight.half().float(), weight)


class _HalfProduct:
    """The product with a weight that half precision holds exactly, which FBGEMM reads in two bytes.

    Torch has it twice, the same numbers. The older function is called 7 us faster and runs on one thread; the operator
    uses all threads, which pays for many rows only. Where the older one is gone, the operator does it all.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.size = weight.shape[1]
        self.weight = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)
        self.operator = torch.ops.quantized.linear_dynamic_fp16.default
        self.direct = _direct_half_product(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        if self.direct is not None and (x.numel() <= _ONE_THREAD_ROWS * self.size or torch.get_num_threads() == 1):
            return self.direct(x)
        return self.operator(x, self.weight)


def _direct_half_product(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor] | None:
    try:
        with warnings.catch_warnings():  # that it is deprecated, once at packing and once at the first call
            warnings.simplefilter("ignore")
            packed = torch.fbgemm_pack_gemm_matrix_fp16(weight.contiguous())
            product = torch.fbgemm_linear_fp16_weight_fp32_activation
            product(weight.new_zeros(1, weight.shape[1]), packed, bias)
    except (AttributeError, RuntimeError, TypeError):
        return None
    return lambda x: product(x, packed, bias)


def weights_version(weights: Iterable[Tensor]) -> tuple[tuple[Any, ...], ...]:
    """Return a value that changes whenever one of the weights does: where a snapshot is out of date.

    Moves, replacements and optimizer steps show in addresses and version counters. Writes through ``parameter.data`` or
    in inference mode do not, so the bits of what `pack_linear` copies are summed too: 0.3 ms a million weights, within
    1% of the time that a sentence takes.
    """
    return tuple(
        (p.data_ptr(), 0 if p.is_inference() else p._version, _checksum(p.detach()) if _is_copied(p) else None)
        for p in weights
    )


def _is_copied(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


_ROW = 4096


@lru_cache(maxsize=1)
def _factors() -> Tensor:
    """Odd factors, so that no single change of a word leaves the sum of all as it was."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**62), 2**62, (_ROW,), generator=generator) * 2 + 1


def _checksum(weight: Tensor) -> bytes:
    """Return sums of the bits of a float32 tensor, each word times a factor of its place, modulo 2^64."""
    flat = weight.contiguous().view(-1)
    whole = flat.numel() // (2 * _ROW) * (2 * _ROW)
    sums = torch.mv(flat[:whole].view(torch.int64).view(-1, _ROW), _factors())
    return sums.numpy().tobytes() + flat[whole:].numpy().tobytes()
