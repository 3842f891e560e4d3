"""List the groups of benchmarks; each yields its entries.

Peers run the same weights (EnCodec, MusicGen) or, where nobody else has our network, weights of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipelines.benchmarks.codec_cases import codec_cases
from pipelines.benchmarks.lm_cases import lm_cases, music_cases
from pipelines.benchmarks.size import Size
from pipelines.benchmarks.timing import Entry
from pipelines.benchmarks.work_cases import tokenize_cases, train_cases

CASES: dict[str, Callable[[Size], Iterator[Entry]]] = {
    "codec": codec_cases,
    "lm": lm_cases,
    "music": music_cases,
    "tokenize": tokenize_cases,
    "train": train_cases,
}
