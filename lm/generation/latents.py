"""From scores to a codec's latents: sampled codes' vectors, and expected vectors of levels not worth sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
