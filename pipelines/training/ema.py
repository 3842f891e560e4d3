"""Averaged weights: what a training validates and exports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from codec.errors import SoundloomError
from pipelines.training.checkpoints import with_prefix
from pipelines.training.sharding import local, shard_like


class Ema:
    """An exponential moving average of a module's trained parameters, in fp32.

    The decay rises from 0.1 to ``decay`` as (1 + n) / (10 + n), so that a short run is not held by its start.
    Buffers are not averaged.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise SoundloomError(f"ema_decay: must be at least 0 and under 1, not {decay}")
        self.decay = decay
        self.updates = 0
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().float().clone() for name, p in trained.items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        parameters = dict(module.named_parameters())
        present = [local(parameters[name].detach()).float() for name in self.average]
        torch._foreach_lerp_([local(average) for average in self.average.values()], present, 1 - decay)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Let the module hold the averaged weights inside a ``with`` block (validation, export)."""
        parameters = {n: p for n, p in module.named_parameters() if n in self.average}
        kept = {name: local(p.detach()).clone() for name, p in parameters.items()}
        with torch.no_grad():
            for name, parameter in parameters.items():
                local(parameter).copy_(local(self.average[name]))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    local(parameter).copy_(kept[name])

    def tensors(self, prefix: str = "ema") -> dict[str, Tensor]:
        """Return the state for a checkpoint."""
        named = {f"{prefix}.average.{name}": tensor for name, tensor in self.average.items()}
        return named | {f"{prefix}.updates": torch.tensor(self.updates)}

    def load(self, tensors: Mapping[str, Tensor], prefix: str = "ema") -> None:
        """Put the state from a checkpoint back (`SoundloomError` where it does not fit)."""
        saved = with_prefix(tensors, f"{prefix}.average")
        if saved.keys() != self.average.keys() or any(saved[n].shape != a.shape for n, a in self.average.items()):
            raise SoundloomError(f"checkpoint: '{prefix}' does not fit this model's settings")
        for name, average in self.average.items():
            local(average).copy_(local(shard_like(average, saved[name])))
        self.updates = int(tensors[f"{prefix}.updates"])
