"""What a language model's training forward returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class LMOutput:
    """Scores lined up with the codes: ``logits[:, i, t]`` scores the code of level ``first_level + i`` at frame t.

    logits [B, n, T or T + 1, outputs]; mask bool [B, n, T or T + 1], True where the score counts. With T + 1 positions,
    position ``length`` of level 0 is where END belongs.
    """

    logits: Tensor
    mask: Tensor
    first_level: int = 0
