"""From scores to ids: how to sample, and the one place that samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.errors import SoundloomError
from lm.config import check_number


@dataclass(frozen=True)
class SamplingConfig:
    """How ids are taken from scores. A new way to sample is a field here and a line in `distribution`.

    ``temperature`` 0 takes the likeliest id. ``fine_temperature`` is for levels above 0 (None: the same).
    ``top_k`` keeps the k likeliest ids, ``top_p`` the fewest that reach this probability.
    ``guidance`` above 1 pushes towards the text (classifier-free guidance, Ho & Salimans 2022).
    """

    temperature: float = 0.9
    fine_temperature: float | None = None
    top_k: int | None = 100
    top_p: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, float, 0, 100)
        check_number("fine_temperature", self.fine_temperature, float, 0, 100, optional=True)
        check_number("top_k", self.top_k, int, 1, 1_000_000, optional=True)
        check_number("top_p", self.top_p, float, 0, 1, above=True)
        check_number("guidance", self.guidance, float, 0, 100)

    def temperatures(self, levels: int, first: int = 0) -> Tensor:
        """Temperature of each of ``levels`` levels, from level ``first`` on: float [levels]."""
        fine = self.temperature if self.fine_temperature is None else self.fine_temperature
        return torch.tensor([self.temperature if level == 0 else fine for level in range(first, first + levels)])


def sample(
    logits: Tensor, generators: Sequence[torch.Generator], config: SamplingConfig, temperatures: Tensor | None = None
) -> Tensor:
    """Sample ids from logits [B, n, V] -> long [B, n]; row b uses its own CPU generator, always exactly n numbers.

    ``temperatures`` float [n]: one for each place (default: the config's ``temperature``). Each id takes one uniform
    number of its row's generator (inverse of the cumulative distribution), so a row does not depend on its neighbours.

    Raises: SoundloomError for scores that are not finite.
    """
    n = logits.shape[1]
    uniform = torch.stack([torch.rand(n, generator=g, dtype=torch.float64) for g in generators]).to(logits.device)
    if temperatures is None:
        temperatures = torch.tensor(config.temperature, dtype=torch.float32)
    temperatures = temperatures.to(logits.device, torch.float32).expand(n)
    greedy = logits.argmax(dim=-1)
    if bool((temperatures == 0).all()):
        _require_finite(logits.amax(dim=-1))
        return greedy
    probabilities = distribution(logits, config, temperatures.clamp(min=1e-4)[:, None])
    cumulative = probabilities.double().cumsum(dim=-1)
    total = cumulative[..., -1:]
    _require_finite(total)
    sampled = torch.searchsorted(cumulative, uniform[..., None] * total, right=True)[..., 0]
    return torch.where(temperatures == 0, greedy, sampled)


def distribution(logits: Tensor, config: SamplingConfig, temperature: float | Tensor | None = None) -> Tensor:
    """Return the probabilities that ids are sampled by: logits [..., V] -> float32 [..., V], not renormalized.

    ``temperature`` (default: the config's) is one number, or a tensor that broadcasts to the logits; above 0.
    """
    logits = logits.float() / (config.temperature if temperature is None else temperature)
    V = logits.shape[-1]
    if config.top_k is not None and config.top_k < V:
        least = logits.topk(config.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    probabilities = logits.softmax(dim=-1)
    if config.top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        # An id stays if those before it do not yet reach top_p, so the likeliest always stays.
        dropped = ordered.cumsum(dim=-1) - ordered >= config.top_p
        dropped = torch.zeros_like(dropped).scatter(-1, order, dropped)
        probabilities = probabilities.masked_fill(dropped, 0.0)
    return probabilities


def _require_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise SoundloomError("the language model's scores are not finite numbers: its weights are broken")
