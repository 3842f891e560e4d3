"""Train a language model on a token store: text in, codes out.

    python pipelines/train_lm.py --config configs/lm/delay_heart.yaml
    python pipelines/train_lm.py --config configs/lm/delay_heart.yaml --optimizer.lr 3e-4 --time_limit_minutes 60
    accelerate launch pipelines/train_lm.py --config configs/lm/delay_heart.yaml           # all GPUs of the machine
    accelerate launch --multi_gpu --num_processes 2 pipelines/train_lm.py --config …        # also without any GPU
    accelerate launch --config_file configs/accelerate_fsdp.yaml pipelines/train_lm.py --config …   # sharded (FSDP 2)

Without a GPU, `accelerate launch` needs --multi_gpu to start several processes (with --cpu it starts one and says
nothing); `torchrun --nproc_per_node 2 pipelines/train_lm.py …` does the same.

The output folder gets log.jsonl, curve.png, checkpoints/, the tokenizer in text/ and the model in best/ (averaged
weights, at the lowest validation loss). The same command again continues where the last checkpoint stands, to the
bit. SIGTERM, Ctrl-C and the time limit save before they end the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from torch import nn

from codec.store.reader import StoreReader
from lm.data.batch_plan import BatchPlan
from lm.data.dataset import Batch, prefetch
from pipelines.command_line.progress import Progress, plot_curves
from pipelines.command_line.run import run
from pipelines.command_line.settings import parse_settings
from pipelines.training.lm_run import Data, State, export, find_checkpoint, prepare_data, prepare_state
from pipelines.training.lm_settings import TrainLMSettings, open_start
from pipelines.training.lm_step import LevelSums, check_level_weights, train_step, validate
from pipelines.training.log import JsonlLog, open_tensorboard, record
from pipelines.training.optimizer import StopFlag, agree_to_stop, clip_gradients, set_learning_rate
from pipelines.training.sharding import is_sharded

_EXIT = {"SIGTERM": 143, "SIGINT": 130}


def main(argv: list[str] | None = None) -> int:
    settings = parse_settings(TrainLMSettings, argv, description=__doc__)
    with StopFlag(settings.time_limit_minutes) as stop:
        return train(settings, stop)


def train(settings: TrainLMSettings, stop: StopFlag) -> int:
    """Run the whole training; returns the exit code (143 after SIGTERM, 130 after Ctrl-C, both saved)."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    # A parameter may stay without gradient (a level that no batch of the step drew, an input drop of 0).
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    output = Path(settings.output)
    checkpoint = find_checkpoint(settings, output / "checkpoints")
    start = open_start(settings)
    data = prepare_data(accelerator, settings, output / "text", checkpoint, start)
    weights = check_level_weights(settings.level_weights, settings.model.kind, data.reader.num_levels)
    state, facts = prepare_state(accelerator, settings, data, checkpoint, start)
    model = state.model if is_sharded(state.model) else accelerator.prepare_model(state.model)

    log = JsonlLog(output / "log.jsonl")
    if accelerator.is_main_process:
        log.rewind(state.step)
    board = open_tensorboard(output, settings.tensorboard) if accelerator.is_main_process else None
    per_step = settings.gradient_accumulation * accelerator.num_processes
    own = count(state.step * per_step + accelerator.process_index, accelerator.num_processes)
    batches = prefetch(data.train, data.train_plan, own, settings.workers)
    window = Window(data.reader)
    reason = None

    with Progress(settings.steps, state.step, accelerator.is_main_process) as progress:
        introduce(progress, settings, data, state)
        while state.step < settings.steps and reason is None:
            start = time.monotonic()
            lr = set_learning_rate(state.optimizer, settings.optimizer, state.step, settings.steps)
            numbers = range(state.step * per_step, (state.step + 1) * per_step)
            sums, norm = take_step(accelerator, model, state, batches, data.train_plan, numbers, settings, weights)
            state.step += 1
            window.add(sums, sum(map(data.train_plan.frames, numbers)), time.monotonic() - start)
            progress.advance(state.step)
            reason = agree_to_stop(stop, accelerator.device)
            last = state.step == settings.steps or reason is not None

            figures: dict[str, Any] = {}
            if last or due(state.step, settings.log_every):
                epoch = state.step * per_step / data.train_plan.batches_per_epoch
                figures |= window.close(weights) | {"lr": lr, "grad_norm": norm, "epoch": epoch}
            # After a signal there may be seconds left: save, and leave the rest.
            if reason not in _EXIT and (last or due(state.step, settings.validate_every)):
                figures |= evaluate(accelerator, model, state, data, settings, weights)
            if figures and accelerator.is_main_process:
                record(log, board, state.step, figures)
                progress.show(state.step, {k: v for k, v in figures.items() if isinstance(v, float)})
            if last or due(state.step, settings.save_every):
                state.save(output / "checkpoints", facts, accelerator.is_main_process)
                if data.dev is None:
                    export(accelerator, state, data, settings)
                accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            finish(progress, settings, state, log, reason)
    batches.close()
    accelerator.wait_for_everyone()  # a process that leaves while another still talks to it dies by a signal
    accelerator.end_training()
    return _EXIT.get(reason or "", 0)


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def take_step(
    accelerator: Accelerator,
    model: nn.Module,
    state: State,
    batches: Generator[Batch, None, None],
    plan: BatchPlan,
    numbers: range,
    settings: TrainLMSettings,
    weights: list[float],
) -> tuple[LevelSums, float]:
    """Forward, backward, clip, and move the weights unless something is not finite; sums are over all processes."""
    own = train_step(
        accelerator, model, batches, plan, numbers, weights=weights, seed=settings.seed, bf16=settings.bf16
    )
    sums = own.over_processes(accelerator.device)
    norm = clip_gradients(model.parameters(), settings.optimizer.grad_clip)
    finite = math.isfinite(norm) and bool(torch.isfinite(sums.sums).all())
    ids = [] if finite else gather_object(own.ids)
    if state.bad_steps.ok(finite, state.step, ids):
        state.optimizer.step()
        state.ema.update(state.model)
    state.optimizer.zero_grad()
    return sums, norm


