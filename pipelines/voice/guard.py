"""The guard: does a finished sentence sound like speech of the expected length?"""

from __future__ import annotations

from torch import Tensor

# From good to bad. "words": one was said twice or left out, or sound follows the text; "length": much shorter or longer
# than such a text takes; "silence": nothing, or a long hole.
FINISH_REASONS = ("end", "words", "length", "silence", "loop", "cap")
_BLOCK = 0.02  # seconds
_QUIET = 10 ** (-50 / 20)
_LONGEST_HOLE = 1.5  # seconds of quiet inside a sentence


def verdict(reason: str, wave: Tensor, sample_rate: int, expected_seconds: float) -> str:
    """Return the finish reason of a sentence: the model's own ``reason``, or a worse one that its sound shows.

    wave [C, N]. Only "end" can become "silence" or "length". ``expected_seconds``: what such a text takes on average;
    below half a second it is no evidence.
    """
    if reason != "end":
        return reason
    if _is_silent(wave, sample_rate):
        return "silence"
    seconds = wave.shape[-1] / sample_rate
    slow = seconds > 1.8 * expected_seconds and seconds > expected_seconds + 1.0
    if expected_seconds >= 0.5 and (seconds < 0.5 * expected_seconds or slow):
        return "length"
    return "end"


def _is_silent(wave: Tensor, sample_rate: int) -> bool:
    """Return whether all of wave [C, N] is quiet, or a long part of it."""
    size = max(1, round(_BLOCK * sample_rate))
    blocks = wave.mean(0)[: wave.shape[-1] // size * size].reshape(-1, size)
    quiet = (blocks.square().mean(1).sqrt() < _QUIET).tolist()
    hole = longest = 0
    for is_quiet in quiet:
        hole = hole + 1 if is_quiet else 0
        longest = max(longest, hole)
    return all(quiet) or longest * _BLOCK > _LONGEST_HOLE
