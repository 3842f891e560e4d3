"""Levels 1 … K-1, each written for all frames at once given the levels below; and the pair of coarse and fine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.common.devices import to_device
from codec.errors import SoundloomError
from lm.config import LMConfig
from lm.generation.generate import generate_codes
from lm.generation.grid_writer import guided, guided_text
from lm.generation.request import Request
from lm.generation.sampling import sample
from lm.loss import LMOutput
from lm.prefix import PromptSpan, TextPrefix, full_mask, positions
from lm.step_lm import CoarseLM
from lm.transformer import Transformer


class FineLM(nn.Module):
    """Non-causal model of one level given all lower ones; every frame sees the text and every frame."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        if config.num_levels < 2:
            raise SoundloomError(f"num_levels is {config.num_levels}; a fine model needs at least 2")
        self.config = config
        dim, K, V = config.transformer.dim, config.num_levels, config.codebook_size
        self.prefix = TextPrefix(config)
        self.code_embedding = nn.Parameter(torch.randn((K - 1) * V, dim) * (0.3 * (K - 1) ** -0.5))
        self.level_embedding = nn.Parameter(torch.randn(K - 1, dim) * 0.3)
        self.transformer = Transformer(config.transformer)
        self.heads = nn.Parameter(torch.randn(K - 1, V, dim) * (0.64 * dim**-0.5))

    def forward(
        self,
        text_ids: Tensor,
        text_lengths: Tensor,
        codes: Tensor,
        lengths: Tensor,
        level: int | None = None,
        generator: torch.Generator | None = None,
        span: PromptSpan | None = None,
        prompt_frames: Tensor | None = None,
    ) -> LMOutput:
        """Score one level of codes [B, >= level, T] from the levels below: logits [B, 1, T, codebook_size].

        ``span``: which part of each row is its prompt, or the first of two utterances. ``prompt_frames`` is not used:
        a fine model never loses its prompt. Without ``level``, one of 1 … K-1 is sampled by ``generator`` (or the
        global one): a training step a level.
        """
        B, _, T = codes.shape
        K, V = self.config.num_levels, self.config.codebook_size
        if level is None:
            level = int(torch.randint(1, K, (), generator=generator))
        if not 1 <= level < K or codes.shape[1] < level:
            raise SoundloomError(f"level {level} cannot be scored from {codes.shape[1]} of {K} levels")
        frames = torch.arange(T, device=codes.device) < lengths[:, None]
        known = torch.where(frames[:, None], codes[:, :level].long(), 0)
        drop = None
        if self.training:
            noisy = to_device(torch.rand(known.shape, generator=generator), codes.device) < self.config.code_noise
            random = to_device(torch.randint(V, known.shape, generator=generator), codes.device)
            known = torch.where(noisy, random, known)
            drop = to_device(torch.rand(B, generator=generator) < self.config.cfg_drop, codes.device)
        text, text_lengths = self.prefix(text_ids, text_lengths, drop)
        L = text.shape[1]
        rows = (known.transpose(1, 2) + torch.arange(level, device=codes.device) * V).reshape(B * T, level)
        audio = F.embedding_bag(rows, self.code_embedding, mode="sum").view(B, T, -1)
        audio = audio + self.level_embedding[level - 1] + self.prefix.audio_type
        mask = full_mask(text_lengths, L, lengths, T)
        where = positions(self.config, L, T, text.device, span)
        hidden = self.transformer(torch.cat([text, audio], dim=1), where, mask)
        logits = F.linear(hidden[:, L:], self.heads[level - 1])
        return LMOutput(logits[:, None], frames[:, None], first_level=level)


class CoarseFineLM(nn.Module):
    """`CoarseLM`, then `FineLM`, with the face of one model: generate(text_ids, prompt_codes, …) -> codes [B, K, T]."""

    def __init__(self, coarse: CoarseLM, fine: FineLM) -> None:
        super().__init__()
        for name in ("text_vocab_size", "num_levels", "codebook_size", "frame_rate"):
            ours, theirs = getattr(coarse.config, name), getattr(fine.config, name)
            if ours != theirs:
                raise SoundloomError(f"coarse and fine model do not fit: {name} is {ours} and {theirs}")
        self.coarse = coarse
        self.fine = fine
        self.config = coarse.config

    @property
    def decoder(self) -> CoarseLM:
        return self.coarse

    def complete(
        self, codes: Tensor, lengths: Tensor, request: Request, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Write levels 1 … K-1 under level 0: codes [B, 1, T] -> [B, K, T]; the prompt's codes stay."""
        config = request.config
        T = codes.shape[2]
        prompt = F.pad(request.prompt_codes, (0, max(0, T - request.prompt_codes.shape[2])))[:, :, :T]
        index = torch.arange(T, device=codes.device)
        padding, forced = index >= lengths[:, None], index < request.prompt_lengths[:, None]
        copies = 1 if config.guidance == 1.0 else 2
        text = guided_text(request.text_ids, request.text_lengths, config.guidance)
        span = None if request.span is None else request.span.repeated(copies)
        for level in range(1, self.config.num_levels):
            output = self.fine(*text, codes.repeat(copies, 1, 1), lengths.repeat(copies), level, span=span)
            logits = guided(output.logits[:, 0], config.guidance)
            sampled = torch.full_like(codes[:, 0], self.config.end_id)
            temperature = config.temperatures(1, level)
            for row, n in enumerate(lengths.tolist()):  # a row takes a number a frame, whatever its neighbours' lengths
                sampled[row, :n] = sample(logits[row : row + 1, :n], [generators[row]], config, temperature)[0]
            sampled = torch.where(forced, prompt[:, level], sampled).masked_fill(padding, self.config.end_id)
            codes = torch.cat([codes, sampled[:, None]], dim=1)
        return codes

    def generate(self, text_ids: Tensor | Sequence[int], prompt_codes: Tensor | None = None, **options: Any) -> Tensor:
        """Write codes [B, K, T]; `lm.generation.generate.generate_codes` lists the options."""
        return generate_codes(self, text_ids, prompt_codes, **options)
