"""AdamW, its learning-rate schedule, and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from codec.errors import SoundloomError
from pipelines.training.sharding import whole

WITHOUT_FUSED = {"cpu", "mps", "meta"}  # kinds of device where PyTorch chooses how AdamW runs


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its learning rate over time.

    Args:
        lr: the highest learning rate.
        schedule: ``cosine`` falls all the way; ``wsd`` (warm up, stay, decay) falls only at the end.
        warmup_steps: steps of linear rise from 0.
        decay_fraction: ``wsd`` only: the last part of the steps, in which the rate falls in a straight line.
        final_lr_fraction: what remains of ``lr`` at the last step.
        beta1: decay of AdamW's first moment.
        beta2: decay of AdamW's second moment.
        weight_decay: for matrices only; biases, norms and other vectors get none.
        grad_clip: the largest allowed norm of all gradients together.
    """

    lr: float = 1e-3
    schedule: Literal["cosine", "wsd"] = "cosine"
    warmup_steps: int = 200
    decay_fraction: float = 0.2
    final_lr_fraction: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    grad_clip: float = 1.0

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.grad_clip > 0 and self.warmup_steps >= 0 and self.weight_decay >= 0):
            raise SoundloomError(
                "optimizer: lr and grad_clip must be over 0, warmup_steps and weight_decay not below 0"
            )
        if max(self.lr, self.weight_decay) > 100:
            raise SoundloomError(
                f"optimizer: lr {self.lr:g} and weight_decay {self.weight_decay:g}: expected at most 100"
            )
        if not (0 <= self.decay_fraction <= 1 and 0 <= self.final_lr_fraction <= 1):
            raise SoundloomError("optimizer: decay_fraction and final_lr_fraction must lie between 0 and 1")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise SoundloomError("optimizer: beta1 and beta2 must be at least 0 and under 1")


def make_adamw(module: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Return AdamW over the parameters of ``module`` that are trained, with weight decay on matrices only."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # One kernel for all weights. On a CPU the loop over them is PyTorch's choice, and what runs began with.
    fused = all(p.device.type not in WITHOUT_FUSED for p in trained) or None
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=fused)


def lr_factor(settings: OptimizerSettings, step: int, steps: int) -> float:
    """Return the learning rate of 0-based ``step`` as a fraction of ``settings.lr``; a pure function."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "wsd":
        start = max(settings.warmup_steps, round(steps * (1 - settings.decay_fraction)))
        progress = (step - start) / max(steps - start, 1)
        shape = 1.0 - progress
    else:
        progress = (step - settings.warmup_steps) / max(steps - settings.warmup_steps, 1)
        shape = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return settings.final_lr_fraction + (1 - settings.final_lr_fraction) * min(max(shape, 0.0), 1.0)


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: OptimizerSettings, step: int, steps: int) -> float:
    """Set every group's learning rate for 0-based ``step`` of ``steps`` and return it."""
    lr = settings.lr * lr_factor(settings, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradients so that their joint norm is at most ``max_norm``; return the norm before, on its device.

    A norm that is not finite is returned and nothing is scaled: the caller must then skip the step.
    """
    with_grad = [p for p in parameters if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in with_grad if p.grad is not None]))
    torch.nn.utils.clip_grads_with_norm_(with_grad, max_norm, torch.where(norm.isfinite(), norm, 0.0))
    return norm
