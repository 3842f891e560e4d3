"""The grid of codes while it is written, step by step, and what that needs of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from codec.common.devices import to_device
from codec.errors import SoundloomError
from lm.config import LMConfig
from lm.delay import Pattern
from lm.generation.latents import LatentParts
from lm.generation.request import GenerateConfig, Request, frame_limits
from lm.generation.sampling import Sampler, refuse_broken
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
    return (with_text - without).mul_(guidance).add_(without)


def guided_text(text_ids: Tensor, text_lengths: Tensor, guidance: float) -> tuple[Tensor, Tensor]:
    """Return the batch that `guided` expects: the rows, then the same without text."""
    if guidance == 1.0:
        return text_ids, text_lengths
    return torch.cat([text_ids, text_ids]), torch.cat([text_lengths, torch.zeros_like(text_lengths)])


class GridWriter:
    """The grid while it is written, as the inputs of steps: ``inputs[:, k, s]`` is what level k gives step s.

    What decides a row's end is kept as Python numbers, a list for each row: one transfer a step from another device,
    and on a CPU less time than the tensors of a few numbers would take.
    """

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
        self.prompts: list[int] = request.prompt_lengths.tolist()
        self.limits: list[tuple[int, int]] = list(zip(self.least.tolist(), self.most.tolist(), strict=True))
        # What prompts give to the steps in which not all levels are new yet.
        self.given: list[list[list[int]]] = self.inputs[:, :, : max(self.prompts) + self.pattern.lag + 2].tolist()
        self.ends = [UNKNOWN] * B
        self.reasons = [""] * B
        self.guards = [
            LoopGuard(config, self.settings.frame_rate, self.given[row][0][: prompt + 1])
            for row, prompt in enumerate(self.prompts)
        ]
        self.generators = [torch.Generator().manual_seed(seed) for seed in request.seeds]
        self.sampler = Sampler(config, config.temperatures(self.pattern.levels), marks=True).to(device)
        # The prompt's inputs are known: the first advance takes all steps up to the shortest prompt's end at once.
        self.step = min(self.prompts)
        self.taken = 0
        hides = self.settings.guide_prompt and config.guidance != 1.0
        self.hidden_until = int(self.pattern.free_of(request.prompt_lengths).max()) if hides else 0
        self.state = self._start()
        self.parts: LatentParts | None = None
        if request.vectors is not None:
            if len(request.vectors) > self.pattern.levels:
                raise SoundloomError(
                    f"latents of {len(request.vectors)} levels: this model writes {self.pattern.levels} step by step, "
                    "others afterwards"
                )
            self.parts = LatentParts(self.pattern, request.vectors, config.sampled_levels, B, self.inputs.shape[2])

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
        state = self.decoder.start(*text, max_steps=self.inputs.shape[2], span=span)
        fix = getattr(self.decoder, "fix_shapes", None)
        if fix is not None:
            fix(state)
        return state

    # --- what the grid knows of itself ----------------------------------------------------------------------------

    @property
    def lengths(self) -> Tensor:
        """Frames of each row, long [B]; `UNKNOWN` until its end is written."""
        return torch.tensor(self.ends, device=self.inputs.device)

    @property
    def done(self) -> Tensor:
        """Rows whose last frame has all its levels: bool [B]."""
        return torch.tensor([self._is_done(row) for row in range(len(self.ends))], device=self.inputs.device)

    @property
    def finished(self) -> bool:
        """Whether all rows are `done`."""
        return all(self._is_done(row) for row in range(len(self.ends)))

    @property
    def runs(self) -> Tensor:
        """For how many codes each row's level 0 has repeated the code of p places before: long [B, loop_period]."""
        return torch.tensor([guard.runs() for guard in self.guards], device=self.inputs.device)

    @property
    def latents(self) -> Tensor:
        """Latents so far, [B, steps, D], zero in the prompt and after the end; those of the last frames are partial."""
        assert self.parts is not None
        return self.parts.until(self.request.prompt_lengths, self.lengths)

    def frame(self, row: int, frame: int) -> tuple[Tensor, Tensor | None]:
        """Return a whole frame's codes [K], and its latent [D] if asked for."""
        latent = None if self.parts is None else self.parts.frame(row, frame)
        return self.pattern.frame_of(self.inputs[row], frame), latent

    def grid(self) -> Tensor:
        """Return the codes so far, not delayed: [B, K, T], T = the longest row."""
        codes = self.pattern.frames_of(self.inputs, max(self.ends))
        padding = torch.arange(codes.shape[2], device=codes.device) >= self.lengths[:, None, None]
        return codes.masked_fill(padding, self.settings.end_id)

    def _is_done(self, row: int) -> bool:
        return self.step >= self.pattern.steps(self.ends[row])

    # --- a step ---------------------------------------------------------------------------------------------------

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
        self.taken = s + 1
        rows = [row for row, prompt in enumerate(self.prompts) if s >= prompt and not self._is_done(row)]
        if rows:
            self._write(rows, scores, s)
        self.step = s + 1

    def _write(self, rows: list[int], scores: Tensor, s: int) -> None:
        """Sample the codes of step s of some rows, and add their part of the latents."""
        config, end = self.request.config, self.settings.end_id
        logits = guided(scores, config.guidance).float()
        # With all rows and with guidance, the logits are a tensor of their own already.
        chosen = None if len(rows) == len(self.ends) else to_device(torch.tensor(rows), scores.device)
        if chosen is not None:
            logits, scores = logits[chosen], scores[chosen]
        elif config.guidance == 1.0:
            logits = logits.clone()
        ending = logits[..., end]
        ending[:, 1:] = -math.inf
        for place, row in enumerate(rows):
            if s < self.limits[row][0]:
                ending[place, 0] = -math.inf
        codes = self.sampler(logits, [self.generators[row] for row in rows])
        sampled = codes.tolist()  # the only time in a step that the host waits for the device
        refuse_broken(sampled)
        written = self._checked(rows, sampled, s)
        if written is not None:
            codes = to_device(torch.tensor(written), codes.device)
        if chosen is None:
            self.inputs[..., s + 1] = codes
        else:
            self.inputs[chosen, :, s + 1] = codes
        if self.parts is not None:
            # The rows with text come first. Guidance sharpens what is sampled; a mean needs plain probabilities.
            self.parts.add(s, chosen, codes, scores[: len(rows)])

    def _checked(self, rows: list[int], codes: list[list[int]], s: int) -> list[list[int]] | None:
        """Note which rows end at step s; return what is written for sampled codes [rows, K], None if it is the same."""
        changed = False
        for row, own in zip(rows, codes, strict=True):
            prompt, before = self.prompts[row], self.ends[row]
            if before == UNKNOWN:
                self._end(row, own[0], s)
            if s - self.pattern.lag < prompt or s >= self.ends[row]:
                for level, delay in enumerate(self.pattern.delays):
                    frame = s - delay
                    if frame < prompt:
                        own[level] = self.given[row][level][s + 1]
                    elif frame >= self.ends[row]:
                        own[level] = self.settings.end_id
                changed = True
            if before == UNKNOWN and self.guards[row].push(own[0]) and self.ends[row] == UNKNOWN:
                self.ends[row], self.reasons[row] = s + 1, "loop"
        return codes if changed else None

    def _end(self, row: int, code: int, s: int) -> None:
        """End a row that is as long as it may be, or whose level 0 is END."""
        if s >= self.limits[row][1]:
            self.ends[row], self.reasons[row] = s, "cap"
        elif code == self.settings.end_id:
            self.ends[row], self.reasons[row] = s, "end"


class LoopGuard:
    """Notices that a row repeats itself: a cycle of a few level-0 codes that has come again and again."""

    def __init__(self, config: GenerateConfig, frame_rate: float, before: Sequence[int]) -> None:
        """``before``: level 0's inputs so far, START first (which equals no code)."""
        self.period = config.loop_period
        self.least = torch.tensor(config.loop_seconds * frame_rate).item()  # in codes; 0: no guard
        self.before = list(before)[-self.period :]
        self.repeats: dict[int, int] = {}  # period -> codes that equal the one a period before, without a break

    def push(self, code: int) -> bool:
        """Take the next code; return whether a cycle has repeated for long."""
        if not self.least:
            return False
        repeats = self.repeats
        periods = [period for period, old in enumerate(reversed(self.before), 1) if old == code]
        self.repeats = {period: repeats.get(period, 0) + 1 for period in periods}
        self.before.append(code)
        del self.before[: -self.period]
        return any(count >= max(3 * period, self.least) for period, count in self.repeats.items())

    def runs(self) -> list[int]:
        """Return the repeats of each period, 1 first."""
        return [self.repeats.get(period, 0) for period in range(1, self.period + 1)]
