"""Text before audio: what the text prefix is, its positions, and who may attend to whom.

The sequence is ``[text | audio]``. Text sees all text (both ways); audio sees all text and the audio up to itself.
Text is padded to the batch's longest; padding is hidden from everyone, so neighbours never change a result.

Text is placed on the audio's clock. If a row begins with another utterance (a prompt, or the first of two that are
joined for training), the clock of the text that follows starts where that utterance's audio ends, whatever its pace:

    text  | A A A A | B B B B B B |          units of A at 0, r, 2r …; of B at T_A, T_A + r, T_A + 2r …
    audio | a a a a a a a a a a a | b b b b  (r = frames_per_text_unit)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codec.common.devices import to_device
from lm.config import LMConfig


@dataclass(frozen=True)
class PromptSpan:
    """How much of each row is its prompt, or the first of two utterances: text units and frames, long [B] each."""

    units: Tensor
    frames: Tensor

    def to(self, device: torch.device | str) -> PromptSpan:
        """Return the same on ``device``."""
        return PromptSpan(to_device(self.units, device), to_device(self.frames, device))

    def repeated(self, copies: int) -> PromptSpan:
        """Return the rows ``copies`` times over, for guidance."""
        return PromptSpan(self.units.repeat(copies), self.frames.repeat(copies))


class TextPrefix(nn.Module):
    """Embeds text, or the learned null prefix where there is none (empty text, or dropped for guidance)."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.text_vocab_size + 1, config.transformer.dim)
        self.text_type = nn.Parameter(torch.zeros(config.transformer.dim))
        self.audio_type = nn.Parameter(torch.zeros(config.transformer.dim))
        nn.init.normal_(self.embedding.weight, std=0.3)
        nn.init.normal_(self.text_type, std=0.1)
        nn.init.normal_(self.audio_type, std=0.1)

    def forward(self, text_ids: Tensor, lengths: Tensor, drop: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embed text_ids long [B, L] (lengths [B], drop bool [B]) -> [B, max(L, 1), D] and the lengths in use [B]."""
        ids, lengths = with_null(text_ids, lengths, self.config.null_text_id, drop)
        return self.embedding(ids) + self.text_type, lengths


def with_null(text_ids: Tensor, lengths: Tensor, null_id: int, drop: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Replace rows without text (length 0, or ``drop``) by one null unit, and padding by the null id."""
    if text_ids.shape[1] == 0:
        text_ids = text_ids.new_full((text_ids.shape[0], 1), null_id)
    empty = lengths == 0 if drop is None else (lengths == 0) | drop
    lengths = torch.where(empty, torch.zeros_like(lengths), lengths)
    index = torch.arange(text_ids.shape[1], device=text_ids.device)
    ids = torch.where(index < lengths[:, None], text_ids, null_id)
    return ids, lengths.clamp(min=1)


def positions(
    config: LMConfig, num_text: int, num_audio: int, device: torch.device, span: PromptSpan | None = None
) -> Tensor:
    """Return rotary positions float [num_text + num_audio], or [B, …] with a span: text on the audio's clock."""
    text = torch.arange(num_text, device=device, dtype=torch.float32) * config.frames_per_text_unit
    audio = torch.arange(num_audio, device=device, dtype=torch.float32)
    if span is None:
        return torch.cat([text, audio])
    units, frames = span.units[:, None].to(text), span.frames[:, None].to(text)
    follows = torch.arange(num_text, device=device) >= units
    text = torch.where(follows, text - units * config.frames_per_text_unit + frames, text)
    return torch.cat([text, audio.expand(len(units), -1)], dim=1)


def causal_mask(text_lengths: Tensor, num_text: int, num_audio: int) -> Tensor:
    """Return who may attend to whom in ``[text | audio]``: bool [B, 1, S, S] with S = num_text + num_audio."""
    S = num_text + num_audio
    index = torch.arange(S, device=text_lengths.device)
    is_text = index < num_text
    allowed = is_text[None, :] | (~is_text[:, None] & (index[None, :] <= index[:, None]))
    shown = ~is_text | (index < text_lengths[:, None])  # [B, S]
    # Hidden text still sees itself: a query without any key would give NaN.
    return ((allowed & shown[:, None, :]) | torch.eye(S, dtype=torch.bool, device=index.device))[:, None]


def full_mask(text_lengths: Tensor, num_text: int, lengths: Tensor, num_audio: int) -> Tensor:
    """Return the mask that shows everyone all text and audio that is not padding: bool [B, 1, 1, S]."""
    index = torch.arange(num_text + num_audio, device=text_lengths.device)
    text = index < text_lengths[:, None]
    audio = (index >= num_text) & (index < num_text + lengths[:, None])
    return (text | audio)[:, None, None]
