"""A network that learns beside discriminators: its state, how that is kept, and the part of a step that all share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codec.common.distributed import average_gradients, sum_over_processes
from pipelines.training.checkpoints import Checkpoint, load_module, load_optimizer, module_tensors, optimizer_tensors
from pipelines.training.codec_step import CodecLosses
from pipelines.training.optimizer import (
    BadSteps,
    Ema,
    OptimizerSettings,
    clip_gradients,
    make_adamw,
)


@dataclass
class JudgedState:
    """What such a training changes while it runs; all of it goes into a checkpoint, the network as ``name``."""

    name: str
    network: nn.Module
    losses: CodecLosses
    optimizer: torch.optim.Optimizer
    judge_optimizer: torch.optim.Optimizer
    ema: Ema
    bad_steps: BadSteps
    step: int = 0

    @classmethod
    def parts(
        cls,
        name: str,
        network: nn.Module,
        losses: CodecLosses,
        optimizer: OptimizerSettings,
        discriminator_lr: float,
        ema_decay: float,
    ) -> tuple[Any, ...]:
        """The first fields of a state at its start."""
        judge = OptimizerSettings(lr=discriminator_lr, beta1=0.8, beta2=0.99, weight_decay=0.01)
        optimizers = make_adamw(network, optimizer), make_adamw(losses, judge)
        return name, network, losses, *optimizers, Ema(network, ema_decay), BadSteps()

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the training, by name."""
        tensors = module_tensors(self.network, self.name) | module_tensors(self.losses, "losses")
        tensors |= optimizer_tensors(self.optimizer, self.network)
        tensors |= optimizer_tensors(self.judge_optimizer, self.losses, prefix="judge_optimizer")
        return tensors | self.ema.tensors()

    def facts(self) -> dict[str, Any]:
        """What is no tensor."""
        return {"balancer": self.losses.balancer.state(), "bad_steps": self.bad_steps.in_a_row}

    def load(self, checkpoint: Checkpoint) -> None:
        """Take back what `tensors` and `facts` gave."""
        load_module(self.network, checkpoint.tensors, self.name)
        load_module(self.losses, checkpoint.tensors, "losses")
        load_optimizer(self.optimizer, self.network, checkpoint.tensors)
        load_optimizer(self.judge_optimizer, self.losses, checkpoint.tensors, prefix="judge_optimizer")
        self.ema.load(checkpoint.tensors)
        self.losses.balancer.load(checkpoint.facts["balancer"])
        self.bad_steps.in_a_row = checkpoint.facts["bad_steps"]
        self.step = checkpoint.step

    def move(self, figures: dict[str, Any], names: list[str], grad_clip: float, undo: Callable[[], None]) -> bool:
        """Move the weights along the gradients of all processes; ``figures`` gets their norm.

        Where loss or gradients are not finite the weights stay, ``undo`` is called, and the answer is False.
        """
        average_gradients(self.network.parameters())
        norm = clip_gradients(self.network.parameters(), grad_clip)
        total = sum(value for value in figures.values() if isinstance(value, float)) + norm
        device = next(self.network.parameters()).device
        finite = sum_over_processes([0.0 if torch.isfinite(torch.tensor(total)) else 1.0], device)[0] == 0
        if self.bad_steps.ok(finite, self.step, names):
            self.optimizer.step()
            self.ema.update(self.network)
        else:
            undo()
        self.optimizer.zero_grad()
        figures["grad_norm"] = norm
        return finite

    def move_judges(self, wave: Tensor, out: Tensor, bf16: bool, parts: int = 1) -> dict[str, float]:
        """The discriminators' own step, for what the last step made; what to log."""
        figures = self.losses.discriminator_step(wave, out, bf16, parts)
        average_gradients(self.losses.parameters())
        if clip_gradients(self.losses.parameters(), 10.0) < float("inf"):
            self.judge_optimizer.step()
        self.judge_optimizer.zero_grad()
        return figures
