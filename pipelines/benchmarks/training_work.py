"""The work of a training: its kinds of steps, each as recorded operations, and the memory that it needs.

`pipelines.benchmarks.lm_work` and `pipelines.benchmarks.codec_work` fill it from the settings alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from pipelines.benchmarks.roofline import Operation

# AdamW reads p, g, m, v and writes p, m, v; clipping reads g twice and writes it; the average reads 2 and writes 1.
_OPTIMIZER_BYTES, _EMA_BYTES = 40, 12
_OPTIMIZER_LAUNCHES = 60


@dataclass(frozen=True)
class Phase:
    """Steps of one kind: how many (a mean may be a fraction), their name, and the operations of one on one GPU.

    ``within``: they are a part of other phases' steps, so they do not add to the number of steps.
    """

    name: str
    steps: float
    operations: list[Operation]
    within: bool = False

    @property
    def flop(self) -> float:
        """FLOP of one step on one GPU."""
        return sum(operation.flop for operation in self.operations)


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. ``activations``: as the settings have it; the other two: without and with checkpointing."""

    weights: float
    gradients: float
    optimizer: float
    averages: float
    activations_kept: float
    activations_recomputed: float
    recompute: bool

    @property
    def activations(self) -> float:
        """What the settings' choice of activation checkpointing takes."""
        return self.activations_recomputed if self.recompute else self.activations_kept

    @property
    def state(self) -> float:
        """Everything that stays between steps, and the gradients."""
        return self.weights + self.gradients + self.optimizer + self.averages

    def sharded(self, processes: int) -> Memory:
        """Return the memory where weights, gradients, optimizer and averages are spread over processes (FSDP 2)."""
        names = ("weights", "gradients", "optimizer", "averages")
        return replace(self, **{name: getattr(self, name) / processes for name in names})


@dataclass(frozen=True)
class Training:
    """A training as counted: parameters by part, phases, memory, and the sound in one step of one GPU."""

    kind: str
    parameters: dict[str, int]
    phases: list[Phase]
    memory: Memory
    seconds_per_step: float
    codes_per_step: float
    positions_per_step: float

    @property
    def steps(self) -> float:
        """Steps of the whole training."""
        return sum(phase.steps for phase in self.phases if not phase.within)

    @property
    def flop(self) -> float:
        """FLOP of the whole training on one GPU."""
        return sum(phase.flop * phase.steps for phase in self.phases)


def move_weights(parameters: Iterable[nn.Parameter], averaged: bool) -> list[Operation]:
    """Return the operations that clip gradients and move these weights, and their average where there is one."""
    trained = [p for p in parameters if p.requires_grad]
    count = sum(p.numel() for p in trained)
    operations = [Operation(0, _OPTIMIZER_BYTES * count / _OPTIMIZER_LAUNCHES)] * _OPTIMIZER_LAUNCHES
    return operations + [Operation(0, _EMA_BYTES * p.numel()) for p in trained if averaged]


def state_memory(trained: int, fixed: int, averaged: int) -> dict[str, float]:
    """Return the bytes that float32 training with AdamW keeps for these numbers of parameters."""
    return {
        "weights": 4 * (trained + fixed),
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "averages": 4 * averaged,
    }


def peak_recomputed(kept: float, recomputed: float, blocks: int) -> float:
    """Return the peak with checkpointing: what stays, and twice a mean block, which is computed again."""
    return min(kept, recomputed + 2 * (kept - recomputed) / max(blocks, 1))
