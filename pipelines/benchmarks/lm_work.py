"""The work of a language model's training, recorded on tensors without memory from its settings alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from codec.errors import SoundloomError
from codec.store.reader import StoreReader
from lm.fine_lm import FineLM
from lm.loss import lm_loss
from lm.text.tokenizer import TextTokenizer
from lm.transformer import Block
from pipelines.benchmarks.roofline import Recorder, without_memory
from pipelines.benchmarks.training_work import Memory, Phase, Training, move_weights, peak_recomputed, state_memory
from pipelines.training.lm_settings import TrainLMSettings, make_model, open_start
from pipelines.training.recompute import recompute_activations


@dataclass(frozen=True)
class StoreShape:
    """What a language model takes from its store and texts, which a plan does not open."""

    num_levels: int = 8
    codebook_size: int = 1024
    frame_rate: float = 75.0
    vocab_size: int = 128
    text_rate: float = 15.0
    seconds: float = 10.0


def lm_training(settings: TrainLMSettings, shape: StoreShape) -> Training:
    """Count a language model's training on rows of equal length, as full as ``frames_per_batch`` allows."""
    levels = settings.levels or shape.num_levels
    shape = replace(shape, num_levels=levels)
    start = open_start(settings)
    tokenizer = start.tokenizer if start is not None else shape
    pace = shape.frame_rate / shape.text_rate, 0.0
    recorded = {}
    with without_memory():
        for recompute in (False, True):
            model = make_model(settings.model, cast(StoreReader, shape), cast(TextTokenizer, tokenizer), pace, start)
            blocks = recompute_activations(model, (Block,)) if recompute else settings.model.num_layers
            recorded[recompute] = record_lm(model.train(), settings, shape)
    work, rows, frames, units = recorded[settings.activation_checkpointing]
    times = settings.gradient_accumulation
    count = sum(p.numel() for p in model.parameters())
    operations = work.operations * times + move_weights(model.parameters(), settings.ema_decay > 0)
    kept, again = (recorded[which][0].saved for which in (False, True))
    state = state_memory(count, 0, count)
    memory = Memory(
        **state,
        activations_kept=kept,
        activations_recomputed=peak_recomputed(kept, again, blocks),
        recompute=settings.activation_checkpointing,
    )
    total = times * rows * frames
    return Training(
        f"language model ({settings.model.kind})",
        {"model": count, "transformer": sum(p.numel() for p in model.transformer.parameters())},
        [Phase("all", settings.steps, operations)],
        memory,
        total / shape.frame_rate,
        total * levels,
        times * rows * (frames + units),
    )


def record_lm(model: Any, settings: TrainLMSettings, shape: StoreShape) -> tuple[Recorder, int, int, int]:
    """Record one forward and backward pass; return it with the batch's rows, frames and text units a row."""
    longest = settings.max_frames or math.inf
    frames = int(min(shape.seconds * shape.frame_rate, longest, settings.frames_per_batch - 1))
    units = max(1, min(round(frames / shape.frame_rate * shape.text_rate), settings.frames_per_batch - frames))
    if frames < 1:
        raise SoundloomError("frames_per_batch and max_frames leave no frame; raise them, or --seconds")
    rows = max(1, settings.frames_per_batch // (frames + units))
    codes = torch.zeros(rows, shape.num_levels, frames, dtype=torch.long)
    text = torch.zeros(rows, units, dtype=torch.long)
    lengths, text_lengths = torch.full((rows,), frames), torch.full((rows,), units)
    # A fine model scores one level, sampled; the middle one costs the mean.
    own = {"level": max(1, shape.num_levels // 2)} if isinstance(model, FineLM) else {}
    recorder = Recorder()
    with recorder:
        with torch.autocast("cpu", torch.bfloat16):
            output = model(text, text_lengths, codes, lengths, **own)
        lm_loss(output, codes, lengths).loss.backward()
    return recorder, rows, frames, units
