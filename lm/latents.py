"""From scores to what a codec's decoder hears: drawn codes, and means of the levels that are not worth drawing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lm.data import Batch


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
