"""Pairs of utterances of one speaker: the second is learned as what follows the first, as after a prompt."""

from __future__ import annotations

import numpy as np

from lm.data.batch_plan import hash_keys

_TURNS = 100  # each turn pairs every row once, in another order


def speaker_pairs(
    count: int,
    allowed: np.ndarray,
    *,
    speakers: np.ndarray,
    frames: np.ndarray,
    units: np.ndarray,
    max_frames: int,
    seed: int,
) -> np.ndarray:
    """Return at most ``count`` pairs of rows of one speaker, int64 [pairs, 2]; ``seed`` decides which.

    Both are ``allowed`` and have text (``units`` above 0); together they have at most ``max_frames`` (0: any).
    """
    found: list[np.ndarray] = []
    for turn in range(_TURNS):
        if sum(map(len, found)) >= count:
            break
        order = np.argsort(hash_keys(seed, -2 - turn, np.arange(len(frames))))
        order = order[(units[order] > 0) & allowed[order]]
        order = order[np.argsort(speakers[order], kind="stable")]
        pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
        fits = speakers[pairs[:, 0]] == speakers[pairs[:, 1]]
        fits &= (max_frames == 0) | (frames[pairs].sum(1) <= max_frames)
        found.append(pairs[fits])
    pairs = np.concatenate(found) if found else np.zeros((0, 2), dtype=np.int64)
    # The last turn's pairs are in the speakers' order: a permutation lets none of them be cut off first.
    return pairs[np.argsort(hash_keys(seed, -1, np.arange(len(pairs))))][:count]
