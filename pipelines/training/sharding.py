"""One model spread over several processes (FSDP 2), as accelerate's configuration asks for it, on GPUs and on CPUs.

accelerate itself shards on accelerators only and would train on CPUs with whole copies without saying so; here both are
`torch.distributed.fsdp.fully_shard`. Parameters, gradients, optimizer state and averages are then `DTensor`s:
each process holds its rows. Checkpoints hold whole tensors, so a run may resume with another number of processes, or
unsharded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from codec.errors import SoundloomError


def sharding_wanted() -> bool:
    """Return whether `accelerate launch` was given a configuration with FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true", "yes")


def refuse_sharding(what: str) -> None:
    """Raise `SoundloomError` where FSDP is asked for and ``what`` cannot be trained with it."""
    if sharding_wanted():
        raise SoundloomError(f"{what} is trained with a whole copy in each process: launch it without FSDP")


def shard_model(accelerator: Accelerator, model: nn.Module, blocks: Iterable[nn.Module]) -> bool:
    """Shard ``blocks`` one by one and then the rest of ``model`` in place; true if the configuration asks for it.

    To be called in every process, before the optimizer is made. Raises: SoundloomError for FSDP 1 and for what this
    does not do (offloading).
    """
    if not sharding_wanted():
        return False
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    plugin = FullyShardedDataParallelPlugin()  # from the environment that `accelerate launch` sets
    if plugin.fsdp_version != 2:
        raise SoundloomError("fsdp_version: must be 2 in accelerate's configuration (see configs/accelerate_fsdp.yaml)")
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() in ("1", "true", "yes"):
        raise SoundloomError(
            "fsdp_offload_params: is not supported here, it must be false in accelerate's configuration"
        )
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise SoundloomError("FSDP is asked for, but there is one process only; start several, or use no FSDP")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    again = bool(plugin.reshard_after_forward)
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=again)
    # The rest is always gathered anew: what stayed gathered after validation would hide what is put into the shards.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return True


def is_sharded(model: nn.Module) -> bool:
    """Return whether a model's parameters are spread over processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def local(tensor: Tensor) -> Tensor:
    """This process's rows of a sharded tensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, which every process must ask for together; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Every tensor whole, on the CPU where it had to be gathered; {} in the processes that do not ``keep`` them.

    Every process must call it with the same names.
    """
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if keep:
            kept[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return kept


def shard_like(parameter: Tensor, value: Tensor) -> Tensor:
    """``value`` on the parameter's device, spread as the parameter is where it has its shape."""
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        # None: each process cuts its rows out of the copy that it has read itself.
        return distribute_tensor(
            value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
        )
    return value.to(parameter.device)
