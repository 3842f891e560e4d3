"""Score what a voice and its anchors say, and average over sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Sequence

import numpy as np
from torch import Tensor

from codec.metrics import Summary, summarize
from pipelines.evaluation.judges import Panel
from pipelines.evaluation.tts_outputs import Item
from pipelines.evaluation.words import WordErrors, word_errors
from pipelines.voice.speech import FINISH_REASONS


def score(item: Item, reference: Tensor | None, rate: int, panel: Panel) -> None:
    """Fill in the transcript and the scores of one output."""
    if item.wave is None:
        item.scores = dict.fromkeys(panel.judges)
        return
    if panel.transcribe is not None:
        item.transcript = panel.transcribe(item.wave, rate)
    item.scores = {name: judge(item.wave, reference, rate) for name, judge in panel.judges.items()}
    if reference is not None:
        item.scores["duration ratio"] = item.wave.shape[0] / reference.shape[0]


def item_errors(
    texts: Sequence[str], items: Sequence[Item], shift: int = 0, spelled: Container[int] = ()
) -> WordErrors:
    """Return the word errors of the items against their sentences, or those ``shift`` further on (a floor).

    ``spelled``: places of the sentences that spell (`pipelines.evaluation.words.spelled_words`).
    """
    references = [texts[(item.index + shift) % len(texts)] for item in items]
    return word_errors(references, [item.transcript for item in items], [item.index for item in items], spelled=spelled)


def has_errors(texts: Sequence[str], item: Item, spelled: Container[int] = ()) -> bool:
    """Return whether any word of one output is wrong."""
    return item_errors(texts, [item], spelled=spelled).corpus.mean > 0


def mean_score(items: Sequence[Item], name: str) -> Summary:
    """Return the mean of a score over sentences, each the mean of its seeds."""
    grouped: dict[int, list[float]] = {}
    failed = 0
    for item in items:
        value = (item.scores or {}).get(name)
        if value is None or not math.isfinite(value):
            failed += 1
        else:
            grouped.setdefault(item.index, []).append(value)
    summary = summarize([float(np.mean(values)) for values in grouped.values()])
    return Summary(summary.mean, summary.low, summary.high, summary.n, failed)


def endings(items: Sequence[Item]) -> dict[str, int]:
    """Return how often each finish reason occurs."""
    counted = Counter(item.finish_reason for item in items)
    return {reason: counted.get(reason, 0) for reason in (*FINISH_REASONS, "error")}
