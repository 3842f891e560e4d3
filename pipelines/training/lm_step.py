"""One step of a language model's training, and one validation, on any number of processes.

A step's loss is that of one large batch: per level, the sum over every code of all forward passes of all processes,
divided by the number of those codes; then the weighted mean over levels. How the batch is cut makes no difference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from codec.common.devices import widest_float
from codec.common.distributed import total_over_processes
from codec.common.seeds import seed_step
from codec.errors import SoundloomError
from lm.data.batch_plan import BatchPlan
from lm.data.dataset import Batch, GridDataset
from lm.loss import lm_loss
from pipelines.training.lm_teacher import Teacher


@dataclass
class LevelSums:
    """Sums of nats and numbers of codes by level, to take means over many batches and processes.

    ``sums`` are cross-entropies, ``kl`` divergences from a teacher (0 without one). They stay on the model's device,
    so that adding makes nobody wait; `on_cpu` reads them.
    """

    sums: Tensor
    counts: Tensor
    kl: Tensor
    ids: list[str] = field(default_factory=list)

    @classmethod
    def zeros(cls, levels: int, device: torch.device | str = "cpu") -> LevelSums:
        sums, counts, kl = torch.zeros(3, levels, dtype=widest_float(torch.device(device)), device=device)
        return cls(sums, counts, kl)

    def add(self, other: LevelSums) -> None:
        self.sums += other.sums
        self.counts += other.counts
        self.kl += other.kl

    def over_processes(self) -> LevelSums:
        """Return the sums over all processes in float32; every process must call it."""
        sums, counts, kl = total_over_processes(torch.stack([self.sums, self.counts, self.kl])).float()
        return LevelSums(sums, counts, kl, self.ids)

    def where_finite(self) -> LevelSums:
        """Return the sums themselves if all are finite, else zeros."""
        finite = self.sums.isfinite().all()
        sums, counts, kl = torch.where(finite, torch.stack([self.sums, self.counts, self.kl]), 0.0)
        return LevelSums(sums, counts, kl, self.ids)

    def on_cpu(self) -> LevelSums:
        """Return the sums on the CPU, read in one copy."""
        sums, counts, kl = torch.stack([self.sums, self.counts, self.kl]).cpu()
        return LevelSums(sums, counts, kl, self.ids)

    def per_level(self) -> list[float]:
        """Return mean nats a code of each level; NaN for a level that was not scored."""
        return (self.sums / self.counts).tolist()

    def kl_per_level(self) -> list[float]:
        """Return the mean divergence from the teacher in nats a code of each level."""
        return (self.kl / self.counts).tolist()

    def loss(self, weights: Sequence[float], share: float = 0.0) -> float:
        """Return the weighted mean of the levels that were scored; NaN where none was.

        ``share``: weight of the divergence from the teacher; the cross-entropy has the rest.
        """
        scored = self.counts > 0
        weight = torch.tensor(weights, dtype=self.sums.dtype) * scored
        mixed = (1 - share) * self.sums + share * self.kl
        means = torch.where(scored, mixed / self.counts.clamp(min=1), 0)
        return float((means * weight).sum() / weight.sum())


def check_level_weights(weights: Sequence[float] | None, kind: str, levels: int) -> list[float]:
    """Return one weight a level.

    Raises:
        SoundloomError: the weights do not fit the model.
    """
    checked = [1.0] * levels if weights is None else [float(weight) for weight in weights]
    used = {"delay": checked, "coarse": checked[:1], "fine": checked[1:]}[kind]
    if len(checked) != levels:
        raise SoundloomError(f"level_weights: {len(checked)} given, the model has {levels} levels")
    if min(checked) < 0 or max(used, default=0) <= 0 or (kind == "fine" and min(used) <= 0):
        raise SoundloomError(f"level_weights: none may be negative nor all those used be 0, but they are {checked}")
    return checked


def train_step(
    accelerator: Accelerator,
    model: nn.Module,
    batches: Iterable[Batch],
    plan: BatchPlan,
    numbers: Sequence[int],
    *,
    weights: Sequence[float],
    seed: int,
    bf16: bool,
    teacher: Teacher | None = None,
    z_loss: float = 0.0,
) -> LevelSums:
    """Add the gradients of a step's batches to ``model``; weights are not touched.

    Args:
        batches: this process's batches of the step: the plan's at places ``process_index``,
            ``process_index + num_processes`` ... of ``numbers``.
        numbers: the step's batches over all processes, in the plan's numbering.
        weights: one a level.
        teacher: whose distribution the model learns next to the codes, if any.
        z_loss: its weight; see `lm.loss.lm_loss`.

    Returns:
        The sums of this process, and the ids of its utterances.
    """
    world = accelerator.num_processes
    frames = sum(plan.frames(number) for number in numbers)
    rows = sum(len(plan.rows(number)) for number in numbers)
    total = LevelSums.zeros(len(weights), accelerator.device)
    mine = numbers[accelerator.process_index :: world]
    for number, batch in zip(mine, batches, strict=True):
        total.ids += batch.ids
        seed_step(seed, "batch", number)
        # Processes exchange gradients once a step, after the last backward pass.
        waits = contextlib.nullcontext() if number == mine[-1] else accelerator.no_sync(model)
        with waits:
            read = batch if teacher is None else teacher.hide_texts(batch)
            loss, sums = _batch_loss(model, read, accelerator.device, weights, frames, rows, bf16, teacher, z_loss)
            # The exchange takes the mean over processes where the large batch has the sum.
            accelerator.backward(loss * world)
        total.add(sums)
    return total


def _batch_loss(
    model: nn.Module,
    batch: Batch,
    device: torch.device,
    weights: Sequence[float],
    frames: int | None,
    rows: int | None,
    bf16: bool,
    teacher: Teacher | None,
    z_loss: float = 0.0,
) -> tuple[Tensor, LevelSums]:
    """Return this batch's part of the loss over ``frames`` and ``rows`` in all (None: the batch is all there is)."""
    own_frames, own_rows = int(batch.lengths.sum()), len(batch.ids)
    if batch.prompt_frames is not None:
        own_frames -= int(batch.prompt_frames.sum())
    batch = batch.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        texts = (batch.text_ids, batch.text_lengths)
        output = model(*texts, batch.codes, batch.lengths, span=batch.span, prompt_frames=batch.prompt_frames)
        target = None if teacher is None else teacher.target(batch)
    first, scored = output.first_level, output.logits.shape[1]
    # `lm_loss` takes this batch's mean per level. Weighing a level by its share of the step's codes turns that mean
    # into this batch's part of the step's mean, exactly, though level 0 scores more (END too) than the others.
    share = [
        (own_frames + own_rows * (k == 0)) / ((frames or own_frames) + (rows or own_rows) * (k == 0))
        for k in range(len(weights))
    ]
    shared = [weight * part for weight, part in zip(weights, share, strict=True)]
    result = lm_loss(output, batch.codes, batch.lengths, shared, batch.prompt_frames, target, z_loss)
    used = slice(first, first + scored)
    # Where a batch scores one sampled level (the fine model), its weight is relative to the mean weight of all such.
    against = sum(weights[used]) if scored > 1 or first == 0 else sum(weights[1:]) / len(weights[1:])
    loss = result.loss * (sum(shared[used]) / against)
    sums = LevelSums.zeros(len(weights), device)
    counts = result.counts.to(sums.counts.dtype)
    sums.counts[used] = counts
    sums.sums[used] = result.per_level.to(counts.dtype) * counts
    sums.kl[used] = result.kl.to(counts.dtype) * counts
    return loss, sums


@torch.no_grad()
def validate(
    accelerator: Accelerator,
    model: nn.Module,
    dataset: GridDataset,
    plan: BatchPlan,
    *,
    max_batches: int,
    levels: int,
    bf16: bool,
    teacher: Teacher | None = None,
) -> LevelSums:
    """Score the first ``max_batches`` (0 = all) batches of the plan's first epoch, shared out over the processes.

    Always the same batches, and for a model that samples its level the same levels, so that values can be compared.
    """
    count = min(max_batches or plan.batches_per_epoch, plan.batches_per_epoch)
    world = accelerator.num_processes
    total = LevelSums.zeros(levels, accelerator.device)
    was_training = model.training
    model.eval()
    for number in range(accelerator.process_index, -(-count // world) * world, world):
        # All processes take equally many turns, repeating a batch where none is left: a sharded model works together.
        turn = number % count
        seed_step(0, "validate", turn)
        batch = dataset.batch(plan.rows(turn), turn)
        sums = _batch_loss(model, batch, accelerator.device, [1.0] * levels, None, None, bf16, teacher)[1]
        if number < count:
            total.add(sums)
    model.train(was_training)
    return total.over_processes().on_cpu()
