"""A request for codes: its settings, its checked tensors and how many frames it may have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.errors import SoundloomError
from lm.config import LMConfig
from lm.prefix import Earlier


@dataclass(frozen=True)
class GenerateConfig:
    """How to write.

    ``fine_temperature`` is for levels above 0 (None: the same). ``guidance`` above 1 pushes towards the text
    (classifier-free). ``max_frames`` and ``min_frames`` count the prompt; without them they follow from the text:
    cap_factor * expected frames + cap_seconds, and floor_factor * expected frames.
    A cycle of level-0 codes that repeats for ``loop_seconds`` ends the request as "loop" (0: no guard).
    ``drawn_levels``: so many levels sound like their codes (None: all). Of the levels above, the mean of all codes'
    vectors by the model's probabilities is heard: what is drawn of a level that cannot be guessed is mostly noise.
    """

    temperature: float = 0.9
    fine_temperature: float | None = None
    top_k: int | None = 100
    top_p: float = 1.0
    guidance: float = 1.0
    max_frames: int | None = None
    min_frames: int | None = None
    cap_factor: float = 2.0
    cap_seconds: float = 2.0
    floor_factor: float = 0.35
    loop_seconds: float = 1.6
    loop_period: int = 24
    drawn_levels: int | None = None

    def __post_init__(self) -> None:
        limits = {
            "temperature": self.temperature >= 0,
            "fine_temperature": self.fine_temperature is None or self.fine_temperature >= 0,
            "top_k": self.top_k is None or self.top_k >= 1,
            "top_p": 0 < self.top_p <= 1,
            "guidance": self.guidance >= 0,
            "max_frames": self.max_frames is None or self.max_frames >= 1,
            "min_frames": self.min_frames is None or self.min_frames >= 0,
            "loop_seconds": self.loop_seconds >= 0,
            "loop_period": self.loop_period >= 1,
            "drawn_levels": self.drawn_levels is None or self.drawn_levels >= 1,
        }
        for name, good in limits.items():
            value = getattr(self, name)
            if not good or (isinstance(value, float) and not math.isfinite(value)):
                raise SoundloomError(f"{name} is {value}, which is out of its range")

    def temperatures(self, levels: int, first: int = 0) -> Tensor:
        """Temperature of each level, float [levels]."""
        fine = self.temperature if self.fine_temperature is None else self.fine_temperature
        return torch.tensor([self.temperature if level == 0 else fine for level in range(first, first + levels)])


@dataclass
class Request:
    """A checked batch of requests, ready to run; ``lengths`` is filled when the decoder is done.

    ``earlier``: what of each row belongs to its prompt; None where the text is that of prompt and new audio as one.
    ``vectors`` float [n, V, D]: the codebooks of the first n levels, to make latents; None where codes are all that is
    wanted.
    """

    text_ids: Tensor
    text_lengths: Tensor
    prompt_codes: Tensor
    prompt_lengths: Tensor
    generators: list[torch.Generator]
    config: GenerateConfig
    lengths: Tensor
    earlier: Earlier | None = None
    vectors: Tensor | None = None


def make_request(
    c: LMConfig,
    text_ids: Tensor,
    text_lengths: Tensor | None,
    prompt_codes: Tensor | None,
    prompt_lengths: Tensor | None,
    seeds: Sequence[int] | None,
    config: GenerateConfig | None,
    prompt_text_lengths: Tensor | None = None,
    vectors: Tensor | None = None,
) -> Request:
    """Check everything against the model's config and fill the defaults."""
    if text_ids.dim() != 2:
        raise SoundloomError(f"text_ids has shape {tuple(text_ids.shape)}; expected [batch, units]")
    B, L = text_ids.shape
    device = text_ids.device
    lengths = torch.full((B,), L, device=device) if text_lengths is None else text_lengths.to(device).long()
    prompt = torch.zeros((B, c.num_levels, 0), device=device) if prompt_codes is None else prompt_codes
    if prompt.dim() != 3 or prompt.shape[:2] != (B, c.num_levels):
        raise SoundloomError(f"prompt_codes has shape {tuple(prompt.shape)}; expected [{B}, {c.num_levels}, frames]")
    P = prompt.shape[2]
    plengths = torch.full((B,), P, device=device) if prompt_lengths is None else prompt_lengths.to(device).long()
    seeds = list(range(B)) if seeds is None else list(seeds)
    checked = [("text_lengths", lengths, L), ("prompt_lengths", plengths, P)]
    earlier = None
    if prompt_text_lengths is not None and P:
        earlier = Earlier(prompt_text_lengths.to(device).long(), plengths)
        checked.append(("prompt_text_lengths", earlier.units, L))
    for name, value, limit in checked:
        if value.shape != (B,) or bool(((value < 0) | (value > limit)).any()):
            raise SoundloomError(f"{name} {value.tolist()}: expected {B} numbers from 0 to {limit}")
    if len(seeds) != B:
        raise SoundloomError(f"{len(seeds)} seeds for {B} requests")
    given = torch.arange(L, device=device) < lengths[:, None]
    if bool((given & ((text_ids < 0) | (text_ids >= c.text_vocab_size))).any()):
        raise SoundloomError(f"text_ids outside 0..{c.text_vocab_size - 1}: they come from another tokenizer")
    used = torch.arange(P, device=device) < plengths[:, None, None]
    prompt = prompt.to(device).long()
    if bool((used & ((prompt < 0) | (prompt >= c.codebook_size))).any()):
        raise SoundloomError(f"prompt_codes outside 0..{c.codebook_size - 1}: they come from another codec")
    prompt = torch.where(used, prompt, c.end_id)  # padding may hold anything; this embeds
    if vectors is not None and (
        vectors.dim() != 3 or len(vectors) > c.num_levels or vectors.shape[1] != c.codebook_size
    ):
        raise SoundloomError(
            f"vectors has shape {list(vectors.shape)}; wanted the codebooks of up to {c.num_levels} levels, "
            f"[levels, {c.codebook_size}, dimensions]"
        )
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    config = config or GenerateConfig()
    return Request(text_ids.long(), lengths, prompt, plengths, generators, config, lengths, earlier, vectors)


def frame_limits(request: Request, model: LMConfig) -> tuple[Tensor, Tensor]:
    """Fewest and most frames of each row, prompt included: two long [B]."""
    config, text_lengths, prompt_lengths = request.config, request.text_lengths, request.prompt_lengths
    # Where the prompt's text is told apart, its frames are known, and only the rest is expected.
    known = torch.zeros_like(prompt_lengths) if request.earlier is None else request.earlier.frames
    new_units = text_lengths if request.earlier is None else text_lengths - request.earlier.units
    expected = torch.tensor([model.expected_frames(n) for n in new_units.tolist()], dtype=torch.float64)
    expected = expected.to(text_lengths.device)
    extra = config.cap_seconds * model.frame_rate
    most = known + (expected * config.cap_factor + extra).ceil()
    most = torch.maximum(most, prompt_lengths + math.ceil(extra)).long()
    # Without text nothing tells the length: ten seconds.
    most = torch.where(text_lengths == 0, prompt_lengths + math.ceil(10 * model.frame_rate), most)
    if config.max_frames is not None:
        most = torch.full_like(most, config.max_frames)
    least = known + (expected * config.floor_factor).floor().long()
    if config.min_frames is not None:
        least = torch.full_like(least, config.min_frames)
    return torch.minimum(torch.maximum(least, prompt_lengths + 1), most), most
