"""From scores to what a codec's decoder hears: drawn codes, and means of the levels that are not worth drawing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lm.data.dataset import Batch

SKIPPED = 10  # frames at a recording's start, where a model does not know yet who speaks
_TRUST = 3  # frames of which half of what they tell is believed


def level_vectors(codes: Tensor, scores: Tensor, vectors: Tensor, drawn: int | None) -> Tensor:
    """The vector that each level adds to a latent: codes long [R, K], scores [R, K, outputs] -> float [R, n, D].

    ``vectors`` [n, V, D]: the codebooks of the first n levels. Of the first ``drawn`` levels (None: all) the codes'
    vectors, of the others the mean of all by the scores' probabilities. Codes beyond V (END) count as V - 1.
    """
    n, V, _ = vectors.shape
    drawn = min(n, drawn or n)
    levels = torch.arange(drawn, device=codes.device)
    chosen = vectors[levels, codes[:, :drawn].clamp(max=V - 1)]
    shares = scores[:, drawn:n, :V].float().softmax(-1).transpose(0, 1)
    return torch.cat([chosen, torch.bmm(shares, vectors[drawn:]).transpose(0, 1)], dim=1)


@torch.no_grad()
def known_latents(model: nn.Module, batch: Batch, vectors: Tensor, drawn: int | None) -> Tensor:
    """What a delay model would make heard of true codes, each frame told all before it: latents [B, D, T].

    The analogue of a vocoder's "ground truth aligned" inputs (Tacotron 2, Shen et al. 2018).
    """
    output = model(batch.text_ids, batch.text_lengths, batch.codes, batch.lengths, earlier=batch.earlier)
    B, _, T = batch.codes.shape
    scores = output.logits[:, :, :T].transpose(1, 2).flatten(0, 1)
    codes = batch.codes[:, : scores.shape[1]].transpose(1, 2).flatten(0, 1)
    return level_vectors(codes, scores, vectors, drawn).sum(1).view(B, T, -1).transpose(1, 2)


@dataclass(frozen=True)
class LatentFit:
    """Moves what a model knows of a speaker to where the speaker is: latents [D, T] -> (x - centre) * scale + shift."""

    centre: Tensor
    scale: Tensor
    shift: Tensor

    def __call__(self, latents: Tensor) -> Tensor:
        return (latents - self.centre) * self.scale + self.shift


def fit_latents(known: Tensor, true: Tensor) -> LatentFit | None:
    """Fit mean and spread of each dimension on a recording: what a model knows of it, and its own latents, [D, T] each.

    Means of a model that knows a speaker badly lie near those of all speakers, and closer together; a recording of
    two seconds tells how far (as adaptive instance normalization carries a style over: Huang & Belongie 2017).
    None for a recording of less than 0.4 s at 50 frames a second, which tells nothing.
    """
    known, true = known[:, SKIPPED:], true[:, SKIPPED:]
    T = known.shape[1]
    if T < SKIPPED:
        return None
    trust = T / (T + _TRUST)
    centre = known.mean(1, keepdim=True)
    scale = (true.std(1, keepdim=True) / known.std(1, keepdim=True).clamp(min=1e-4)).clamp(0.5, 4.0) ** trust
    return LatentFit(centre, scale, centre + trust * (true.mean(1, keepdim=True) - centre))
