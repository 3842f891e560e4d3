"""Products of a few rows with a large matrix, as each step of a generation makes them, at the speed of memory.

Such a product reads every weight once, so memory bounds it. With `F.linear`, torch's CPU library multiplies one row in
a single thread, and two to eight rows (a batch, or guidance) at a quarter of what memory gives. The same float32
product cut over the threads, or with its operands the other way round, comes near the bound; only the order of
summation differs. Nothing is laid out anew: `lm.packed` is faster (from two rows on at the sizes of a small voice, from
four at a MusicGen's), but keeps a second copy of every weight, which a model of gigabytes has no room for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_ROWS = 8  # from there on the usual product is the faster one


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] times weight [out, in], transposed -> [..., out]: `F.linear`, for few rows on a CPU by other means.

    Where gradients are recorded, and for other devices or dtypes, it is `F.linear` itself.
    """
    size, out = x.shape[-1], weight.shape[0]
    rows = x.numel() // size
    if rows > MOST_ROWS or x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_grad_enabled():
        return F.linear(x, weight)
    flat = x.reshape(rows, size)
    if rows in (2, 3):
        # Contiguous again, or attention would leave its fused kernel.
        return (weight @ flat.t()).t().contiguous().view(*x.shape[:-1], out)
    parts = torch.get_num_threads()
    if out % parts:
        return F.linear(x, weight)
    pieces = weight.view(parts, out // parts, size)
    if rows == 1:
        return torch.bmm(pieces, flat.t().expand(parts, size, 1)).view(*x.shape[:-1], out)
    y = torch.bmm(flat.expand(parts, rows, size), pieces.transpose(1, 2))  # [parts, rows, out / parts]
    return y.transpose(0, 1).reshape(*x.shape[:-1], out)
