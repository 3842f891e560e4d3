"""From scores to ids: how to sample, and the one place that samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codec.common.devices import to_device, widest_float
from codec.errors import SoundloomError
from lm.config import check_number

BROKEN = -1  # in the place of an id: its scores are not finite
_NOT_FINITE = "the language model's scores are not finite numbers: its weights are broken"


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


class Sampler:
    """Samples ids from logits [B, n, V] -> long [B, n]; what a run's steps share is made once.

    ``temperatures`` float [n]: one for each place (default: the config's ``temperature``). Each id takes one uniform
    number of its row's generator (inverse of the cumulative distribution), so a row does not depend on its neighbours.
    ``marks``: off the CPU, ids sampled from scores that are not finite come as `BROKEN` instead of an error, so that
    nobody waits for a check; whoever reads the ids then calls `refuse_broken`.
    """

    def __init__(self, config: SamplingConfig, temperatures: Tensor | None = None, marks: bool = False) -> None:
        self.config, self.marks = config, marks
        if temperatures is None:
            temperatures = torch.tensor([config.temperature])
        values = temperatures.tolist()
        self.greedy, self.mixed = not any(values), not all(values)
        self.zero = (temperatures == 0).expand(1, -1)
        self.temperatures = temperatures.float().clamp(min=1e-4)[:, None]

    def to(self, device: torch.device) -> Sampler:
        """Move to where the logits are; return the sampler itself."""
        self.zero, self.temperatures = self.zero.to(device), self.temperatures.to(device)
        return self

    def __call__(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Sample; row b uses its own CPU generator, always exactly n numbers.

        Raises: SoundloomError for scores that are not finite.
        """
        n = logits.shape[1]
        numbers = [torch.rand(n, generator=g, dtype=torch.float64) for g in generators]
        uniform = torch.stack(numbers) if len(numbers) > 1 else numbers[0][None]
        if self.greedy:
            return self._checked(logits.argmax(dim=-1), logits.amax(dim=-1))
        wide = widest_float(logits.device)
        uniform = to_device(uniform.to(wide), logits.device)
        cumulative = distribution(logits, self.config, self.temperatures).cumsum(dim=-1, dtype=wide)
        total = cumulative[..., -1:]
        sampled = torch.searchsorted(cumulative, uniform[..., None] * total, right=True)[..., 0]
        sampled = torch.where(self.zero, logits.argmax(dim=-1), sampled) if self.mixed else sampled
        return self._checked(sampled, total[..., 0])

    def _checked(self, ids: Tensor, values: Tensor) -> Tensor:
        """Return ids [B, n] sampled from scores that are finite where ``values`` [B, n] are."""
        if self.marks and ids.device.type != "cpu":
            return torch.where(values.isfinite(), ids, BROKEN)
        # A sum is finite only where all values are; the values are at most the number of ids, or scores.
        if not math.isfinite(float(values.sum(dtype=widest_float(values.device)))):
            raise SoundloomError(_NOT_FINITE)
        return ids


def sample(
    logits: Tensor, generators: Sequence[torch.Generator], config: SamplingConfig, temperatures: Tensor | None = None
) -> Tensor:
    """Sample ids once, as `Sampler` does: logits [B, n, V] -> long [B, n].

    Raises: SoundloomError for scores that are not finite.
    """
    return Sampler(config, temperatures).to(logits.device)(logits, generators)


def distribution(logits: Tensor, config: SamplingConfig, temperature: float | Tensor | None = None) -> Tensor:
    """Return the probabilities that ids are sampled by: logits [..., V] -> float32 [..., V], not renormalized.

    ``temperature`` (default: the config's) is one number, or a tensor that broadcasts to the logits; above 0.
    """
    logits = logits.float() / (config.temperature if temperature is None else temperature)
    V = logits.shape[-1]
    if config.top_k is not None and config.top_k < V:
        logits = logits.masked_fill(logits < _kth_largest(logits, config.top_k), float("-inf"))
    probabilities = logits.softmax(dim=-1)
    if config.top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        # An id stays if those before it do not yet reach top_p, so the likeliest always stays.
        dropped = ordered.cumsum(dim=-1) - ordered >= config.top_p
        dropped = torch.zeros_like(dropped).scatter(-1, order, dropped)
        probabilities = probabilities.masked_fill(dropped, 0.0)
    return probabilities


def _kth_largest(values: Tensor, k: int) -> Tensor:
    """Return the k-th largest of each row: float32 [..., V] -> [..., 1]."""
    if values.device.type == "cpu" and not values.requires_grad:
        at = values.shape[-1] - k
        # Up to eight times as fast as torch's topk, and the same value.
        return torch.from_numpy(np.partition(values.numpy(), at, axis=-1)[..., at : at + 1])
    return values.topk(k, dim=-1).values[..., -1:]


def refuse_broken(ids: Sequence[Sequence[int]]) -> None:
    """Raise `SoundloomError` where a `Sampler` that marks found scores that are not finite."""
    if any(BROKEN in row for row in ids):
        raise SoundloomError(_NOT_FINITE)
