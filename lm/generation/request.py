"""A request for codes, built once and handed down: its settings, its checked tensors, its limits in frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import torch
from torch import Tensor

from codec.errors import SoundloomError, quoted
from lm.config import LMConfig, check_number
from lm.generation.sampling import SamplingConfig
from lm.prefix import PromptSpan

MOST_FRAMES = 100_000  # of one row: above half an hour at 50 frames a second
SECONDS_WITHOUT_TEXT = 10


@dataclass(frozen=True)
class GenerateConfig(SamplingConfig):
    """How to sample, and where to stop.

    ``max_frames`` and ``min_frames`` count the prompt; without them they follow from the text:
    cap_factor * expected frames + cap_seconds, and floor_factor * expected frames.
    A cycle of at most ``loop_period`` level-0 codes that repeats for ``loop_seconds`` ends the row as "loop" (0: no
    guard). ``sampled_levels``: the first n levels are decoded as sampled codes (None: all). The levels above are
    decoded from expected latents: the mean of all codes' vectors under the model's probabilities. What is sampled of a
    level that cannot be guessed is mostly noise.
    """

    max_frames: int | None = None
    min_frames: int | None = None
    cap_factor: float = 2.0
    cap_seconds: float = 2.0
    floor_factor: float = 0.35
    loop_seconds: float = 1.6
    loop_period: int = 24
    sampled_levels: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("max_frames", self.max_frames, int, 1, MOST_FRAMES, optional=True)
        check_number("min_frames", self.min_frames, int, 0, MOST_FRAMES, optional=True)
        check_number("cap_factor", self.cap_factor, float, 0, 10)
        check_number("cap_seconds", self.cap_seconds, float, 0, 60)
        check_number("floor_factor", self.floor_factor, float, 0, 10)
        check_number("loop_seconds", self.loop_seconds, float, 0, 60)
        check_number("loop_period", self.loop_period, int, 1, 1000)
        check_number("sampled_levels", self.sampled_levels, int, 1, 1024, optional=True)


@dataclass(frozen=True)
class Request:
    """A checked batch of requests, as `make_request` builds it; running it changes nothing in it.

    text_ids long [B, L] and text_lengths [B], the prompt's text first; prompt_codes long [B, K, P] and prompt_lengths
    [B]; one seed a row. ``span``: which part of each row is its prompt; None if the text is one for prompt and new
    audio. ``vectors`` float [n, V, D]: the codebooks of the first n levels, to return latents as well.
    """

    text_ids: Tensor
    text_lengths: Tensor
    prompt_codes: Tensor
    prompt_lengths: Tensor
    seeds: tuple[int, ...]
    config: GenerateConfig
    span: PromptSpan | None = None
    vectors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.seeds)

    def rows(self, rows: Sequence[int], seeds: Sequence[int]) -> Request:
        """Return the request of some rows, with other seeds."""
        chosen = list(rows)
        span = None
        if self.span is not None:
            span = PromptSpan(self.span.units[chosen], self.span.frames[chosen])
        return replace(
            self,
            text_ids=self.text_ids[chosen],
            text_lengths=self.text_lengths[chosen],
            prompt_codes=self.prompt_codes[chosen],
            prompt_lengths=self.prompt_lengths[chosen],
            seeds=tuple(seeds),
            span=span,
        )


def make_request(
    model: LMConfig,
    text_ids: Tensor,
    text_lengths: Tensor | None = None,
    prompt_codes: Tensor | None = None,
    prompt_lengths: Tensor | None = None,
    seeds: Sequence[int] | None = None,
    config: GenerateConfig | None = None,
    prompt_text_lengths: Tensor | None = None,
    vectors: Tensor | None = None,
) -> Request:
    """Check everything against the model's config and fill the defaults.

    text_ids long [B, L], the prompt's text first; prompt_codes long [B, K, P]. Seeds are 0, 1 … by default.
    ``prompt_text_lengths`` long [B]: how many of a row's text units the prompt speaks (0: its words are not known); the
    clock of the others then starts where the prompt ends. Without it the text counts as one from the prompt's start.
    ``vectors`` float [n, V, D]: the codec's codebooks of the first n levels, to return latents next to the codes (only
    of levels that the model writes step by step).

    Raises: SoundloomError for ids or sizes that do not fit the model.
    """
    if text_ids.dim() != 2 or len(text_ids) == 0:
        raise SoundloomError(f"text_ids has shape {tuple(text_ids.shape)}; expected [batch, units], at least one row")
    B, L = text_ids.shape
    device = text_ids.device
    K = model.num_levels
    prompt = torch.zeros((B, K, 0), device=device) if prompt_codes is None else prompt_codes.to(device)
    if prompt.dim() != 3 or prompt.shape[:2] != (B, K):
        raise SoundloomError(f"prompt_codes has shape {tuple(prompt.shape)}; expected [{B}, {K}, frames]")
    P = prompt.shape[2]
    lengths = _row_lengths("text_lengths", text_lengths, B, L, device)
    prompt_lengths = _row_lengths("prompt_lengths", prompt_lengths, B, P, device)
    span = None
    if prompt_text_lengths is not None and P:
        units = _row_lengths("prompt_text_lengths", prompt_text_lengths, B, L, device)
        span = PromptSpan(units, prompt_lengths)
    prompt = _checked_prompt(model, prompt.long(), prompt_lengths)
    _check_text(model, text_ids, lengths)
    _check_vectors(model, vectors)
    seeds = _checked_seeds(range(B) if seeds is None else seeds, B)
    return Request(text_ids.long(), lengths, prompt, prompt_lengths, seeds, config or GenerateConfig(), span, vectors)


def _row_lengths(name: str, lengths: Tensor | None, rows: int, most: int, device: torch.device) -> Tensor:
    """Return one length a row, long [rows], each 0 to ``most``; all are ``most`` by default."""
    if lengths is None:
        return torch.full((rows,), most, device=device)
    lengths = lengths.to(device).long()
    if lengths.shape != (rows,) or bool(((lengths < 0) | (lengths > most)).any()):
        raise SoundloomError(f"{name} {quoted(lengths.tolist())}: expected {rows} numbers from 0 to {most}")
    return lengths


def _checked_prompt(model: LMConfig, prompt: Tensor, lengths: Tensor) -> Tensor:
    """Return the prompt [B, K, P] with END as its padding, which may have held anything."""
    used = torch.arange(prompt.shape[2], device=prompt.device) < lengths[:, None, None]
    if bool((used & ((prompt < 0) | (prompt >= model.codebook_size))).any()):
        raise SoundloomError(f"prompt_codes outside 0..{model.codebook_size - 1}: they come from another codec")
    return torch.where(used, prompt, model.end_id)


def _check_text(model: LMConfig, text_ids: Tensor, lengths: Tensor) -> None:
    used = torch.arange(text_ids.shape[1], device=text_ids.device) < lengths[:, None]
    if bool((used & ((text_ids < 0) | (text_ids >= model.text_vocab_size))).any()):
        raise SoundloomError(f"text_ids outside 0..{model.text_vocab_size - 1}: they come from another tokenizer")


def _check_vectors(model: LMConfig, vectors: Tensor | None) -> None:
    if vectors is None:
        return
    if vectors.dim() != 3 or len(vectors) > model.num_levels or vectors.shape[1] != model.codebook_size:
        raise SoundloomError(
            f"vectors has shape {list(vectors.shape)}; expected the codebooks of up to {model.num_levels} levels, "
            f"[levels, {model.codebook_size}, dimensions]"
        )


def _checked_seeds(seeds: Sequence[int], rows: int) -> tuple[int, ...]:
    seeds = tuple(seeds)
    if len(seeds) != rows:
        raise SoundloomError(f"{len(seeds)} seeds for {rows} rows; expected one a row")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
            raise SoundloomError(f"seed {quoted(seed)}: expected a whole number from 0 to 2^63 - 1")
    return tuple(int(seed) for seed in seeds)


def frame_limits(request: Request, model: LMConfig) -> tuple[Tensor, Tensor]:
    """Return the fewest and most frames of each row, prompt included: two long [B].

    Raises: SoundloomError where a row may take more than `MOST_FRAMES` frames.
    """
    config, text_lengths, prompt_lengths = request.config, request.text_lengths, request.prompt_lengths
    # If the prompt's text length is known, so are its frames: estimate only the rest.
    known = torch.zeros_like(prompt_lengths) if request.span is None else request.span.frames
    new_units = text_lengths if request.span is None else text_lengths - request.span.units
    expected = torch.tensor([model.expected_frames(n) for n in new_units.tolist()], dtype=torch.float64)
    expected = expected.clamp(max=2.0**40)  # on the CPU: not every device has float64
    extra = config.cap_seconds * model.frame_rate
    most = known + (expected * config.cap_factor + extra).ceil().long().to(known.device)
    most = torch.maximum(most, prompt_lengths + math.ceil(extra))
    # Without text nothing limits the length.
    most = torch.where(text_lengths == 0, prompt_lengths + math.ceil(SECONDS_WITHOUT_TEXT * model.frame_rate), most)
    if config.max_frames is not None:
        most = torch.full_like(most, config.max_frames)
    if int(most.max()) > MOST_FRAMES:
        raise SoundloomError(f"a row of up to {int(most.max()):,} frames is more than {MOST_FRAMES:,}; cut its text")
    least = known + (expected * config.floor_factor).floor().long().to(known.device)
    if config.min_frames is not None:
        least = torch.full_like(least, config.min_frames)
    return torch.minimum(torch.maximum(least, prompt_lengths + 1), most), most
