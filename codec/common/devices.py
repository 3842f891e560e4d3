"""What depends on the kind of device: copies to it that nobody waits for, and the widest numbers that it has."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor to ``device``; from the CPU to a GPU without waiting for what the GPU still has to do.

    Only from memory that cannot move (pinned) does a GPU copy by itself.
    """
    kind = torch.device(device).type
    if tensor.device.type != "cpu" or kind in ("cpu", "mps", "meta"):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def widest_float(device: torch.device) -> torch.dtype:
    """Return the type for sums and figures: float64, or float32 on Apple's GPUs, which have no other."""
    return torch.float32 if device.type == "mps" else torch.float64
