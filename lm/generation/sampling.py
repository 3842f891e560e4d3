"""From scores to ids: the one place where something is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codec.errors import SoundloomError


def sample(
    logits: Tensor,
    generators: Sequence[torch.Generator],
    temperature: float | Tensor = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Tensor:
    """Draw ids from logits [B, n, V] -> long [B, n]; row b uses its own CPU generator, always exactly n numbers.

    ``temperature`` is one number or float [n], 0 = the most likely id. ``top_k`` keeps the k most likely ids,
    ``top_p`` the fewest that reach this probability. Since each row has its own generator and takes one uniform number
    an id (inverse of the cumulative distribution), a row's draw does not depend on its neighbours.
    """
    n = logits.shape[1]
    uniform = torch.stack([torch.rand(n, generator=g, dtype=torch.float64) for g in generators]).to(logits.device)
    temperature = torch.as_tensor(temperature, dtype=torch.float32, device=logits.device).expand(n)
    greedy = logits.argmax(dim=-1)
    if bool((temperature == 0).all()):
        return greedy
    probabilities = distribution(logits, temperature.clamp(min=1e-4)[:, None], top_k, top_p)
    cumulative = probabilities.double().cumsum(dim=-1)
    total = cumulative[..., -1:]
    if not bool(torch.isfinite(total).all()):
        raise SoundloomError("the language model's scores are not finite numbers: its weights are broken")
    drawn = torch.searchsorted(cumulative, uniform[..., None] * total, right=True)[..., 0]
    return torch.where(temperature == 0, greedy, drawn)


def distribution(
    logits: Tensor, temperature: float | Tensor = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> Tensor:
    """Probabilities after temperature, top-k and top-p: logits [..., V] -> float32 [..., V] (not renormalized)."""
    logits = logits.float() / temperature
    V = logits.shape[-1]
    if top_k is not None and top_k < V:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    probabilities = logits.softmax(dim=-1)
    if top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        # An id stays if those before it do not yet reach top_p; so the likeliest always stays.
        dropped = ordered.cumsum(dim=-1) - ordered >= top_p
        dropped = torch.zeros_like(dropped).scatter(-1, order, dropped)
        probabilities = probabilities.masked_fill(dropped, 0.0)
    return probabilities
