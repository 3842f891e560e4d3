"""The first of the pair: a model that writes level 0 alone, one step a frame."""

from __future__ import annotations

from dataclasses import dataclass

from lm.config import LMConfig
from lm.step_lm import StepLM


@dataclass(frozen=True)
class CoarseLMConfig(LMConfig):
    """Settings of `CoarseLM`; ``num_levels`` is the whole grid's, as in the store."""


class CoarseLM(StepLM):
    """Text to level 0, codes [B, 1, T], with END; `lm.fine_lm.FineLM` writes the other levels."""

    def __init__(self, config: CoarseLMConfig) -> None:
        super().__init__(config, levels=1)
