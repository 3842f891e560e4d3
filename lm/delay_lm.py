"""One model that writes all levels, each step one code a level, with the delay pattern of `lm.delay`."""

from __future__ import annotations

from dataclasses import dataclass

from lm.config import LMConfig
from lm.step_lm import StepLM


@dataclass(frozen=True)
class DelayLMConfig(LMConfig):
    """Settings of `DelayLM`."""


class DelayLM(StepLM):
    """Text to codes [B, K, T] in T + K - 1 steps."""

    def __init__(self, config: DelayLMConfig) -> None:
        super().__init__(config, levels=config.num_levels)
