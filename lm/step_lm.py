"""The machinery of models that write audio step by step: sum of embeddings in, one head a level out.

`DelayLM` writes all levels with the delay pattern, `CoarseLM` writes level 0 alone; both are this with other levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.config import LMConfig
from lm.delay import delay
from lm.generate import generate_codes
from lm.output import LMOutput
from lm.prefix import TextPrefix, causal_mask, positions
from lm.request import Request
from lm.transformer import KVCache, Transformer


@dataclass
class StepState:
    """Where a generation stands: the cache, which text keys are shown (bool [B, L]) and the audio steps taken."""

    cache: KVCache
    shown_text: Tensor
    step: int = 0


class StepLM(nn.Module):
    """Autoregressive model over audio steps after a text prefix; ``levels`` levels, level k delayed by k steps.

    The input of step s holds frame s - 1 - k of level k; its output scores frame s - k of level k.
    """

    def __init__(self, config: LMConfig, levels: int) -> None:
        super().__init__()
        self.config = config
        self.levels = levels
        dim = config.transformer.dim
        self.prefix = TextPrefix(config)
        # One table for all levels: level k owns rows k * num_inputs …, so that one lookup sums the levels.
        self.code_embedding = nn.Parameter(torch.randn(levels * config.num_inputs, dim) * (0.3 * levels**-0.5))
        self.hidden_audio = nn.Parameter(torch.zeros(dim))
        self.transformer = Transformer(config.transformer)
        self.heads = nn.Parameter(torch.randn(levels * config.num_outputs, dim) * (0.64 * dim**-0.5))

    # --- training -------------------------------------------------------------------------------------------------

    def forward(
        self,
        text_ids: Tensor,
        text_lengths: Tensor,
        codes: Tensor,
        lengths: Tensor,
        generator: torch.Generator | None = None,
    ) -> LMOutput:
        """Score codes long [B, K, T] given text_ids long [B, L]: logits [B, levels, T + 1, outputs], aligned.

        Position t scores frame t; position ``length`` of level 0 scores END, other levels are not scored there.
        While training, the config's drops are drawn from ``generator`` or the global one.
        """
        B, _, T = codes.shape
        inputs = self.step_inputs(codes[:, : self.levels], lengths)
        steps = inputs.shape[2]
        text, text_lengths = self.prefix(
            text_ids, text_lengths, self._drawn(self.config.cfg_drop, (B,), generator, codes)
        )
        L = text.shape[1]
        x = torch.cat([text, self._embed_training(inputs, generator)], dim=1)
        mask = causal_mask(text_lengths, L, steps)
        hidden = self.transformer(x, positions(self.config, L, steps, x.device), mask)[:, L:]
        # Level k's frame t is scored by step t + k. Lining up the hidden states costs less than lining up logits.
        aligned = torch.stack([hidden[:, k : k + T + 1] for k in range(self.levels)])  # [levels, B, T + 1, D]
        heads = self.heads.view(self.levels, self.config.num_outputs, -1).transpose(1, 2)
        logits = torch.bmm(aligned.flatten(1, 2), heads).view(self.levels, B, T + 1, -1).transpose(0, 1)
        frames = torch.arange(T + 1, device=codes.device)
        last = lengths[:, None] - torch.arange(self.levels, device=codes.device).clamp(max=1)  # END on level 0 only
        return LMOutput(logits, frames <= last[:, :, None])

    def step_inputs(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """Input ids of all steps: codes [B, levels, T] -> long [B, levels, T + levels].

        START before the first frame of a level, END from frame ``length`` on.
        """
        _, K, T = codes.shape
        ended = torch.arange(T, device=codes.device) >= lengths[:, None, None]
        codes = torch.where(ended, self.config.end_id, codes.long())
        delayed = delay(codes, self.config.end_id)
        for k in range(K):
            delayed[:, k, :k] = self.config.start_id
        return F.pad(delayed, (1, 0), value=self.config.start_id)

    def embed(self, inputs: Tensor) -> Tensor:
        """Sum of the levels' embeddings: ids [B, levels, S] -> [B, S, D]."""
        B, K, S = inputs.shape
        offsets = torch.arange(K, device=inputs.device) * self.config.num_inputs
        rows = (inputs.transpose(1, 2) + offsets).reshape(B * S, K)
        return F.embedding_bag(rows, self.code_embedding, mode="sum").view(B, S, -1) + self.prefix.audio_type

    def _embed_training(self, inputs: Tensor, generator: torch.Generator | None) -> Tensor:
        B, K, S = inputs.shape
        noisy = self._drawn(self.config.code_noise, (B, K, S), generator, inputs)
        if noisy is not None:
            random = torch.randint(self.config.codebook_size, (B, K, S), generator=generator).to(inputs.device)
            inputs = torch.where(noisy & (inputs < self.config.codebook_size), random, inputs)
        x = self.embed(inputs)
        hidden = self._drawn(self.config.audio_drop, (B, S, 1), generator, inputs)
        return x if hidden is None else torch.where(hidden, self.hidden_audio + self.prefix.audio_type, x)

    def _drawn(
        self, probability: float, shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor
    ) -> Tensor | None:
        """Bool mask, True with this probability; None where nothing is dropped (evaluation, or probability 0)."""
        if not self.training or probability == 0.0:
            return None
        return (torch.rand(shape, generator=generator) < probability).to(like.device)

    # --- generation -----------------------------------------------------------------------------------------------

    def start(self, text_ids: Tensor, text_lengths: Tensor, max_steps: int) -> StepState:
        """Read the text once: the state that `advance` continues for at most ``max_steps`` audio steps."""
        text, lengths = self.prefix(text_ids, text_lengths)
        B, L, _ = text.shape
        cache = self.transformer.init_cache(B, L + max_steps)
        self.transformer(text, positions(self.config, L, 0, text.device), causal_mask(lengths, L, 0), cache)
        return StepState(cache, torch.arange(L, device=text.device) < lengths[:, None])

    def advance(self, state: StepState, inputs: Tensor) -> Tensor:
        """Take the next n steps with input ids [B, levels, n]: scores [B, levels, outputs] of the last of them."""
        B, L = state.shown_text.shape
        n = inputs.shape[2]
        steps = torch.arange(state.step + n, device=inputs.device)
        audio = (steps <= steps[state.step :, None]).expand(B, n, -1)
        mask = torch.cat([state.shown_text[:, None].expand(B, n, L), audio], dim=2)[:, None]
        where = positions(self.config, 0, n, inputs.device, first_audio=state.step)
        hidden = self.transformer(self.embed(inputs), where, mask, state.cache)[:, -1]
        state.step += n
        return F.linear(hidden, self.heads).view(B, self.levels, -1)

    @property
    def decoder(self) -> StepLM:
        """What `lm.generate` takes steps with: this model itself."""
        return self

    def complete(self, codes: Tensor, request: Request) -> Tensor:
        """Nothing is left to write after the steps."""
        return codes

    def generate(self, text_ids: Tensor, prompt_codes: Tensor | None = None, **options: Any) -> Tensor:
        """Write codes [B, levels, T]; see `lm.generate.generate_codes` for the options."""
        return generate_codes(self, text_ids, prompt_codes, **options)

    @torch.no_grad()
    def attention_maps(self, text_ids: Tensor, codes: Tensor) -> Tensor:
        """Where audio looks in the text, for pictures: text_ids [L], codes [K, T] -> float [layers, heads, T, L].

        Row t is the step that writes frame t of level 0.
        """
        text_ids, codes = text_ids[None], codes[None, : self.levels]
        T = codes.shape[2]
        inputs = self.step_inputs(codes, torch.tensor([T], device=codes.device))
        text, lengths = self.prefix(text_ids, torch.tensor([text_ids.shape[1]], device=codes.device))
        L = text.shape[1]
        x = torch.cat([text, self.embed(inputs)], dim=1)
        mask = causal_mask(lengths, L, inputs.shape[2])
        maps = self.transformer.attention_maps(x, positions(self.config, L, inputs.shape[2], x.device), mask)
        return maps[:, :, L : L + T, :L]
