"""Writing codes: one loop for all models, whole or as a stream, with guidance, caps and guards.

    request = make_request(model.config, text_ids, seeds=[0], config=GenerateConfig(temperature=0.8))
    codes = generate(model, request).row(0)                  # [K, T]

The loop knows only a model's face (`GenerativeLM`): a decoder that takes steps, and a completion of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from codec.common.seeds import retry_seed
from codec.errors import SoundloomError
from lm.config import LMConfig
from lm.delay import Pattern
from lm.generation.latents import level_vectors
from lm.generation.request import GenerateConfig, Request, frame_limits, make_request
from lm.generation.sampling import sample
from lm.prefix import PromptSpan

UNKNOWN = 2**31  # a length not known yet: beyond every step


@dataclass
class Generation:
    """codes long [B, K, T] (prompt included; END id after a row's ``lengths``), and why each row ended.

    ``finish_reasons``: "end" (the model wrote END), "cap" (longest allowed), "loop" (it repeated itself).
    ``attempts``: how often each row was tried. ``latents`` float [B, D, T]: what a codec's decoder gets, if asked for
    (zero in the prompt and after the end).
    """

    codes: Tensor
    lengths: Tensor
    finish_reasons: list[str]
    attempts: list[int]
    latents: Tensor | None = None

    def row(self, index: int) -> Tensor:
        """Return one request's codes [K, T], without padding."""
        return self.codes[index, :, : int(self.lengths[index])]


class Frame(NamedTuple):
    """A new frame: codes long [K], and its latent [D] if asked for."""

    codes: Tensor
    latent: Tensor | None


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


def generate(model: GenerativeLM, request: Request) -> Generation:
    """Write the codes that `make_request` asked for.

    Each row has its own seed, so its result does not depend on its neighbours, up to samples that fall within rounding
    (about 1e-6) of a border.
    """
    made = _written(model, request)
    # Clones made out here can be used in training, unlike tensors of inference mode.
    latents = None if made.latents is None else made.latents.clone()
    return replace(made, codes=made.codes.clone(), lengths=made.lengths.clone(), latents=latents)


@torch.inference_mode()
def _written(model: GenerativeLM, request: Request) -> Generation:
    with evaluating(model):
        run = GridWriter(model, request)
        while not bool(run.done.all()):
            run.advance()
        codes = model.complete(run.grid(), run.lengths, request, run.generators)
    latents = None if request.vectors is None else run.latents[:, : codes.shape[2]].transpose(1, 2)
    return Generation(codes, run.lengths, run.reasons, [1] * len(run.reasons), latents)


class Stream(Iterator[Frame]):
    """One request's new frames as soon as they are whole; then ``finish_reason`` is set.

    The delay model's frame t is whole after step t + lag. A model that refines the grid afterwards
    (coarse and fine) gives its frames all at the end.
    """

    def __init__(self, model: GenerativeLM, request: Request) -> None:
        if len(request) != 1:
            raise SoundloomError(f"a stream is one request, not {len(request)}")
        self.finish_reason: str | None = None
        self._frames = self._run(model, request)

    def __next__(self) -> Frame:
        with torch.inference_mode():
            frame = next(self._frames)
        return Frame(frame.codes.clone(), None if frame.latent is None else frame.latent.clone())

    def _run(self, model: GenerativeLM, request: Request) -> Iterator[Frame]:
        with evaluating(model):
            run = GridWriter(model, request)
        whole = run.pattern.levels == model.config.num_levels
        frame = int(request.prompt_lengths[0])
        while not bool(run.done.all()):
            with evaluating(model):
                run.advance()
            if whole and run.pattern.steps(frame + 1) <= run.step and frame < int(run.lengths[0]):
                latent = None if request.vectors is None else run.latents[0, frame]
                yield Frame(run.pattern.frame_of(run.inputs[0], frame), latent)
                frame += 1
        self.finish_reason = run.reasons[0]
        if not whole:
            with evaluating(model):
                codes = model.complete(run.grid(), run.lengths, request, run.generators)
            yield from (Frame(column, None) for column in codes[0, :, frame : int(run.lengths[0])].T)


def stream(model: GenerativeLM, request: Request) -> Stream:
    """Write one request like `generate`, the same codes, and return them frame by frame."""
    return Stream(model, request)


def generate_guarded(model: GenerativeLM, request: Request, retries: int = 2) -> Generation:
    """`generate`, and rows that did not reach END are tried again with seeds that derive from theirs.

    At most ``retries`` more tries; a row that never ends well keeps its first result.
    """
    first = generate(model, request)
    best = {row: (first.row(row), reason) for row, reason in enumerate(first.finish_reasons)}
    attempts = list(first.attempts)
    for attempt in range(1, retries + 1):
        bad = [row for row, (_, reason) in best.items() if reason != "end"]
        if not bad:
            break
        again = generate(model, request.rows(bad, [retry_seed(request.seeds[row], attempt) for row in bad]))
        for index, row in enumerate(bad):
            attempts[row] += 1
            if again.finish_reasons[index] == "end":
                best[row] = (again.row(index), "end")
    lengths = torch.tensor([codes.shape[1] for codes, _ in best.values()], device=first.codes.device)
    codes = first.codes.new_full((len(best), first.codes.shape[1], int(lengths.max())), model.config.end_id)
    for row, (row_codes, _) in best.items():
        codes[row, :, : row_codes.shape[1]] = row_codes
    return Generation(codes, lengths, [reason for _, reason in best.values()], attempts)


def generate_codes(
    model: GenerativeLM,
    text_ids: Tensor | Sequence[int],
    prompt_codes: Tensor | None = None,
    seed: int | Sequence[int] = 0,
    retries: int = 0,
    text_lengths: Tensor | None = None,
    prompt_lengths: Tensor | None = None,
    prompt_text_lengths: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Write codes [B, K, T] for text_ids [L] or [B, L]: the thin face behind every model's ``generate``.

    ``seed`` is one number (row b uses seed + b) or one a row; ``options`` are the fields of `GenerateConfig`.
    """
    ids = torch.as_tensor(text_ids, dtype=torch.long)
    ids = ids[None] if ids.dim() == 1 else ids
    if prompt_codes is not None and prompt_codes.dim() == 2:
        prompt_codes = prompt_codes[None]
    request = make_request(
        model.config,
        ids,
        text_lengths,
        prompt_codes,
        prompt_lengths,
        [seed + row for row in range(ids.shape[0])] if isinstance(seed, int) else seed,
        replace(GenerateConfig(), **options),
        prompt_text_lengths,
    )
    return generate_guarded(model, request, retries).codes


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Turn dropout and autocast off for a while; the model's mode is restored.

    Packed weights have a precision of their own, and codes must not depend on the caller's.
    """
    was_training = getattr(model, "training", False)
    parameter = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
    kind = "cpu" if parameter is None else parameter.device.type
    if was_training:
        model.eval()
    try:
        with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
            yield
    finally:
        if was_training:
            model.train()
