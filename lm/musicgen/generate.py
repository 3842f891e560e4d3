"""Writing codes with a `CrossLM`: a fixed number of frames, guided by a text, after a prompt where one is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.errors import SoundloomError
from lm.generation.generate import evaluating, guided
from lm.generation.sampling import sample
from lm.musicgen.network import CrossLM

_OPEN = -1  # a place of the grid that is still to be written


@dataclass(frozen=True)
class CrossSettings:
    """How to write. ``guidance`` above 1 pushes towards the text; temperature 0 takes the likeliest code.

    The defaults are those that MusicGen was published with.
    """

    temperature: float = 1.0
    top_k: int | None = 250
    top_p: float = 1.0
    guidance: float = 3.0

    def __post_init__(self) -> None:
        limits = {
            "temperature": self.temperature >= 0,
            "top_k": self.top_k is None or self.top_k >= 1,
            "top_p": 0 < self.top_p <= 1,
            "guidance": self.guidance >= 0,
        }
        for name, good in limits.items():
            value = getattr(self, name)
            if not good or (value is not None and not math.isfinite(value)):
                raise SoundloomError(f"{name} is {value}, which is out of its range")


@torch.inference_mode()
def generate(
    model: CrossLM,
    text_states: Tensor | None,
    text_lengths: Tensor | None,
    frames: int,
    *,
    prompt_codes: Tensor | None = None,
    seeds: Sequence[int] = (0,),
    settings: CrossSettings | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Write codes long [B, K, frames], one row a seed; prompt_codes [B, K, P] begin them and count.

    text_states float [B, L, text_dim] and text_lengths [B]; None writes without a text (and without guidance).
    ``on_step`` is told (steps taken, steps in all). Each row draws from its own generator, so that its result does not
    depend on its neighbours, up to draws within rounding (about 1e-6) of a border.
    Errors: `SoundloomError` for sizes and codes that do not fit the model.
    """
    settings = settings or CrossSettings()
    B, K, device = len(seeds), model.config.num_levels, model.heads.device
    known = torch.full((B, K, frames), _OPEN, dtype=torch.long, device=device)
    P = 0
    if prompt_codes is not None:
        _check_prompt(model, prompt_codes, B, frames)
        P = prompt_codes.shape[2]
        known[:, :, :P] = prompt_codes
    elif frames < 1:
        raise SoundloomError(f"{frames} frames: wanted at least 1")
    if frames + model.config.lag > model.config.max_steps:
        raise SoundloomError(
            f"{frames} frames are too many; this model has positions for {model.config.max_steps - model.config.lag}"
        )
    if text_states is not None and len(text_states) != B:
        raise SoundloomError(f"{len(text_states)} texts for {B} seeds; wanted one seed a text")
    both = settings.guidance != 1.0 and text_states is not None
    grid = F.pad(model.delay(known), (1, 0), value=model.config.empty_id)  # [B, K, 1 + steps]
    steps = grid.shape[2] - 1
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with evaluating(model):
        state = model.start(text_states, text_lengths, 2 * B if both else B, steps)
        taken = 0
        for s in range(P, steps):  # the prompt's steps are taken at once
            new = grid[:, :, taken : s + 1]
            scores = model.advance(state, torch.cat([new, new]) if both else new)
            scores = guided(scores, settings.guidance if both else 1.0)
            drawn = sample(scores, generators, settings.temperature, settings.top_k, settings.top_p)
            following = grid[:, :, s + 1]
            grid[:, :, s + 1] = torch.where(following == _OPEN, drawn, following)
            taken = s + 1
            if on_step is not None:
                on_step(s + 1 - P, steps - P)
    return model.undelay(grid[:, :, 1:])


def _check_prompt(model: CrossLM, prompt: Tensor, batch: int, frames: int) -> None:
    K, size = model.config.num_levels, model.config.codebook_size
    if prompt.dim() != 3 or prompt.shape[:2] != (batch, K):
        raise SoundloomError(f"prompt_codes has shape {tuple(prompt.shape)}; expected [{batch}, {K}, frames]")
    if frames <= prompt.shape[2]:
        raise SoundloomError(f"{frames} frames leave no room after a prompt of {prompt.shape[2]}; they count it too")
    if prompt.numel() and not 0 <= int(prompt.min()) <= int(prompt.max()) < size:
        raise SoundloomError(f"prompt_codes outside 0..{size - 1}: they come from another codec")
