"""One model that writes all levels, each step one code a level, with the delay pattern of `lm.delay`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from codec.errors import SoundloomError
from lm.config import LMConfig
from lm.step_lm import StepLM


@dataclass(frozen=True)
class DelayLMConfig(LMConfig):
    """Settings of `DelayLM`."""


class DelayLM(StepLM):
    """Text to codes [B, K, T] in T + K - 1 steps."""

    def __init__(self, config: DelayLMConfig) -> None:
        super().__init__(config, levels=config.num_levels)

    def first_levels(self, count: int) -> DelayLM:
        """The same model writing its first ``count`` levels only: those levels' tables, and the transformer as it is.

        It has lost what it heard of the levels above, so train it a little before use. Errors: `SoundloomError` unless
        ``count`` is 1 to the number of levels.
        """
        c = self.config
        if not 1 <= count <= c.num_levels:
            raise SoundloomError(f"{count} levels wanted; the model has levels 1 to {c.num_levels}")
        state = self.state_dict()
        state["code_embedding"] = state["code_embedding"][: count * c.num_inputs]
        state["heads"] = state["heads"][: count * c.num_outputs]
        cut = DelayLM(replace(c, num_levels=count))
        cut.load_state_dict(state)
        return cut
