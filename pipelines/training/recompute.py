"""Activation checkpointing: compute blocks again in the backward pass instead of keeping their activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class _RecomputedForward:
    """A block's forward that keeps nothing for the backward pass.

    It holds the block, so that a deep copy of the block computes with the copy's weights.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __call__(self, *args: Any, **options: Any) -> Any:
        forward = type(self.block).forward
        if not (self.block.training and torch.is_grad_enabled()):
            return forward(self.block, *args, **options)
        return checkpoint(forward, self.block, *args, use_reentrant=False, **options)


def recompute_activations(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> int:
    """Make every block of these kinds compute again in the backward pass; return the number of blocks.

    It takes less memory and about a third more time (Chen et al. 2016). Gradients are the same, dropout included, and
    so are the names of the parameters.
    """
    blocks = [module for module in network.modules() if isinstance(module, kinds)]
    for block in blocks:
        block.forward = _RecomputedForward(block)
    return len(blocks)
