"""Writing codes: one loop for all models, whole or as a stream, with guidance, caps and guards.

    request = make_request(model.config, text_ids, seeds=[0], config=GenerateConfig(temperature=0.8))
    codes = generate(model, request).row(0)                  # [K, T]

The loop knows only a model's face, `GenerativeLM`: a decoder that takes steps, and a completion of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from codec.common.seeds import retry_seed
from codec.errors import SoundloomError
from lm.generation.grid_writer import GenerativeLM, GridWriter
from lm.generation.request import GenerateConfig, Request, make_request


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


def generate(model: GenerativeLM, request: Request, on_step: Callable[[int], None] | None = None) -> Generation:
    """Write the codes that `make_request` asked for; ``on_step`` is called with the steps taken after the prompt.

    Each row has its own seed, so its result does not depend on its neighbours, up to samples that fall within rounding
    (about 1e-6) of a border.
    """
    made = _written(model, request, on_step)
    # Clones made out here can be used in training, unlike tensors of inference mode.
    latents = None if made.latents is None else made.latents.clone()
    return replace(made, codes=made.codes.clone(), lengths=made.lengths.clone(), latents=latents)


@torch.inference_mode()
def _written(model: GenerativeLM, request: Request, on_step: Callable[[int], None] | None) -> Generation:
    with evaluating(model):
        run = GridWriter(model, request)
        begin = run.step
        while not run.finished:
            run.advance()
            if on_step is not None:
                on_step(run.step - begin)
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
        while not run.finished:
            with evaluating(model):
                run.advance()
            if whole and run.pattern.steps(frame + 1) <= run.step and frame < run.ends[0]:
                yield Frame(*run.frame(0, frame))
                frame += 1
        self.finish_reason = run.reasons[0]
        if not whole:
            with evaluating(model):
                codes = model.complete(run.grid(), run.lengths, request, run.generators)
            yield from (Frame(column, None) for column in codes[0, :, frame : run.ends[0]].T)


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
    parameter = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
    ids = torch.as_tensor(text_ids, dtype=torch.long, device=None if parameter is None else parameter.device)
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
