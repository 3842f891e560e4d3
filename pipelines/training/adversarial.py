"""A network that learns against discriminators: its state, its checkpoint, and the part of a step that all share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codec.common.devices import on_host
from codec.common.distributed import alike_over_processes, average_gradients, process_place, total_over_processes
from codec.errors import SoundloomError
from pipelines.training.bad_steps import BadSteps
from pipelines.training.checkpoints import (
    Checkpoint,
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
)
from pipelines.training.codec_losses import CodecLosses, GeneratorStep
from pipelines.training.ema import Ema
from pipelines.training.optimizer import OptimizerSettings, clip_gradients, make_adamw
from pipelines.training.saver import Saver
from pipelines.training.spikes import SpikeGuard

# The name in checkpoints is older than the class: running trainings must load.
_PREFIX = "judge_optimizer"
_DISCRIMINATOR_CLIP = 10.0


class AdversarialState:
    """What such a training changes while it runs. All of it goes into a checkpoint, the network as ``name``."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        losses: CodecLosses,
        optimizer: OptimizerSettings,
        discriminator_lr: float,
        ema_decay: float,
        spikes: SpikeGuard | None = None,
        saver: Saver | None = None,
    ) -> None:
        self.name = name
        self.network = network
        self.losses = losses
        self.optimizer = make_adamw(network, optimizer)
        settings = OptimizerSettings(lr=discriminator_lr, beta1=0.8, beta2=0.99, weight_decay=0.01)
        self.discriminator_optimizer = make_adamw(losses, settings)
        self.ema = Ema(network, ema_decay)
        self.bad_steps = BadSteps()
        self.spikes = spikes or SpikeGuard(0.0, 1)
        self.saver = saver or Saver()
        self.step = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the training, by name."""
        tensors = module_tensors(self.network, self.name) | module_tensors(self.losses, "losses")
        tensors |= optimizer_tensors(self.optimizer, self.network)
        tensors |= optimizer_tensors(self.discriminator_optimizer, self.losses, prefix=_PREFIX)
        return tensors | self.ema.tensors()

    def save(self, folder: Path, facts: dict[str, Any], is_main: bool, keep: int = 2) -> None:
        """Commit a checkpoint from the main process; every process must call it.

        Raises:
            SoundloomError: the processes hold different weights.
        """
        if not alike_over_processes(self.network):
            raise SoundloomError(
                f"step {self.step}: the processes' weights differ, so nothing was saved; resume from the last "
                "checkpoint with the same versions and hardware in every process"
            )
        if is_main:
            own = {"balancer": on_host(self.losses.balancer.state()), "bad_steps": self.bad_steps.in_a_row}
            own["spikes"] = self.spikes.facts()
            self.saver.save(folder, self.step, self.tensors(), own | facts, keep)

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore what `save` stored."""
        load_module(self.network, checkpoint.tensors, self.name)
        load_module(self.losses, checkpoint.tensors, "losses")
        load_optimizer(self.optimizer, self.network, checkpoint.tensors)
        load_optimizer(self.discriminator_optimizer, self.losses, checkpoint.tensors, prefix=_PREFIX)
        self.ema.load(checkpoint.tensors)
        balance = checkpoint.fact("balancer", dict)
        if not all(isinstance(value, int | float) for value in balance.values()):
            raise SoundloomError(f"{checkpoint.path}: 'balancer' in its facts.json must hold numbers")
        self.losses.balancer.load(balance)
        self.bad_steps.in_a_row = checkpoint.fact("bad_steps", int)
        self.spikes.load(checkpoint)
        self.step = checkpoint.step

    def move(self, figures: dict[str, Any], names: list[str], grad_clip: float, undo: Callable[[], None]) -> bool:
        """Move the weights along the gradients of all processes; ``figures`` gets the gradients' norm.

        Where the loss or the gradients are not finite, the weights stay, ``undo`` is called, and it returns False.
        """
        average_gradients(self.network.parameters())
        norm = clip_gradients(self.network.parameters(), grad_clip)
        losses = [value for value in figures.values() if isinstance(value, Tensor) and value.dim() == 0]
        bad = torch.stack([value.float() for value in [*losses, norm]]).isfinite().logical_not().any().float()
        mel = torch.as_tensor(figures.get("mel", 0.0), dtype=torch.float32, device=norm.device)
        # The only time that the host waits for the device.
        number, loss, size = total_over_processes(torch.stack([bad, mel, norm.float()])).tolist()
        finite, world = not number, process_place()[1]
        self.spikes.see(loss / world, size / world)
        if self.bad_steps.ok(finite, self.step, names):
            self.optimizer.step()
            self.ema.update(self.network)
        else:
            undo()
        self.optimizer.zero_grad()
        figures["grad_norm"] = norm
        return finite

    def move_discriminators(self, wave: Tensor, step: GeneratorStep) -> dict[str, Any]:
        """Take the discriminators' own step on what the generator step made; return what to log."""
        figures = self.losses.discriminator_step(wave, step)
        average_gradients(self.losses.parameters())
        if bool(clip_gradients(self.losses.parameters(), _DISCRIMINATOR_CLIP) < float("inf")):
            self.discriminator_optimizer.step()
        self.discriminator_optimizer.zero_grad()
        return figures
