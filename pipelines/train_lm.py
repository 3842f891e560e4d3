"""Train a language model on a token store: text in, codes out.

    python pipelines/train_lm.py --config configs/lm_delay_heart.yaml
    python pipelines/train_lm.py --config configs/lm_delay_heart.yaml --optimizer.lr 3e-4 --time_limit_minutes 60
    accelerate launch pipelines/train_lm.py --config configs/lm_delay_heart.yaml           # all GPUs of the machine
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
import os
import shutil
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from torch import nn

from codec.errors import SoundloomError
from codec.store import StoreReader
from lm.checkpoint import KINDS, LoadedLM, save_lm
from lm.data import Batch, BatchPlan, GridDataset, prefetch
from lm.text import TextTokenizer
from lm.transformer import Block
from pipelines.checkpoints import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from pipelines.cli import run
from pipelines.lm_settings import (
    FIXED_AT_START,
    TrainLMSettings,
    fit_to_store,
    make_dataset,
    make_model,
    open_start,
    open_store,
)
from pipelines.lm_steps import LevelSums, check_level_weights, train_step, validate
from pipelines.progress import Progress, plot_curves
from pipelines.settings import changed_settings, flatten_settings, parse_settings
from pipelines.sharding import gather, is_sharded, shard_model
from pipelines.training import (
    BadSteps,
    Ema,
    StopFlag,
    agree_to_stop,
    clip_gradients,
    make_adamw,
    recompute_activations,
    seed_step,
    set_learning_rate,
)
from pipelines.training_log import JsonlLog, open_tensorboard, record

_EXIT = {"SIGTERM": 143, "SIGINT": 130}


@dataclass
class Data:
    """Both stores as datasets with their orders, and the tokenizer that they share."""

    reader: StoreReader
    tokenizer: TextTokenizer
    train: GridDataset
    train_plan: BatchPlan
    dev: GridDataset | None
    dev_plan: BatchPlan | None


@dataclass
class State:
    """What a training changes while it runs; all of it goes into a checkpoint."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema
    bad_steps: BadSteps
    step: int = 0
    best: float | None = None

    def save(self, folder: Path, facts: dict[str, Any], is_main: bool) -> None:
        """Commit a checkpoint from the main process; every process must call it."""
        tensors = module_tensors(self.model, "model") | optimizer_tensors(self.optimizer, self.model)
        tensors = gather(tensors | self.ema.tensors(), keep=is_main)
        if is_main:
            facts = facts | {"best": self.best, "bad_steps": self.bad_steps.in_a_row}
            save_checkpoint(folder, self.step, tensors, facts)

    def load(self, checkpoint: Checkpoint) -> None:
        """Take everything but the model's weights, which are loaded before it may be sharded."""
        load_optimizer(self.optimizer, self.model, checkpoint.tensors)
        self.ema.load(checkpoint.tensors)
        self.step = checkpoint.step
        self.best = checkpoint.facts["best"]
        self.bad_steps.in_a_row = checkpoint.facts["bad_steps"]


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
    start = open_start(settings.model)
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


def find_checkpoint(settings: TrainLMSettings, folder: Path) -> Checkpoint | None:
    """Return what to continue from; refuse to start anew on top of an earlier run, and settings that cannot change."""
    if settings.resume == "never" and list_checkpoints(folder):
        raise SoundloomError(f"{folder}: holds checkpoints of an earlier run; choose another output, or resume auto")
    checkpoint = load_checkpoint(folder)
    if checkpoint is None:
        return None
    for key, (old, new) in changed_settings(checkpoint.facts["settings"], flatten_settings(settings)).items():
        if key in FIXED_AT_START:
            raise SoundloomError(f"{key}: the run in {settings.output} began with {old!r}, so {new!r} cannot be used")
    return checkpoint


