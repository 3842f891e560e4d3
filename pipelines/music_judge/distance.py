"""Kernel audio distance (Chung et al. 2025): how far one set of embeddings is from another."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE = 1000.0


def kernel_distance(sounds: Tensor, reference: Tensor) -> float:
    """Return the squared maximum mean discrepancy of embeddings [N, D] and [M, D], times 1,000.

    The kernel is Gaussian; its width is the median distance between reference embeddings. The estimate is unbiased:
    about 0, and sometimes below it, for two sets of one kind. Both need at least two rows.
    """
    sounds, reference = sounds.double(), reference.double()
    width = torch.pdist(reference).median().clamp(min=1e-9)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-(torch.cdist(a, b) ** 2) / (2 * width**2))

    def within(a: Tensor) -> Tensor:
        n = a.shape[0]
        return (kernel(a, a).sum() - n) / (n * (n - 1))

    return float(SCALE * (within(sounds) + within(reference) - 2 * kernel(sounds, reference).mean()))
