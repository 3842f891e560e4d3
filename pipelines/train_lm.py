"""Train a language model on a token store: text in, codes out.

    python pipelines/train_lm.py --config configs/lm/delay_heart.yaml
    python pipelines/train_lm.py --config configs/lm/delay_heart.yaml --optimizer.lr 3e-4 --time_limit_minutes 60
    accelerate launch pipelines/train_lm.py --config configs/lm/delay_heart.yaml           # all GPUs of the machine
    accelerate launch --multi_gpu --num_processes 2 pipelines/train_lm.py --config …        # also without any GPU
    accelerate launch --config_file configs/accelerate_fsdp.yaml pipelines/train_lm.py --config …   # sharded (FSDP 2)

Without a GPU, `accelerate launch` needs --multi_gpu to start several processes (with --cpu it silently starts one);
`torchrun --nproc_per_node 2 pipelines/train_lm.py …` does the same.

The output folder gets log.jsonl, curve.png, checkpoints/, the tokenizer in text/ and the model in best/ (averaged
weights, at the lowest validation loss). The same command resumes from the last checkpoint, exact to the bit. SIGTERM,
Ctrl-C and the time limit save before they end the run.

With distill.share above 0 it learns what a teacher samples from under guidance (configs/lm/distill.yaml); the voice
then needs no guidance: one pass a step instead of two.
"""

from __future__ import annotations

import pipelines.command_line.interrupts  # noqa: F401 - Ctrl-C while torch is imported ends in one line

# isort: split
import math
from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from codec.store.reader import StoreReader
from lm.data.dataset import Batch, prefetch
from pipelines.command_line.run import run
from pipelines.command_line.settings import parse_settings
from pipelines.training import loop
from pipelines.training.curves import Panel
from pipelines.training.lm_run import export, prepare_data, prepare_state
from pipelines.training.lm_settings import FIXED_AT_START, TrainLMSettings, open_start
from pipelines.training.lm_step import LevelSums, check_level_weights, train_step, validate
from pipelines.training.lm_teacher import open_teacher
from pipelines.training.optimizer import clip_gradients, set_learning_rate
from pipelines.training.run_lock import lock_output
from pipelines.training.run_settings import resume_point
from pipelines.training.sharding import is_sharded
from pipelines.training.stopping import StopFlag

CURVES = (
    Panel("Loss: nats a code, weighted mean over levels", ("loss",), ("dev_loss",), "lower"),
    Panel("Loss of each level: nats a code", ("per_level",), ("dev_per_level",), "lower"),
    Panel("Divergence from the teacher: nats a code", ("kl_per_level",), ("dev_kl_per_level",), "lower"),
    Panel("Learning rate", ("lr",)),
    Panel("Norm of the gradient", ("grad_norm",)),
)


def main(argv: list[str] | None = None) -> int:
    settings = parse_settings(TrainLMSettings, argv, description=__doc__)
    with StopFlag(settings.time_limit_minutes) as stop:
        accelerator = loop.start_processes(settings)
        with lock_output(settings.output, accelerator.is_main_process):
            return loop.run(LMTask(settings, accelerator), settings, accelerator, stop)


