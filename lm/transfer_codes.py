"""Initialise a language model's code tables for a new codec from paired grids of the same recordings.

A codec that is trained further gives other codes, and a language model would have to start again. With grids of the
same recordings by both codecs, each new code starts as the mean of the old codes in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from codec.errors import SoundloomError
from codec.store.reader import StoreReader
from lm.fine_lm import FineLM
from lm.step_lm import StepLM


def count_pairs(old: StoreReader, new: StoreReader, limit: int = 50_000) -> np.ndarray:
    """Count how often a new code replaces an old one: int64 [K, new code, old code], over rows of the same id.

    At most ``limit`` rows are read.

    Raises: SoundloomError where the stores have other shapes, or share no recording with the same number of frames.
    """
    for name in ("num_levels", "codebook_size", "frame_rate"):
        ours, theirs = getattr(new, name), getattr(old, name)
        if ours != theirs:
            raise SoundloomError(f"{old.path}: its {name} is {theirs}, that of {new.path} is {ours}; they must agree")
    K, V = new.num_levels, new.codebook_size
    places = {old.id(row): row for row in range(len(old))}
    shared = ((places[name], row) for row in range(len(new)) if (name := new.id(row)) in places)
    counts = np.zeros((K, V * V), np.int64)
    rows = 0
    for pieces in _batches(old, new, islice(shared, limit)):
        rows += len(pieces)
        cells = np.concatenate(pieces, axis=1)
        for k in range(K):
            counts[k] += np.bincount(cells[k], minlength=V * V)
    if not rows:
        raise SoundloomError(f"{old.path} and {new.path} share no recording (the same id and number of frames)")
    return counts.reshape(K, V, V)


def _batches(old: StoreReader, new: StoreReader, pairs: Iterator[tuple[int, int]]) -> Iterator[list[np.ndarray]]:
    """Yield cells new * V + old, [K, T] a recording, some hundred recordings at a time."""
    while some := list(islice(pairs, 500)):
        grids = ((old.codes(a).numpy(), new.codes(b).numpy()) for a, b in some)
        cells = [n.astype(np.int64) * new.codebook_size + o for o, n in grids if o.shape == n.shape]
        if cells:
            yield cells


@torch.no_grad()
def recode(model: StepLM | FineLM, counts: np.ndarray) -> None:
    """Give every code of the new codec the mean of the old codes' rows that it replaces, in embeddings and heads.

    ``counts`` [K, new, old] are those of `count_pairs`, for all levels of the grid. A code that was never seen gets
    the mean of all, weighted by their use.
    """
    for k, table in code_tables(model):
        seen = torch.from_numpy(counts[k]).to(table.device, torch.float64)
        seen += seen.sum(0) / seen.sum()  # as if each new code had been seen once more, anywhere
        table.copy_((seen / seen.sum(1, keepdim=True)) @ table.double())


def code_tables(model: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """Yield a model's tables of codes, (level, view [codebook_size, D]): embeddings and heads, no END and START."""
    if isinstance(model, FineLM):
        K, V = model.config.num_levels, model.config.codebook_size
        for k in range(K - 1):
            yield k, model.code_embedding[k * V : (k + 1) * V]
            yield k + 1, model.heads[k]
    elif isinstance(model, StepLM):
        c = model.config
        for k in range(model.levels):
            for parameter, size in ((model.code_embedding, c.num_inputs), (model.heads, c.num_outputs)):
                yield k, parameter[k * size : k * size + c.codebook_size]
    else:
        raise SoundloomError(f"{type(model).__name__}: expected a delay, coarse or fine model")
