"""Writing codes with a `MusicGenLM`: a fixed number of frames, guided by a text, after a prompt where one is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.errors import SoundloomError
from lm.generation.generate import evaluating
from lm.generation.grid_writer import guided
from lm.generation.sampling import Sampler, SamplingConfig
from lm.musicgen.network import MusicGenLM

_OPEN = -1  # a place of the grid that is still to be written


@dataclass(frozen=True)
class MusicGenSampling(SamplingConfig):
    """How to sample; the defaults are those that MusicGen was published with."""

    temperature: float = 1.0
    top_k: int | None = 250
    guidance: float = 3.0


def generate(
    model: MusicGenLM,
    text_states: Tensor | None,
    text_lengths: Tensor | None,
    frames: int,
    *,
    prompt_codes: Tensor | None = None,
    seeds: Sequence[int] = (0,),
    settings: SamplingConfig | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Write codes long [B, K, frames], one row a seed; prompt_codes [B, K, P] begin them and count.

    text_states float [B, L, text_dim] and text_lengths [B]; None writes without a text (and without guidance).
    ``on_step`` is called with (steps taken, steps in all). Each row has its own generator, so its result does not
    depend on its neighbours, up to samples within rounding (about 1e-6) of a border.

    Raises: SoundloomError for sizes and codes that do not fit the model.
    """
    settings = settings or MusicGenSampling()
    _check_sizes(model, text_states, frames, len(seeds), prompt_codes)
    with torch.inference_mode(), evaluating(model):
        codes = _written(model, (text_states, text_lengths), frames, prompt_codes, seeds, settings, on_step)
    return codes.clone()  # made out here, it can be used in training


def _written(
    model: MusicGenLM,
    text: tuple[Tensor | None, Tensor | None],
    frames: int,
    prompt: Tensor | None,
    seeds: Sequence[int],
    settings: SamplingConfig,
    on_step: Callable[[int, int], None] | None,
) -> Tensor:
    B, K, device = len(seeds), model.config.num_levels, model.heads.device
    P = 0 if prompt is None else prompt.shape[2]
    known = torch.full((B, K, frames), _OPEN, dtype=torch.long, device=device)
    if prompt is not None:
        known[:, :, :P] = prompt
    both = settings.guidance != 1.0 and text[0] is not None
    grid = model.step_inputs(known)  # [B, K, 1 + steps]
    steps = grid.shape[2] - 1
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    sampler = Sampler(settings, settings.temperatures(K)).to(device)
    state = model.start(*text, 2 * B if both else B, steps)
    taken = 0
    for s in range(P, steps):  # the prompt's steps are taken at once
        new = grid[:, :, taken : s + 1]
        scores = model.advance(state, torch.cat([new, new]) if both else new)
        sampled = sampler(guided(scores, settings.guidance if both else 1.0), generators)
        following = grid[:, :, s + 1]
        grid[:, :, s + 1] = torch.where(following == _OPEN, sampled, following)
        taken = s + 1
        if on_step is not None:
            on_step(s + 1 - P, steps - P)
    return model.pattern.frames_of(grid, frames)


def _check_sizes(model: MusicGenLM, text_states: Tensor | None, frames: int, rows: int, prompt: Tensor | None) -> None:
    K, size, longest = model.config.num_levels, model.config.codebook_size, model.config.max_steps - model.config.lag
    if rows == 0:
        raise SoundloomError("no seeds; give one a row")
    if text_states is not None and len(text_states) != rows:
        raise SoundloomError(f"{len(text_states)} texts for {rows} seeds; give one seed a text")
    if frames > longest:
        raise SoundloomError(f"{frames} frames are too many; this model has positions for {longest}")
    if prompt is None:
        if frames < 1:
            raise SoundloomError(f"{frames} frames: expected at least 1")
        return
    if prompt.dim() != 3 or prompt.shape[:2] != (rows, K):
        raise SoundloomError(f"prompt_codes has shape {tuple(prompt.shape)}; expected [{rows}, {K}, frames]")
    if frames <= prompt.shape[2]:
        raise SoundloomError(f"{frames} frames leave no room after a prompt of {prompt.shape[2]}; they count it too")
    if prompt.numel() and not 0 <= int(prompt.min()) <= int(prompt.max()) < size:
        raise SoundloomError(f"prompt_codes outside 0..{size - 1}: they come from another codec")
