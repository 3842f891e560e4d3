"""Name instrument families by a linear layer on musicnn's embeddings, fitted to renderings whose families are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.errors import SoundloomError
from pipelines.music_corpus.instruments import FAMILIES

_STEPS = 60
_FEWEST = 20  # clips


@dataclass(frozen=True)
class FamilyJudge:
    """``weight`` [D, F] and ``bias`` [F] on embeddings less ``mean``, divided by ``spread``."""

    mean: Tensor
    spread: Tensor
    weight: Tensor
    bias: Tensor

    def probabilities(self, embedding: Tensor) -> Tensor:
        """Return the probability [..., F] of each of `FAMILIES` for embeddings [..., D]."""
        return (((embedding - self.mean) / self.spread) @ self.weight + self.bias).sigmoid()

    def likeliest(self, embedding: Tensor, count: int) -> list[str]:
        """Return the ``count`` likeliest families of an embedding [D]."""
        order = self.probabilities(embedding).argsort(descending=True)[:count]
        return [FAMILIES[int(i)] for i in order]


def fit_families(embeddings: Tensor, families: Sequence[Sequence[str]], decay: float = 0.02) -> FamilyJudge:
    """Fit one logistic regression for each family to embeddings [N, D] and the families of each.

    Raises: SoundloomError for fewer than 20 clips.
    """
    if len(families) < _FEWEST:
        raise SoundloomError(f"{len(families)} reference clips: expected at least {_FEWEST} to learn the families from")
    mean, spread = embeddings.mean(0), embeddings.std(0).clamp(min=1e-4)
    x = (embeddings - mean) / spread
    y = torch.tensor([[float(family in row) for family in FAMILIES] for row in families])
    weight = torch.zeros(x.shape[1], len(FAMILIES), requires_grad=True)
    bias = torch.zeros(len(FAMILIES), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        error = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, y)
        total = error + decay * weight.square().sum() / len(FAMILIES)
        total.backward()
        return total

    optimizer.step(loss)
    return FamilyJudge(mean, spread, weight.detach(), bias.detach())