class Window:
    """Means over the steps since the last log line, without the time that validation and saving took."""

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader
        self._clear()

    def _clear(self) -> None:
        self._sums = LevelSums.zeros(self._reader.num_levels)
        self._frames = 0
        self._seconds = 0.0

    def add(self, sums: LevelSums, frames: int, seconds: float) -> None:
        if bool(torch.isfinite(sums.sums).all()):
            self._sums.add(sums)
        self._frames += frames
        self._seconds += seconds

    def close(self, weights: list[float]) -> dict[str, Any]:
        """Return the figures of the window and begin the next."""
        speed = self._frames / max(self._seconds, 1e-9)
        figures = {
            "loss": self._sums.loss(weights),
            "per_level": self._sums.per_level(),
            "frames_per_second": speed,
            "audio_seconds_per_second": speed / self._reader.frame_rate,
        }
        self._clear()
        return figures


def evaluate(
    accelerator: Accelerator,
    model: nn.Module,
    state: State,
    data: Data,
    settings: TrainLMSettings,
    weights: list[float],
) -> dict[str, Any]:
    """Validate the averaged weights, export them where they are the best so far; returns figures for the log."""
    if data.dev is None or data.dev_plan is None:
        return {}
    with state.ema.applied(state.model):
        sums = validate(
            accelerator,
            model,
            data.dev,
            data.dev_plan,
            max_batches=settings.validate_batches,
            levels=data.reader.num_levels,
            bf16=settings.bf16,
        )
    loss = sums.loss(weights)
    best = math.isfinite(loss) and (state.best is None or loss < state.best)
    if best:
        state.best = loss
        export(accelerator, state, data, settings)
    return {"dev_loss": loss, "dev_per_level": sums.per_level(), "best": best}


def introduce(progress: Progress, settings: TrainLMSettings, data: Data, state: State) -> None:
    """Tell what is about to be trained on what."""
    million = sum(p.numel() for p in state.model.parameters()) / 1e6
    spread = f", sharded over {torch.distributed.get_world_size()} processes" if is_sharded(state.model) else ""
    hours = data.train.lengths.sum() / data.reader.frame_rate / 3600
    progress.say(
        f"{settings.model.kind} model, {million:.1f} M parameters, {data.reader.num_levels} levels{spread}; "
        f"{len(data.train)} utterances, {hours:.2f} hours, {data.train_plan.batches_per_epoch} batches an epoch; "
        "{:.2f} frames a text unit and {:.0f} around the text".format(*data.train.pace)
    )
    for name, dataset in (("store", data.train), ("dev_store", data.dev)):
        if dataset is not None and dataset.dropped:
            identity, reason = next(iter(dataset.dropped.items()))
            progress.say(f"{name}: {len(dataset.dropped)} utterances left out; the first, {identity}: {reason}")
    if state.step:
        progress.say(f"continues after step {state.step} of {settings.steps}")


def finish(progress: Progress, settings: TrainLMSettings, state: State, log: JsonlLog, reason: str | None) -> None:
    """Draw the curves and tell how it ended."""
    keys = ["loss", "dev_loss", "per_level", "dev_per_level", "lr", "grad_norm"]
    drawn = plot_curves(log.read(), Path(settings.output) / "curve.png", keys)
    best = f", best dev loss {state.best:.4f}" if state.best is not None else ""
    why = f"stopped by {reason}, saved" if reason else "done"
    progress.say(
        f"{why} after step {state.step} of {settings.steps}{best}; {'curve.png and ' * drawn}log.jsonl tell more"
    )


if __name__ == "__main__":
    raise SystemExit(run(main))
