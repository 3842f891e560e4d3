"""The delay pattern: level k runs k steps behind level 0, so that one step can write all levels.

Each column is one step of the model; `.` is the fill. K = 3 levels, T = 4 frames, `a0` is level a's frame 0::

    codes            delay(codes)
    a0 a1 a2 a3      a0 a1 a2 a3  .  .
    b0 b1 b2 b3  ->   . b0 b1 b2 b3  .
    c0 c1 c2 c3       .  . c0 c1 c2 c3

Within a step a level knows all lower levels of its own frame (they were written in earlier steps), which is what a
residual quantizer needs; K levels cost T + K - 1 steps instead of T * K.
"""

from __future__ import annotations

from torch import Tensor


def delay(codes: Tensor, fill: int) -> Tensor:
    """Shift level k right by k: codes [B, K, T] -> [B, K, T + K - 1], the gaps holding ``fill``."""
    B, K, T = codes.shape
    out = codes.new_full((B, K, T + K - 1), fill)
    for k in range(K):
        out[:, k, k : k + T] = codes[:, k]
    return out


def undelay(delayed: Tensor) -> Tensor:
    """Undo `delay`: [B, K, T + K - 1] -> codes [B, K, T]."""
    B, K, S = delayed.shape
    T = S - K + 1
    if T < 0:
        raise ValueError(f"{S} steps are too few for {K} delayed levels")
    out = delayed.new_empty((B, K, T))
    for k in range(K):
        out[:, k] = delayed[:, k, k : k + T]
    return out
