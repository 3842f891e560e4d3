"""The grid of codes while it is written, step by step, and what that needs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from codec.errors import SoundloomError
from lm.config import LMConfig
from lm.delay import Pattern
from lm.generation.latents import level_vectors
from lm.generation.request import Request, frame_limits
from lm.generation.sampling import sample
from lm.prefix import PromptSpan

UNKNOWN = 2**31  # a length not known yet: beyond every step


class StepDecoder(Protocol):
    """A model that writes delayed levels step by step; see `lm.step_lm.StepLM`."""

    pattern: Pattern

    def start(self, text_ids: Tensor, text_lengths: Tensor, max_steps: int, span: PromptSpan | None = None) -> Any: ...

    def advance(self, state: Any, inputs: Tensor, hidden: Tensor | None = None) -> Tensor: ...


class GenerativeLM(Protocol):
    """What `generate` needs of a model."""

    @property
    def config(self) -> LMConfig: ...

    @property
    def decoder(self) -> StepDecoder: ...

    def complete(
        self, codes: Tensor, lengths: Tensor, request: Request, generators: Sequence[torch.Generator]
    ) -> Tensor: ...


def guided(decoder_logits: Tensor, guidance: float) -> Tensor:
    """Mix guidance: with it, rows are [with text | without] (2B) -> B rows; without it they pass."""
    if guidance == 1.0:
        return decoder_logits
    with_text, without = decoder_logits.float().chunk(2)
    return without + guidance * (with_text - without)


def guided_text(text_ids: Tensor, text_lengths: Tensor, guidance: float) -> tuple[Tensor, Tensor]:
    """Return the batch that `guided` expects: the rows, then the same without text."""
    if guidance == 1.0:
        return text_ids, text_lengths
    return torch.cat([text_ids, text_ids]), torch.cat([text_lengths, torch.zeros_like(text_lengths)])


class GridWriter:
    """The grid while it is written, as the inputs of steps: ``inputs[:, k, s]`` is what level k gives step s."""

    def __init__(self, model: GenerativeLM, request: Request) -> None:
        self.decoder, self.request, self.settings = model.decoder, request, model.config
        self.pattern = self.decoder.pattern
        config, (B, device) = request.config, (len(request), request.text_ids.device)
        self.least, self.most = frame_limits(request, self.settings)
        if bool((request.prompt_lengths >= self.most).any()):
            raise SoundloomError(
                f"max_frames {int(self.most.min())} leaves no room after a prompt of "
                f"{int(request.prompt_lengths.max())} frames; it counts the prompt too"
            )
        self.inputs = self._first_inputs()
        self.first_frames = self.pattern.frames_at(0, device)
        self.lengths = torch.full((B,), UNKNOWN, dtype=torch.long, device=device)
        self.reasons = [""] * B
        self.generators = [torch.Generator().manual_seed(seed) for seed in request.seeds]
        self.temperatures = config.temperatures(self.pattern.levels).to(device)
        self.periods = torch.arange(1, config.loop_period + 1, device=device)
        self.runs = torch.zeros(B, config.loop_period, dtype=torch.long, device=device)
        self.loop_limit = torch.maximum(self.periods * 3, torch.tensor(config.loop_seconds * self.settings.frame_rate))
        # The prompt's inputs are known: the first advance takes all steps up to the shortest prompt's end at once.
        self.step = int(request.prompt_lengths.min())
        self.taken = 0
        hides = self.settings.guide_prompt and config.guidance != 1.0
        self.hidden_until = int(self.pattern.free_of(request.prompt_lengths).max()) if hides else 0
        self.state = self._start()
        if request.vectors is not None:
            if len(request.vectors) > self.pattern.levels:
                raise SoundloomError(
                    f"latents of {len(request.vectors)} levels: this model writes {self.pattern.levels} step by step, "
                    "others afterwards"
                )
            self.latents = request.vectors.new_zeros(B, self.inputs.shape[2], request.vectors.shape[2])

    def _first_inputs(self) -> Tensor:
        """Return the inputs of all steps that may come: START, the prompt's codes, END everywhere else."""
        prompt, K = self.request.prompt_codes, self.pattern.levels
        T = int(self.most.max()) + 1
        codes = prompt.new_full((len(self.request), K, T), self.settings.end_id)
        codes[:, :, : prompt.shape[2]] = prompt[:, :K, :T]
        return self.pattern.inputs(codes, self.settings.start_id, self.settings.end_id)

    def _start(self) -> Any:
        request, guidance = self.request, self.request.config.guidance
        text = guided_text(request.text_ids, request.text_lengths, guidance)
        span = request.span
        if span is not None and guidance != 1.0:
            span = span.repeated(2)
        return self.decoder.start(*text, max_steps=self.inputs.shape[2], span=span)

    @property
    def done(self) -> Tensor:
        """Rows whose last frame has all its levels: bool [B]."""
        return self.step >= self.pattern.steps(self.lengths)

    def advance(self) -> None:
        """Take the next step: score, sample, write the codes as the next step's inputs."""
        config, s = self.request.config, self.step
        new = self.inputs[:, :, self.taken : s + 1]
        new = torch.cat([new, new]) if config.guidance != 1.0 else new
        hidden = None
        if self.taken < self.hidden_until:  # the rows without text must not know the prompt either
            lost = self.pattern.reads(self.request.prompt_lengths, self.taken, s + 1)
            hidden = torch.cat([torch.zeros_like(lost), lost])
        scores = self.decoder.advance(self.state, new, hidden)
        logits = guided(scores, config.guidance).float()
        self.taken = s + 1
        rows = ((s >= self.request.prompt_lengths) & ~self.done).nonzero()[:, 0]
        if len(rows):
            codes = self._write(rows, logits[rows].clone(), s)
            if self.request.vectors is not None:
                # The rows with text come first. Guidance sharpens what is sampled; a mean needs plain probabilities.
                self._add_latents(rows, scores[rows], codes, s, self.request.vectors)
        self.step = s + 1

    def _add_latents(self, rows: Tensor, scores: Tensor, codes: Tensor, s: int, vectors: Tensor) -> None:
        """Add step s's part of the latents: scores [rows, K, outputs] and the codes [rows, K] that were written."""
        frames = s + self.first_frames[: len(vectors)]
        new = (frames >= self.request.prompt_lengths[rows, None]) & (frames < self.lengths[rows, None])
        parts = level_vectors(codes, scores, vectors, self.request.config.sampled_levels) * new[..., None]
        self.latents.index_put_((rows[:, None], frames.clamp(min=0)[None]), parts, accumulate=True)

    def _write(self, rows: Tensor, logits: Tensor, s: int) -> Tensor:
        end = self.settings.end_id
        logits[:, 1:, end] = float("-inf")
        logits[:, 0, end].masked_fill_(s < self.least[rows], float("-inf"))
        generators = [self.generators[row] for row in rows.tolist()]
        codes = sample(logits, generators, self.request.config, self.temperatures)
        open_rows = self.lengths[rows] == UNKNOWN
        capped = open_rows & (s >= self.most[rows])
        ended = open_rows & ~capped & (codes[:, 0] == end)
        self.lengths[rows[capped | ended]] = s
        frames = s + self.first_frames
        forced = frames < self.request.prompt_lengths[rows, None]
        codes = torch.where(frames < self.lengths[rows, None], codes, end)
        self.inputs[rows, :, s + 1] = torch.where(forced, self.inputs[rows, :, s + 1], codes)
        looped = open_rows & ~capped & ~ended & self._loops(rows, s)
        self.lengths[rows[looped]] = s + 1
        for reason, which in (("cap", capped), ("end", ended), ("loop", looped)):
            for row in rows[which].tolist():
                self.reasons[row] = reason
        return codes

    def _loops(self, rows: Tensor, s: int) -> Tensor:
        """Return which rows' level 0 has repeated one cycle for long: bool [rows]."""
        if self.request.config.loop_seconds == 0:
            return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        before = (s + 1 - self.periods).clamp(min=0)  # column 0 is START, which equals no code
        same = self.inputs[rows, 0, s + 1, None] == self.inputs[rows[:, None], 0, before]
        self.runs[rows] = torch.where(same, self.runs[rows] + 1, 0)
        return (self.runs[rows] >= self.loop_limit).any(dim=1)

    def grid(self) -> Tensor:
        """Return the codes so far, not delayed: [B, K, T], T = the longest row."""
        codes = self.pattern.frames_of(self.inputs, int(self.lengths.max()))
        padding = torch.arange(codes.shape[2], device=codes.device) >= self.lengths[:, None, None]
        return codes.masked_fill(padding, self.settings.end_id)
