"""Tiny language models and batches that the tests of lm share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lm.config import LMConfig, TransformerConfig
from lm.fine_lm import CoarseFineLM, FineLM
from lm.generation.generate import Generation, Stream, generate, stream
from lm.generation.grid_writer import GenerativeLM
from lm.generation.request import GenerateConfig, make_request
from lm.step_lm import CoarseLM, DelayLM, DelayLMConfig

LEVELS, CODES, TEXT = 3, 11, 20
SHAPE = TransformerConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=40)


def settings(**changes: Any) -> dict[str, Any]:
    values = dict(text_vocab_size=TEXT, num_levels=LEVELS, codebook_size=CODES, frame_rate=75.0)
    return {**values, "frames_per_text_unit": 2.5, "cfg_drop": 0.0, "transformer": SHAPE, **changes}


def delay_lm(seed: int = 0, **changes: Any) -> DelayLM:
    torch.manual_seed(seed)
    return DelayLM(DelayLMConfig(**settings(**changes))).eval()


def coarse_fine_lm(seed: int = 0) -> CoarseFineLM:
    torch.manual_seed(seed)
    coarse, fine = CoarseLM(LMConfig(**settings())), FineLM(LMConfig(**settings()))
    return CoarseFineLM(coarse, fine).eval()


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """text_ids, text_lengths, codes, lengths of four rows, one without text."""
    g = torch.Generator().manual_seed(1)
    text = torch.randint(0, TEXT, (4, 8), generator=g)
    codes = torch.randint(0, CODES, (4, LEVELS, 9), generator=g)
    return text, torch.tensor([8, 0, 4, 6]), codes, torch.tensor([9, 5, 7, 1])


def written(model: GenerativeLM, text_ids: Tensor, *parts: Any, **named: Any) -> Generation:
    """`generate` with a request made of `make_request`'s arguments."""
    return generate(model, make_request(model.config, text_ids, *parts, **named))


def streamed(
    model: GenerativeLM,
    text_ids: Tensor,
    prompt: Tensor | None = None,
    seed: int = 0,
    config: GenerateConfig | None = None,
    said: int | None = None,
    vectors: Tensor | None = None,
) -> Stream:
    """`stream` for one text [L] and its prompt [K, P]."""
    codes = None if prompt is None else prompt[None]
    units = None if said is None else torch.tensor([said])
    return stream(model, make_request(model.config, text_ids[None], None, codes, None, [seed], config, units, vectors))
