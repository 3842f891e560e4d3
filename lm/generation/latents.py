"""From scores to a codec's latents: sampled codes' vectors, and expected vectors of levels not worth sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.delay import Pattern

if TYPE_CHECKING:
    from lm.data.dataset import Batch

SKIPPED = 10  # frames at a recording's start, where a model does not know yet who speaks
_TRUST = 3  # a recording of this many frames moves the statistics half the way


def level_vectors(codes: Tensor, scores: Tensor, vectors: Tensor, sampled: int | None) -> Tensor:
    """Return the vector that each level adds to a latent: codes long [R, K], scores [R, K, outputs] -> [R, n, D].

    ``vectors`` [n, V, D]: the codebooks of the first n levels. The first ``sampled`` levels (None: all) give their
    codes' vectors, the others the mean of all vectors under the scores' probabilities. Codes beyond V (END) count as
    V - 1.
    """
    n, V, _ = vectors.shape
    sampled = min(n, sampled or n)
    levels = torch.arange(sampled, device=codes.device)
    chosen = vectors[levels, codes[:, :sampled].clamp(max=V - 1)]
    shares = scores[:, sampled:n, :V].float().softmax(-1).transpose(0, 1)
    return torch.cat([chosen, torch.bmm(shares, vectors[sampled:]).transpose(0, 1)], dim=1)


class LatentParts:
    """The latents of a grid while it is written: what each step adds, kept by step and summed when asked for.

    ``vectors`` [n, V, D], as for `level_vectors`. A frame's sum runs in the order in which its levels are written.
    """

    def __init__(self, pattern: Pattern, vectors: Tensor, sampled: int | None, rows: int, steps: int) -> None:
        self.vectors, self.sampled = vectors, sampled
        self.places = sorted(enumerate(pattern.delays[: len(vectors)]), key=lambda place: place[1])
        self.parts = vectors.new_zeros(rows, steps, len(vectors), vectors.shape[2])

    def add(self, step: int, rows: Tensor | None, codes: Tensor, scores: Tensor) -> None:
        """Keep the parts of some rows' step (None: of all rows): codes long [R, K], scores [R, K, outputs]."""
        parts = level_vectors(codes, scores, self.vectors, self.sampled)
        if rows is None:
            self.parts[:, step] = parts
        else:
            self.parts[rows, step] = parts

    def frame(self, row: int, frame: int) -> Tensor:
        """Return the latent [D] of a frame that all levels have written."""
        own = self.parts[row]
        return _in_order([own[frame + delay, level] for level, delay in self.places])

    def until(self, first: Tensor, end: Tensor) -> Tensor:
        """Return latents [B, steps, D], also partial ones: zero before frame ``first`` [B] and from ``end`` [B] on."""
        steps = self.parts.shape[1]
        shifted = [F.pad(self.parts[:, delay:, level], (0, 0, 0, delay)) for level, delay in self.places]
        index = torch.arange(steps, device=self.parts.device)
        shown = (index >= first[:, None]) & (index < end[:, None])
        return _in_order(shifted) * shown[..., None]


def _in_order(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


@torch.no_grad()
def teacher_forced_latents(model: nn.Module, batch: Batch, vectors: Tensor, sampled: int | None) -> Tensor:
    """Return a delay model's latents [B, D, T] when it reads the true codes.

    They are what a vocoder's "ground truth aligned" inputs are to Tacotron 2 (Shen et al. 2018).
    """
    output = model(batch.text_ids, batch.text_lengths, batch.codes, batch.lengths, span=batch.span)
    B, _, T = batch.codes.shape
    scores = output.logits[:, :, :T].transpose(1, 2).flatten(0, 1)
    codes = batch.codes[:, : scores.shape[1]].transpose(1, 2).flatten(0, 1)
    return level_vectors(codes, scores, vectors, sampled).sum(1).view(B, T, -1).transpose(1, 2)


@dataclass(frozen=True)
class LatentFit:
    """Moves a model's latents towards a speaker: latents [D, T] -> (x - centre) * scale + shift."""

    centre: Tensor
    scale: Tensor
    shift: Tensor

    def __call__(self, latents: Tensor) -> Tensor:
        return (latents - self.centre) * self.scale + self.shift


def fit_latents(known: Tensor, true: Tensor) -> LatentFit | None:
    """Fit mean and spread of each dimension on a recording: teacher-forced latents and true ones, [D, T] each.

    Expected latents of a speaker that the model knows little of lie near the mean of all speakers, and closer together;
    a recording of two seconds shows by how much (adaptive instance normalization, Huang & Belongie 2017).
    None for a recording of less than 0.4 s at 50 frames a second, which shows nothing.
    """
    known, true = known[:, SKIPPED:], true[:, SKIPPED:]
    T = known.shape[1]
    if T < SKIPPED:
        return None
    trust = T / (T + _TRUST)
    centre = known.mean(1, keepdim=True)
    scale = (true.std(1, keepdim=True) / known.std(1, keepdim=True).clamp(min=1e-4)).clamp(0.5, 4.0) ** trust
    return LatentFit(centre, scale, centre + trust * (true.mean(1, keepdim=True) - centre))
