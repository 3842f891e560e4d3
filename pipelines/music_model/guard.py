"""The guard: is a window of music silent, or does it repeat itself to the code?"""

from __future__ import annotations

import torch
from torch import Tensor

# From good to bad. "loop": all levels repeat a short cycle exactly, which no recording does; "silence": a long hole.
FINISH_REASONS = ("end", "loop", "silence")
_BLOCK = 0.05  # seconds
_QUIET = 10 ** (-55 / 20)
_LONGEST_HOLE = 2.0  # seconds
_MOST_QUIET = 0.5  # share of a window
_SHORTEST = 1.0  # seconds: less is no evidence
_SAME_SECONDS = 1.5  # so long may a frame stay the same; in 15 rendered clips none did for more than 0.5 s
_CYCLE_SECONDS = 2.0  # the longest cycle that is looked for
_LOOP_SECONDS, _LOOP_TIMES = 3.0, 3  # it repeats for so long, and so often


def worse(first: str, second: str) -> bool:
    """Return whether finish reason ``first`` is worse than ``second``."""
    return FINISH_REASONS.index(first) > FINISH_REASONS.index(second)


def verdict(codes: Tensor, frame_rate: float, wave: Tensor, sample_rate: int) -> str:
    """Return the finish reason of a window: codes long [K, T] and their sound [C, N]."""
    if is_silent(wave, sample_rate):
        return "silence"
    return "loop" if loops(codes, frame_rate) else "end"


def loops(codes: Tensor, frame_rate: float) -> bool:
    """Return whether codes long [K, T] repeat a cycle of up to 2 s, in all levels and for 3 s, or stay the same."""
    for period in range(1, min(round(_CYCLE_SECONDS * frame_rate), codes.shape[1] - 1) + 1):
        least = _SAME_SECONDS if period == 1 else _LOOP_SECONDS
        same = (codes[:, period:] == codes[:, :-period]).all(dim=0)
        if _longest_run(same) >= max(_LOOP_TIMES * period, round(least * frame_rate)):
            return True
    return False


def is_silent(wave: Tensor, sample_rate: int) -> bool:
    """Return whether wave [C, N] has a long quiet part, or is quiet for more than half of its length."""
    size = max(1, round(_BLOCK * sample_rate))
    blocks = wave.mean(0)[: wave.shape[-1] // size * size].reshape(-1, size)
    if len(blocks) * _BLOCK < _SHORTEST:
        return False
    quiet = blocks.square().mean(1).sqrt() < _QUIET
    return float(quiet.float().mean()) > _MOST_QUIET or _longest_run(quiet) * _BLOCK > _LONGEST_HOLE


def _longest_run(flags: Tensor) -> int:
    """Return the length of the longest run of True in flags bool [n]."""
    breaks = torch.nonzero(~flags).flatten().cpu()
    edges = torch.cat([torch.tensor([-1]), breaks, torch.tensor([len(flags)])])
    return int((edges[1:] - edges[:-1]).max()) - 1
