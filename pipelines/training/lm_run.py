"""Data and state of a language model's training: made, saved, resumed and exported."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from codec.common.files import write_folder
from codec.common.seeds import seed_step
from codec.errors import SoundloomError
from codec.store.reader import StoreReader
from lm.checkpoint import KINDS, LoadedLM, save_lm
from lm.data.batch_plan import BatchPlan
from lm.data.dataset import GridDataset
from lm.llama import start_from
from lm.text.tokenizer import TextTokenizer
from lm.transformer import Block
from pipelines.command_line.settings import flatten_settings
from pipelines.training.bad_steps import BadSteps
from pipelines.training.checkpoints import (
    Checkpoint,
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
    with_prefix,
)
from pipelines.training.ema import Ema
from pipelines.training.lm_settings import TrainLMSettings, fit_to_store, make_dataset, make_model, open_store
from pipelines.training.optimizer import make_adamw
from pipelines.training.recompute import recompute_activations
from pipelines.training.saver import Saver
from pipelines.training.sharding import gather, local, shard_like, shard_model
from pipelines.training.spikes import SpikeGuard


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
    """What a training changes while it runs. All of it goes into a checkpoint."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema
    bad_steps: BadSteps
    spikes: SpikeGuard
    saver: Saver = field(default_factory=Saver)
    step: int = 0
    best: float | None = None

    def save(self, folder: Path, facts: dict[str, Any], is_main: bool, keep: int = 2) -> None:
        """Commit a checkpoint from the main process; every process must call it."""
        tensors = module_tensors(self.model, "model") | optimizer_tensors(self.optimizer, self.model)
        tensors = gather(tensors | self.ema.tensors(), keep=is_main)
        if is_main:
            facts = facts | {"best": self.best, "bad_steps": self.bad_steps.in_a_row, "spikes": self.spikes.facts()}
            self.saver.save(folder, self.step, tensors, facts, keep)

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore everything but the model's weights; `restore` restores them too."""
        load_optimizer(self.optimizer, self.model, checkpoint.tensors)
        self.ema.load(checkpoint.tensors)
        self.step = checkpoint.step
        self.best = checkpoint.fact("best", (float, int, type(None)))
        self.bad_steps.in_a_row = checkpoint.fact("bad_steps", int)
        self.spikes.load(checkpoint)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint in the middle of a run, the weights of a sharded model included."""
        saved = with_prefix(checkpoint.tensors, "model")
        for name, tensor in self.model.state_dict().items():
            local(tensor).copy_(local(shard_like(tensor, saved[name])))
        self.load(checkpoint)


def prepare_data(
    accelerator: Accelerator,
    settings: TrainLMSettings,
    text_folder: Path,
    checkpoint: Checkpoint | None,
    start: LoadedLM | None,
) -> Data:
    """Open the stores, get the tokenizer (the run's own when it resumes) and plan the batches.

    Raises:
        SoundloomError: a store is unusable, or does not fit the settings or the other store.
    """
    reader = open_store(settings.store, settings.levels)
    dev_reader = open_store(settings.dev_store, settings.levels) if settings.dev_store else None
    if dev_reader is not None:
        reader.facts.require(dev_reader.facts, str(reader.path))
    if checkpoint is None and accelerator.is_main_process:
        text = settings.text
        if start is not None and text.tokenizer:
            raise SoundloomError("text.tokenizer: leave it out; model.start_from brings its own tokenizer")
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
    budget, seed = settings.frames_per_batch, settings.seed
    plan = BatchPlan(train_set.lengths, train_set.text_lengths, budget, seed, train_set.scored)
    if dev_reader is None:
        return Data(reader, tokenizer, train_set, plan, None, None)
    dev = make_dataset(settings, dev_reader, tokenizer, train=False)
    dev_plan = BatchPlan(dev.lengths, dev.text_lengths, budget, 0, dev.scored)
    return Data(reader, tokenizer, train_set, plan, dev, dev_plan)


def prepare_state(
    accelerator: Accelerator,
    settings: TrainLMSettings,
    data: Data,
    checkpoint: Checkpoint | None,
    start: LoadedLM | None,
) -> tuple[State, dict[str, Any]]:
    """Make model, optimizer and average, from the checkpoint if there is one; return the facts of checkpoints too."""
    pace = _pace_of(checkpoint) if checkpoint is not None else data.train.pace
    if start is not None and checkpoint is None:
        fit_to_store(start, data.reader, settings)
        pace = (start.model.config.frames_per_text_unit, start.model.config.frames_around_text)
    seed_step(settings.seed, "weights")
    shape = settings.model
    if settings.distill.share:  # the teacher hides texts, so that both read the same rows
        shape = replace(shape, cfg_drop=0.0)
    model = make_model(shape, data.reader, data.tokenizer, pace, start).to(accelerator.device)
    if checkpoint is not None:
        load_module(model, checkpoint.tensors, "model")
    elif start is not None:
        model.load_state_dict(start.model.state_dict())
    elif settings.model.start_from is not None:
        start_from(model, settings.model.start_from)
    if settings.activation_checkpointing:
        recompute_activations(model, (Block,))
    if settings.compile:
        for layer in model.transformer.layers:
            layer.compile(dynamic=True)  # one graph for every length, and for every block
    shard_model(accelerator, model, model.transformer.layers)
    guard = BadSteps(shown=accelerator.is_main_process)
    spikes = SpikeGuard(settings.spike_threshold, settings.spike_patience, settings.save_every)
    averages, saver = Ema(model, settings.ema_decay), Saver(settings.save_in_background)
    state = State(model, make_adamw(model, settings.optimizer), averages, guard, spikes, saver)
    facts = {
        "kind": "lm",
        "settings": flatten_settings(settings),
        "pace": list(pace),
        "codec_fingerprint": data.reader.codec_fingerprint,
        "rows": len(data.train),
        "processes": accelerator.num_processes,
    }
    if checkpoint is not None:
        if checkpoint.fact("codec_fingerprint", str) != data.reader.codec_fingerprint:
            raise SoundloomError(f"{data.reader.path}: its codec is not the one that {checkpoint.path} was trained on")
        state.load(checkpoint)
    return state, facts


def _pace_of(checkpoint: Checkpoint) -> tuple[float, float]:
    pace = checkpoint.fact("pace", list)
    if len(pace) != 2 or not all(isinstance(value, int | float) for value in pace):
        raise SoundloomError(f"{checkpoint.path}: 'pace' in its facts.json must be two numbers")
    return float(pace[0]), float(pace[1])


def export(accelerator: Accelerator, state: State, data: Data, settings: TrainLMSettings) -> None:
    """Write the model folder with the averaged weights, under another name first, so that it is never half there.

    Every process must call it; the main one writes.
    """
    model = KINDS[settings.model.kind][0](state.model.config) if accelerator.is_main_process else None
    with state.ema.applied(state.model):
        tensors = gather(state.model.state_dict(), keep=model is not None)
        if model is None:
            return
        model.load_state_dict(tensors)
    facts = replace(data.reader.facts, num_levels=data.reader.num_levels)
    write_folder(Path(settings.output) / "best", lambda place: save_lm(place, model, data.tokenizer, facts))