def prepare_data(
    accelerator: Accelerator,
    settings: TrainLMSettings,
    text_folder: Path,
    checkpoint: Checkpoint | None,
    start: LoadedLM | None,
) -> Data:
    """Open the stores, get the tokenizer (the run's own when it resumes) and lay out the batches."""
    reader = open_store(settings.store, settings.levels)
    dev_reader = open_store(settings.dev_store, settings.levels) if settings.dev_store else None
    if dev_reader is not None:
        reader.facts.require(dev_reader.facts, str(reader.path))
    if checkpoint is None and accelerator.is_main_process:
        text = settings.text
        if start is not None and text.tokenizer:
            raise SoundloomError("text.tokenizer: leave it out, model.start_from brings the tokenizer that it knows")
        if start is not None:
            start.tokenizer.save_pretrained(text_folder)
        elif text.tokenizer:
            TextTokenizer.from_pretrained(text.tokenizer).save_pretrained(text_folder)
        else:
            texts = (reader.text(row) for row in range(len(reader)))
            TextTokenizer.train(texts, text_folder, text.vocab_size, text.model_type, text.lexicon)
    accelerator.wait_for_everyone()
    tokenizer = TextTokenizer.from_pretrained(text_folder)
    train_set = make_dataset(settings, reader, tokenizer, train=True)
    plan = BatchPlan(train_set.lengths, train_set.text_lengths, settings.frames_per_batch, settings.seed)
    if dev_reader is None:
        return Data(reader, tokenizer, train_set, plan, None, None)
    dev = make_dataset(settings, dev_reader, tokenizer, train=False)
    dev_plan = BatchPlan(dev.lengths, dev.text_lengths, settings.frames_per_batch, seed=0)
    return Data(reader, tokenizer, train_set, plan, dev, dev_plan)


def prepare_state(
    accelerator: Accelerator,
    settings: TrainLMSettings,
    data: Data,
    checkpoint: Checkpoint | None,
    start: LoadedLM | None,
) -> tuple[State, dict[str, Any]]:
    """Make model, optimizer and average, from the checkpoint where there is one; also a checkpoint's fixed facts."""
    pace = tuple(checkpoint.facts["pace"]) if checkpoint else data.train.pace
    if start is not None and checkpoint is None:
        fit_to_store(start, data.reader, settings)
        pace = (start.model.config.frames_per_text_unit, start.model.config.frames_around_text)
    seed_step(settings.seed, "weights")
    model = make_model(settings.model, data.reader, data.tokenizer, pace, start).to(accelerator.device)
    if checkpoint is not None:
        load_module(model, checkpoint.tensors, "model")
    if settings.activation_checkpointing:
        recompute_activations(model, (Block,))
    if settings.compile:
        for layer in model.transformer.layers:
            layer.compile(dynamic=True)  # one graph for every length, and for every block
    shard_model(accelerator, model, model.transformer.layers)
    guard = BadSteps(shown=accelerator.is_main_process)
    state = State(model, make_adamw(model, settings.optimizer), Ema(model, settings.ema_decay), guard)
    facts = {
        "settings": flatten_settings(settings),
        "pace": list(pace),
        "codec_fingerprint": data.reader.codec_fingerprint,
        "rows": len(data.train),
        "processes": accelerator.num_processes,
    }
    if checkpoint is not None:
        if checkpoint.facts["codec_fingerprint"] != data.reader.codec_fingerprint:
            raise SoundloomError(f"{data.reader.path}: its codec is not the one that {checkpoint.path} was trained on")
        state.load(checkpoint)
    return state, facts


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


def export(accelerator: Accelerator, state: State, data: Data, settings: TrainLMSettings) -> None:
    """Write the model folder with the averaged weights, beside its place first, so that it is never half there.

    Every process must call it; the main one writes.
    """
    model = KINDS[settings.model.kind][0](state.model.config) if accelerator.is_main_process else None
    with state.ema.applied(state.model):
        tensors = gather(state.model.state_dict(), keep=model is not None)
        if model is None:
            return
        model.load_state_dict(tensors)
    folder = Path(settings.output) / "best"
    fresh, old = folder.with_name(f".tmp-{folder.name}"), folder.with_name(f".tmp-old-{folder.name}")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    save_lm(fresh, model, data.tokenizer, replace(data.reader.facts, num_levels=data.reader.num_levels))
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


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
