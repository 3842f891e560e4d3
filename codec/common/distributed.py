"""What the processes of a training exchange: means, sums and gradients; in one process each is a no-op.

A batch that several processes share gives what it would give in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from codec.common.devices import on_host


def process_place() -> tuple[int, int]:
    """Return (rank, number of processes); (0, 1) where torch.distributed is not in use."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def mean_over_processes(x: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, with its gradient; with one process, the tensor itself.

    The gradient is right where the processes' gradients are averaged at the end, as every trainer here does.
    """
    return x if process_place()[1] == 1 else _Mean.apply(x)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()


def sum_over_processes(values: Iterable[float], device: torch.device | str = "cpu") -> list[float]:
    """Return the sums of ``values`` over all processes, the same on each; every process must call it."""
    numbers = [float(value) for value in values]
    if process_place()[1] == 1:
        return numbers  # nothing goes to the device: not every device has float64, and each copy waits for it
    total = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return [float(value) for value in total.tolist()]


def total_over_processes(x: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, on its device; every process must call it."""
    if process_place()[1] == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total


def mean_figures(figures: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return figures for the log as means over all processes; every process must call it.

    Figures are numbers, lists of numbers, or tensors of one or more, which are read from their device here.
    """
    figures = on_host(figures)
    flat = [number for value in figures.values() for number in (value if isinstance(value, list) else [value])]
    world = process_place()[1]
    means = iter([total / world for total in sum_over_processes(flat, device)])
    return {k: [next(means) for _ in v] if isinstance(v, list) else next(means) for k, v in figures.items()}


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients over all processes (DDP's hooks do not fit two backward passes in a step)."""
    if process_place()[1] == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    offset = 0
    for grad in grads:
        grad.copy_(flat[offset : offset + grad.numel()].view_as(grad))
        offset += grad.numel()


@torch.no_grad()
def gather_clips(x: Tensor) -> Tensor:
    """Return every process's clips [B, ...] as one batch in which the processes take turns, as `Crops` deals them."""
    _, world = process_place()
    if world == 1:
        return x
    shares = [torch.empty_like(x) for _ in range(world)]
    dist.all_gather(shares, x.contiguous())
    return torch.stack(shares, 1).flatten(0, 1)


@torch.no_grad()
def copy_from_first(module: nn.Module) -> None:
    """Give every process the parameters and buffers of the first one.

    K-means on several GPUs needs it: atomics add up in any order, so the codebooks would differ in their last bits.
    """
    if process_place()[1] > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor, 0)


def alike_over_processes(module: nn.Module) -> bool:
    """Return whether all processes hold the same parameters and buffers to the bit; every process must call it."""
    if process_place()[1] == 1:
        return True
    sums = []
    for tensor in module.state_dict().values():
        # Bits as numbers, each weighed by its place: two processes that differ anywhere have other sums.
        bits = tensor.detach().flatten().view(torch.uint8).to(torch.int64)
        sums.append((bits * torch.arange(1, len(bits) + 1, device=bits.device)).sum())
    least, most = torch.stack(sums), torch.stack(sums)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return torch.equal(least, most)
