"""What depends on the kind of device: copies that nobody waits for, figures read at once, the widest numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}  # kinds of device that have no float64


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor to ``device``; from the CPU to a GPU without waiting for what the GPU still has to do.

    Only from memory that cannot move (pinned) does a GPU copy by itself.
    """
    kind = torch.device(device).type
    if tensor.device.type != "cpu" or kind in ("cpu", "mps", "meta"):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def widest_float(device: torch.device) -> torch.dtype:
    """Return the type for sums and figures: float64, or float32 where the device has no other."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def wait_for(device: torch.device | str) -> None:
    """Wait until a device has done what it was given; a clock that does not would time the giving."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()


def on_host(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures with each tensor as a number or a list of them, all read from the device in one copy."""
    tensors = {name: value.detach() for name, value in figures.items() if isinstance(value, Tensor)}
    if not tensors:
        return dict(figures)
    device = next(iter(tensors.values())).device
    flat = torch.cat([value.reshape(-1).to(device, widest_float(device)) for value in tensors.values()])
    numbers = iter(flat.tolist())
    read = {name: [next(numbers) for _ in range(value.numel())] for name, value in tensors.items()}
    return {**figures, **{name: row if tensors[name].dim() else row[0] for name, row in read.items()}}


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep TensorFloat-32 out of float32 products for a while: its 10 bits would give other codes than a CPU's 23."""
    if device.type != "cuda":
        yield
        return
    switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