class LMTask:
    """Train a language model; see `pipelines.training.loop.Task`."""

    curves = CURVES

    def __init__(self, settings: TrainLMSettings, accelerator: Accelerator) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self.output = Path(settings.output)
        checkpoint = resume_point(settings, "lm", FIXED_AT_START)
        self.processes_before = checkpoint.facts.get("processes") if checkpoint is not None else None
        initial = open_start(settings)
        self.data = data = prepare_data(accelerator, settings, self.output / "text", checkpoint, initial)
        self.weights = check_level_weights(settings.level_weights, settings.model.kind, data.reader.num_levels)
        self.state, self.facts = prepare_state(accelerator, settings, data, checkpoint, initial)
        self.teacher = open_teacher(settings, data, accelerator.device)
        model = self.state.model
        self.model = model if is_sharded(model) else accelerator.prepare_model(model)
        self.per_step = settings.gradient_accumulation * accelerator.num_processes
        self.means = RunningMeans(data.reader, settings.distill.share, accelerator.device)
        self._norm = torch.tensor(0.0)
        self._lr = 0.0

    @property
    def finished(self) -> int:
        """Number of finished steps."""
        return self.state.step

    @property
    def _data_step(self) -> int:
        """Place in the data: finished steps, and those that were left out."""
        return self.state.step + self.state.spikes.skipped

    def introduction(self) -> list[str]:
        settings, data = self.settings, self.data
        million = sum(p.numel() for p in self.state.model.parameters()) / 1e6
        spread = f", sharded over {torch.distributed.get_world_size()} processes" if is_sharded(self.model) else ""
        hours = data.train.lengths.sum() / data.reader.frame_rate / 3600
        lines = [
            f"{settings.model.kind} model, {million:.1f} M parameters, {data.reader.num_levels} levels{spread}; "
            f"{len(data.train)} utterances, {hours:.2f} hours, {data.train_plan.batches_per_epoch} batches an epoch; "
            "{:.2f} frames a text unit and {:.0f} around the text".format(*data.train.pace)
        ]
        for name, dataset in (("store", data.train), ("dev_store", data.dev)):
            if dataset is not None and dataset.dropped:
                identity, reason = next(iter(dataset.dropped.items()))
                lines.append(f"{name}: {len(dataset.dropped)} utterances left out; the first, {identity}: {reason}")
        world = self.accelerator.num_processes
        if self.processes_before not in (None, world):
            lines.append(
                f"warning: {self.processes_before} processes before, {world} now: batches and data order change"
            )
        return [*lines, f"continues after step {self.finished} of {settings.steps}"] if self.finished else lines

    def batches(self) -> Generator[tuple[range, list[Batch]], None, None]:
        """Yield each step's batch numbers over all processes, and this process's batches among them."""
        first, world = self._data_step * self.per_step, self.accelerator.num_processes
        own = count(first + self.accelerator.process_index, world)
        with closing(prefetch(self.data.train, self.data.train_plan, own, self.settings.workers)) as ready:
            skipped = self.state.spikes.skipped
            for step in range(self.finished + skipped, self.settings.steps + skipped):
                numbers = range(step * self.per_step, (step + 1) * self.per_step)
                yield numbers, list(islice(ready, self.settings.gradient_accumulation))

    def step(self, batch: tuple[range, list[Batch]]) -> None:
        """Go forward and backward, clip, and move the weights unless something is not finite."""
        settings, state, plan = self.settings, self.state, self.data.train_plan
        numbers, batches = batch
        self._lr = set_learning_rate(state.optimizer, settings.optimizer, state.step, settings.steps)
        how: dict[str, Any] = {
            "weights": self.weights,
            "seed": settings.seed,
            "bf16": settings.bf16,
            "z_loss": settings.z_loss,
        }
        own = train_step(self.accelerator, self.model, batches, plan, numbers, **how, teacher=self.teacher)
        sums = own.over_processes()
        self._norm = clip_gradients(self.model.parameters(), settings.optimizer.grad_clip)
        # The only time in a step that the host waits for the device.
        norm, loss = torch.stack([self._norm.float(), sums.sums.sum() / sums.counts.sum()]).tolist()
        finite = math.isfinite(norm) and math.isfinite(loss)
        ids = [] if finite else gather_object(own.ids)
        if state.bad_steps.ok(finite, state.step, ids):
            state.optimizer.step()
            state.ema.update(state.model)
        state.optimizer.zero_grad()
        state.step += 1
        state.spikes.see(loss, norm)
        self.means.add(sums, sum(map(plan.frames, numbers)))

    def figures(self, seconds: float) -> dict[str, Any]:
        epoch = self._data_step * self.per_step / self.data.train_plan.batches_per_epoch
        figures = self.means.take(self.weights, seconds)
        return figures | {"lr": self._lr, "grad_norm": float(self._norm), "epoch": epoch}

    def evaluate(self) -> dict[str, Any] | None:
        data, state = self.data, self.state
        if data.dev is None or data.dev_plan is None:
            return None
        how: dict[str, Any] = {"levels": data.reader.num_levels, "bf16": self.settings.bf16, "teacher": self.teacher}
        limit, share = self.settings.validate_batches, self.settings.distill.share
        with state.ema.applied(state.model):
            sums = validate(self.accelerator, self.model, data.dev, data.dev_plan, max_batches=limit, **how)
        loss = sums.loss(self.weights, share)
        best = math.isfinite(loss) and (state.best is None or loss < state.best)
        state.best = loss if best else state.best
        figures = {"dev_loss": loss, "dev_per_level": sums.per_level(), "best": best}
        return figures | ({"dev_kl_per_level": sums.kl_per_level()} if share else {})

    def remarks(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        return []

    def export(self) -> None:
        export(self.accelerator, self.state, self.data, self.settings)

    def save(self) -> None:
        where, keep = self.output / "checkpoints", self.settings.keep_checkpoints
        self.state.save(where, self.facts, self.accelerator.is_main_process, keep)
        if self.data.dev is None:  # nothing chooses: the latest weights are exported with each checkpoint
            self.export()

    def settle(self) -> None:
        self.state.saver.wait()
        self.accelerator.wait_for_everyone()

    def rewind(self) -> bool:
        state, folder = self.state, self.output / "checkpoints"
        back = state.spikes.go_back(folder, state.step, state.restore, self.settle)
        if back:
            self.means.clear()
        return back

    def result(self) -> list[str]:
        best = f", best dev loss {self.state.best:.4f}" if self.state.best is not None else ""
        kind = {"delay": "--lm", "coarse": "--coarse", "fine": "--fine"}[self.settings.model.kind]
        model = self.output / "best"
        made = f"next: python pipelines/make_voice.py voices/mine {kind} {model}"
        return [f"model in {model}{best}", made + {"--lm": "", "--coarse": " --fine …", "--fine": " --coarse …"}[kind]]


class RunningMeans:
    """Means over the steps since the last log line."""

    def __init__(self, reader: StoreReader, share: float, device: torch.device) -> None:
        self._reader = reader
        self._device = device
        self._share = share  # of the divergence from a teacher
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._sums = LevelSums.zeros(self._reader.num_levels, self._device)
        self._frames = 0

    def add(self, sums: LevelSums, frames: int) -> None:
        self._sums.add(sums.where_finite())
        self._frames += frames

    def take(self, weights: list[float], seconds: float) -> dict[str, Any]:
        """Return the figures since the last call, which took ``seconds``, and begin anew."""
        speed = self._frames / max(seconds, 1e-9)
        sums = self._sums.on_cpu()
        figures = {
            "loss": sums.loss(weights, self._share),
            "per_level": sums.per_level(),
            "frames_per_second": speed,
            "audio_seconds_per_second": speed / self._reader.frame_rate,
        }
        figures |= {"kl_per_level": sums.kl_per_level()} if self._share else {}
        self.clear()
        return figures


if __name__ == "__main__":
    raise SystemExit(run(main))
