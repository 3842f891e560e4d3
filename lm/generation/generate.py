"""Writing codes: one loop for all models, whole or as a stream, with guidance, caps and guards.

The loop knows only a model's face (`GenerativeLM`): a decoder that takes steps, and a completion of the grid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from codec.errors import SoundloomError
from lm.config import LMConfig
from lm.generation.latents import level_vectors
from lm.generation.request import GenerateConfig, Request, frame_limits, make_request
from lm.generation.sampling import sample
from lm.prefix import Earlier

UNKNOWN = 2**31  # a length not known yet: beyond every step


@dataclass
class Generation:
    """codes long [B, K, T] (prompt included; END id after a row's ``lengths``), and why each row ended.

    ``finish_reasons``: "end" (the model said so), "cap" (longest allowed), "loop" (it repeated itself).
    ``attempts``: how often each row was tried. ``latents`` float [B, D, T]: what a codec's decoder gets, where it was
    asked for (zero in the prompt and after the end).
    """

    codes: Tensor
    lengths: Tensor
    finish_reasons: list[str]
    attempts: list[int]
    latents: Tensor | None = None

    def row(self, index: int) -> Tensor:
        """One request's codes [K, T], without padding."""
        return self.codes[index, :, : int(self.lengths[index])]


class Frame(NamedTuple):
    """A frame as it comes: codes long [K], and its latent [D] where that was asked for."""

    codes: Tensor
    latent: Tensor | None


class StepDecoder(Protocol):
    """A model that writes ``levels`` delayed levels step by step; see `lm.step_lm.StepLM`."""

    levels: int

    def start(self, text_ids: Tensor, text_lengths: Tensor, max_steps: int, earlier: Earlier | None = None) -> Any: ...

    def advance(self, state: Any, inputs: Tensor, hidden: Tensor | None = None) -> Tensor: ...

    def prompt_steps(self, frames: Tensor, first: int, end: int) -> Tensor: ...


class GenerativeLM(Protocol):
    """What `generate` needs of a model."""

    config: LMConfig

    @property
    def decoder(self) -> StepDecoder: ...

    def complete(self, codes: Tensor, request: Request) -> Tensor: ...


def guided(decoder_logits: Tensor, guidance: float) -> Tensor:
    """Mix guidance: with it, rows are [with text | without] (2B) -> B rows; without it they pass."""
    if guidance == 1.0:
        return decoder_logits
    with_text, without = decoder_logits.float().chunk(2)
    return without + guidance * (with_text - without)


def guided_text(text_ids: Tensor, text_lengths: Tensor, guidance: float) -> tuple[Tensor, Tensor]:
    """The batch that `guided` expects: the rows, then the same without text."""
    if guidance == 1.0:
        return text_ids, text_lengths
    return torch.cat([text_ids, text_ids]), torch.cat([text_lengths, torch.zeros_like(text_lengths)])


class _Run:
    """The grid while it is written, in delayed layout: ``inputs[:, k, s]`` is what level k gives step s."""

    def __init__(self, model: GenerativeLM, request: Request) -> None:
        self.decoder, self.request, self.settings = model.decoder, request, model.config
        config, K = request.config, model.decoder.levels
        B = request.text_ids.shape[0]
        device = request.text_ids.device
        self.least, self.most = frame_limits(request, model.config)
        if bool((request.prompt_lengths >= self.most).any()):
            raise SoundloomError(
                f"max_frames {int(self.most.min())} leaves no room after a prompt of "
                f"{int(request.prompt_lengths.max())} frames; it counts the prompt too"
            )
        steps = int(self.most.max()) + K + 1
        self.inputs = torch.full((B, K, steps), self.settings.end_id, dtype=torch.long, device=device)
        for k in range(K):
            self.inputs[:, k, : k + 1] = self.settings.start_id
            room = self.inputs[:, k, k + 1 : k + 1 + request.prompt_codes.shape[2]]
            room.copy_(request.prompt_codes[:, k, : room.shape[1]])
        self.lengths = torch.full((B,), UNKNOWN, dtype=torch.long, device=device)
        self.reasons = [""] * B
        self.levels = torch.arange(K, device=device)
        self.temperatures = config.temperatures(K).to(device)
        self.periods = torch.arange(1, config.loop_period + 1, device=device)
        self.runs = torch.zeros(B, config.loop_period, dtype=torch.long, device=device)
        self.loop_limit = torch.maximum(self.periods * 3, torch.tensor(config.loop_seconds * self.settings.frame_rate))
        # The prompt's inputs are known: the first advance takes all steps up to the shortest prompt's end at once.
        self.step = int(request.prompt_lengths.min())
        hides = model.config.guide_prompt and config.guidance != 1.0
        self.hidden_until = int(request.prompt_lengths.max()) + K if hides else 0
        text = guided_text(request.text_ids, request.text_lengths, config.guidance)
        earlier = request.earlier
        if earlier is not None and config.guidance != 1.0:
            earlier = earlier.repeated(2)
        self.state = self.decoder.start(*text, max_steps=steps, earlier=earlier)
        self.taken = 0
        if request.vectors is not None:
            if len(request.vectors) > K:
                raise SoundloomError(
                    f"latents of {len(request.vectors)} levels: this model writes {K} step by step, others afterwards"
                )
            self.latents = request.vectors.new_zeros(B, steps, request.vectors.shape[2])

    @property
    def done(self) -> Tensor:
        """Rows whose last frame has all its levels: bool [B]."""
        return self.step > self.lengths + len(self.levels) - 2

    def advance(self) -> None:
        """Take the next step: score, draw, write the drawn codes as the next step's inputs."""
        config, s = self.request.config, self.step
        new = self.inputs[:, :, self.taken : s + 1]
        new = torch.cat([new, new]) if config.guidance != 1.0 else new
        hidden = None
        if self.taken < self.hidden_until:  # the rows without text shall not know the prompt either
            lost = self.decoder.prompt_steps(self.request.prompt_lengths, self.taken, s + 1)
            hidden = torch.cat([torch.zeros_like(lost), lost])
        scores = self.decoder.advance(self.state, new, hidden)
        logits = guided(scores, config.guidance).float()
        self.taken = s + 1
        rows = ((s >= self.request.prompt_lengths) & ~self.done).nonzero()[:, 0]
        if len(rows):
            codes = self._write(rows, logits[rows].clone(), s)
            if self.request.vectors is not None:
                # The rows with text stand first. Guidance sharpens what is drawn; a mean wants the plain probabilities.
                self._add_latents(rows, scores[rows], codes, s, self.request.vectors)
        self.step = s + 1

    def _add_latents(self, rows: Tensor, scores: Tensor, codes: Tensor, s: int, vectors: Tensor) -> None:
        """Add what step s tells of the latents: scores [rows, K, outputs] and the codes [rows, K] that were written."""
        frames = s - self.levels[: len(vectors)]
        new = (frames >= self.request.prompt_lengths[rows, None]) & (frames < self.lengths[rows, None])
        heard = level_vectors(codes, scores, vectors, self.request.config.drawn_levels) * new[..., None]
        self.latents.index_put_((rows[:, None], frames.clamp(min=0)[None]), heard, accumulate=True)

    def _write(self, rows: Tensor, logits: Tensor, s: int) -> Tensor:
        end = self.settings.end_id
        logits[:, 1:, end] = float("-inf")
        logits[:, 0, end].masked_fill_(s < self.least[rows], float("-inf"))
        config = self.request.config
        generators = [self.request.generators[row] for row in rows.tolist()]
        codes = sample(logits, generators, self.temperatures, config.top_k, config.top_p)
        open_rows = self.lengths[rows] == UNKNOWN
        capped = open_rows & (s >= self.most[rows])
        ended = open_rows & ~capped & (codes[:, 0] == end)
        self.lengths[rows[capped | ended]] = s
        frames = s - self.levels
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
        """Rows whose level 0 has now repeated one cycle for long: bool [rows]."""
        if self.request.config.loop_seconds == 0:
            return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        before = (s + 1 - self.periods).clamp(min=0)  # column 0 is START, which equals no code
        same = self.inputs[rows, 0, s + 1, None] == self.inputs[rows[:, None], 0, before]
        self.runs[rows] = torch.where(same, self.runs[rows] + 1, 0)
        return (self.runs[rows] >= self.loop_limit).any(dim=1)

    def grid(self) -> Tensor:
        """The codes so far, not delayed: [B, K, T], T = the longest row."""
        T = int(self.lengths.max())
        codes = torch.stack([self.inputs[:, k, k + 1 : k + 1 + T] for k in range(len(self.levels))], dim=1)
        padding = torch.arange(T, device=codes.device) >= self.lengths[:, None, None]
        return codes.masked_fill(padding, self.settings.end_id)


@torch.inference_mode()
def generate(
    model: GenerativeLM,
    text_ids: Tensor,
    text_lengths: Tensor | None = None,
    prompt_codes: Tensor | None = None,
    prompt_lengths: Tensor | None = None,
    seeds: Sequence[int] | None = None,
    config: GenerateConfig | None = None,
    prompt_text_lengths: Tensor | None = None,
    vectors: Tensor | None = None,
) -> Generation:
    """Write codes for text_ids long [B, L] (prompt's text first), after prompt_codes [B, K, P] where given.

    ``prompt_text_lengths`` long [B]: how many of a row's text units the prompt says (0: its words are not known); the
    clock of the others then starts where the prompt ends. Without it the text is taken as one from the prompt's start.
    ``vectors`` float [n, V, D], the codec's codebooks of the first n levels: give latents beside the codes (of a model
    that writes all levels step by step).
    Each row has its own seed (0, 1, … by default), so its result does not depend on its neighbours, up to draws that
    fall within rounding (about 1e-6) of a border. Errors: `SoundloomError` for ids or sizes that do not fit the model.
    """
    request = make_request(
        model.config, text_ids, text_lengths, prompt_codes, prompt_lengths, seeds, config, prompt_text_lengths, vectors
    )
    with evaluating(model):
        run = _Run(model, request)
        while not bool(run.done.all()):
            run.advance()
        request.lengths = run.lengths
        codes = model.complete(run.grid(), request)
    latents = None if vectors is None else run.latents[:, : codes.shape[2]].transpose(1, 2)
    return Generation(codes, run.lengths, run.reasons, [1] * len(run.reasons), latents)


class Stream(Iterator[Frame]):
    """One request's new frames as soon as they are whole; then ``finish_reason`` is set.

    The delay model's frame t is whole after step t + K - 1. A model that refines the grid afterwards
    (coarse and fine) gives its frames all at the end.
    """

    def __init__(self, model: GenerativeLM, request: Request) -> None:
        self.finish_reason: str | None = None
        self._frames = self._run(model, request)

    def __next__(self) -> Frame:
        with torch.inference_mode():
            return next(self._frames)

    def _run(self, model: GenerativeLM, request: Request) -> Iterator[Frame]:
        with evaluating(model):
            run = _Run(model, request)
        whole = model.decoder.levels == model.config.num_levels
        frame = int(request.prompt_lengths[0])
        while not bool(run.done.all()):
            with evaluating(model):
                run.advance()
            if whole and frame + len(run.levels) <= run.step and frame < int(run.lengths[0]):
                latent = None if request.vectors is None else run.latents[0, frame]
                yield Frame(run.inputs[0, run.levels, frame + 1 + run.levels], latent)
                frame += 1
        self.finish_reason = run.reasons[0]
        if not whole:
            request.lengths = run.lengths
            with evaluating(model):
                codes = model.complete(run.grid(), request)
            yield from (Frame(column, None) for column in codes[0, :, frame : int(run.lengths[0])].T)


def stream(
    model: GenerativeLM,
    text_ids: Tensor,
    prompt_codes: Tensor | None = None,
    seed: int = 0,
    config: GenerateConfig | None = None,
    prompt_text_length: int | None = None,
    vectors: Tensor | None = None,
) -> Stream:
    """Like `generate` for one request (text_ids [L], prompt_codes [K, P]), frame by frame, the same codes."""
    prompt = None if prompt_codes is None else prompt_codes[None]
    said = None if prompt_text_length is None else torch.tensor([prompt_text_length])
    return Stream(model, make_request(model.config, text_ids[None], None, prompt, None, [seed], config, said, vectors))


def generate_guarded(
    model: GenerativeLM,
    text_ids: Tensor,
    text_lengths: Tensor | None = None,
    prompt_codes: Tensor | None = None,
    prompt_lengths: Tensor | None = None,
    seeds: Sequence[int] | None = None,
    config: GenerateConfig | None = None,
    prompt_text_lengths: Tensor | None = None,
    retries: int = 2,
) -> Generation:
    """`generate`, and rows that did not reach END are tried again with seeds that derive from theirs.

    At most ``retries`` more tries; a row that never ends well keeps its first result.
    """
    request = make_request(
        model.config, text_ids, text_lengths, prompt_codes, prompt_lengths, seeds, config, prompt_text_lengths
    )
    seeds = [generator.initial_seed() for generator in request.generators]
    parts = (request.text_ids, request.text_lengths, request.prompt_codes, request.prompt_lengths)
    said = None if request.earlier is None else request.earlier.units
    first = generate(model, *parts, seeds, request.config, said)
    best = {row: (first.row(row), reason) for row, reason in enumerate(first.finish_reasons)}
    attempts = list(first.attempts)
    for attempt in range(1, retries + 1):
        bad = [row for row, (_, reason) in best.items() if reason != "end"]
        if not bad:
            break
        new_seeds = [retry_seed(seeds[row], attempt) for row in bad]
        rest = None if said is None else said[bad]
        again = generate(model, *(part[bad] for part in parts), new_seeds, request.config, rest)
        for index, row in enumerate(bad):
            attempts[row] += 1
            if again.finish_reasons[index] == "end":
                best[row] = (again.row(index), "end")
    lengths = torch.tensor([codes.shape[1] for codes, _ in best.values()], device=first.codes.device)
    codes = first.codes.new_full((len(best), first.codes.shape[1], int(lengths.max())), model.config.end_id)
    for row, (row_codes, _) in best.items():
        codes[row, :, : row_codes.shape[1]] = row_codes
    return Generation(codes, lengths, [reason for _, reason in best.values()], attempts)


def retry_seed(seed: int, attempt: int) -> int:
    """Seed of a request's n-th retry: a hash, so that neighbouring seeds' retries share nothing."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{attempt}".encode()).digest()[:7], "big")


def generate_codes(
    model: GenerativeLM,
    text_ids: Tensor | Sequence[int],
    prompt_codes: Tensor | None = None,
    text_lengths: Tensor | None = None,
    prompt_lengths: Tensor | None = None,
    prompt_text_lengths: Tensor | None = None,
    seed: int | Sequence[int] = 0,
    retries: int = 0,
    **options: Any,
) -> Tensor:
    """The thin face behind every model's ``generate``: text_ids [L] or [B, L] -> codes [B, K, T].

    ``seed`` is one number (row b uses seed + b) or one a row; ``options`` are the fields of `GenerateConfig`.
    """
    ids = torch.as_tensor(text_ids, dtype=torch.long)
    ids = ids[None] if ids.dim() == 1 else ids
    if prompt_codes is not None and prompt_codes.dim() == 2:
        prompt_codes = prompt_codes[None]
    seeds = [seed + row for row in range(ids.shape[0])] if isinstance(seed, int) else list(seed)
    config = replace(GenerateConfig(), **options)
    return generate_guarded(
        model, ids, text_lengths, prompt_codes, prompt_lengths, seeds, config, prompt_text_lengths, retries
    ).codes


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Dropout off for the while; the model's mode is put back."""
    was_training = getattr(model, "training", False)
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()
