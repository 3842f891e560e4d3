"""What every training shares: learning rates, weight averages, signals, bad steps, repeatable randomness.

Files of a training live in `pipelines.training.checkpoints`, its history in `pipelines.training.log`, its settings in
`pipelines.command_line.settings`. A trainer reads so:

    log = JsonlLog(output / "log.jsonl"); log.rewind(first_step)     # after a resume: forget what is done again
    bad_steps = BadSteps()
    with StopFlag(time_limit_minutes) as stop:
        for step in range(first_step, steps):
            set_learning_rate(optimizer, settings, step, steps)
            seed_step(seed, step)                                    # dropout etc.: a pure function of the step
            …forward, backward…
            norm = clip_gradients(parameters, settings.grad_clip)    # not finite: the step must be skipped
            if bad_steps.ok(loss_and_norm_are_finite, step, ids):
                optimizer.step(); ema.update(model)
            optimizer.zero_grad()
            log.write(step=step + 1, loss=…)
            if agree_to_stop(stop): save_checkpoint(…); break        # at the same step in every process
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType, TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from codec.common.distributed import sum_over_processes
from codec.errors import SoundloomError
from pipelines.training.checkpoints import with_prefix
from pipelines.training.log import JsonlLog as JsonlLog  # where other modules look for it
from pipelines.training.sharding import local, shard_like, whole


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
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2))


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


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients so that their joint norm is at most ``max_norm``; return the norm before.

    A norm that is not finite is returned and nothing is scaled: the caller must then skip the step.
    """
    with_grad = [p for p in parameters if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in with_grad if p.grad is not None]))
    if torch.isfinite(norm):
        torch.nn.utils.clip_grads_with_norm_(with_grad, max_norm, norm)
    return float(norm)


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
        for name, average in self.average.items():
            local(average).lerp_(local(parameters[name].detach()).float(), 1 - decay)

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


def recompute_activations(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> int:
    """Let every block of these kinds forget what it computed and compute it again in the backward pass.

    Less memory for about a third more time (Chen et al. 2016); gradients are the same, dropout included. Names of
    parameters stay, and a copy of a block is a block like it. Returns how many blocks it met.
    """
    blocks = [module for module in network.modules() if isinstance(module, kinds)]
    for block in blocks:
        block.__class__ = _recomputing(type(block))
    return len(blocks)


@lru_cache
def _recomputing(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(self: nn.Module, *args: Any, **options: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return kind.forward(self, *args, **options)
        return checkpoint(kind.forward, self, *args, use_reentrant=False, **options)

    return type(f"Recomputing{kind.__name__}", (kind,), {"forward": forward})


class BadSteps:
    """Counts steps in a row whose loss or gradients are not finite, and gives up after ``limit`` of them.

    ``shown=False`` (other processes than the first) counts without telling.
    """

    def __init__(self, limit: int = 3, in_a_row: int = 0, shown: bool = True) -> None:
        self.limit = limit
        self.in_a_row = in_a_row
        self.shown = shown

    def ok(self, finite: bool, step: int, ids: Iterable[str]) -> bool:
        """Return ``finite``; if false, tell the step and its utterances on stderr, and the caller must skip it.

        Raises:
            SoundloomError: one bad step more than ``limit`` in a row.
        """
        if finite:
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        told = ", ".join(ids)
        if self.in_a_row > self.limit:
            raise SoundloomError(
                f"step {step}: loss or gradients not finite, for the {self.in_a_row}th time in a row; "
                f"a lower learning rate or fp32 would be right, or these utterances are broken: {told}"
            )
        if self.shown:
            print(f"warning: step {step} skipped, loss or gradients not finite; utterances: {told}", file=sys.stderr)
        return False


class StopFlag:
    """Turns SIGTERM, Ctrl-C and a time limit into a wish to stop after the step at hand.

    Use as a context manager, in the main thread. ``reason`` is None, ``"SIGTERM"``, ``"SIGINT"`` or
    ``"time limit"``. A second Ctrl-C interrupts at once.
    """

    def __init__(self, time_limit_minutes: float | None = None) -> None:
        self._signal: str | None = None
        self._deadline = None if time_limit_minutes is None else time.monotonic() + 60 * time_limit_minutes
        self._before: dict[int, Any] = {}

    @property
    def reason(self) -> str | None:
        if self._signal is None and self._deadline is not None and time.monotonic() >= self._deadline:
            return "time limit"
        return self._signal

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal == "SIGINT":
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name

    def __enter__(self) -> StopFlag:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def agree_to_stop(stop: StopFlag, device: torch.device | str = "cpu") -> str | None:
    """Return why to stop, the same on every process, though a signal reaches them at different steps."""
    reasons = ("SIGTERM", "SIGINT", "time limit")
    votes = sum_over_processes([stop.reason == reason for reason in reasons], device)
    return next((reason for reason, vote in zip(reasons, votes, strict=True) if vote), None)
