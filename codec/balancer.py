"""Balance the losses of a codec by their gradients at its output (EnCodec, Défossez et al. 2022, section 3.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from codec.common.devices import widest_float
from codec.common.distributed import mean_over_processes


class Balancer:
    """Give each loss its share of the gradient at the codec's output, whatever its scale.

    ``weights`` maps the names of the losses to their shares. Each loss's gradient is divided by a running average of
    its norm, multiplied by its share, and summed. The first loss sets the unit (its own averaged norm), so that terms
    outside the balance keep their weight relative to it. With ``plain`` the losses are summed as they are, times their
    weights, and the norms are only measured.

    Norms are measured at every ``every``-th call, which costs a backward pass for each loss. In between, all losses
    share one pass and the norms stay. The averages decay equally fast per call whatever ``every`` is. Norms are
    scalars on the losses' device: nothing here makes the host wait for it.
    """

    def __init__(self, weights: dict[str, float], decay: float = 0.99, every: int = 1, plain: bool = False) -> None:
        self.weights = dict(weights)
        self.plain = plain
        self.decay = decay**every
        self.every = every
        self.calls = 0
        self.norms: dict[str, Tensor] = {}

    def gradient(self, losses: dict[str, Tensor], wave: Tensor) -> Tensor:
        """Return the gradient [B, C, N] to send back; each loss is a scalar that depends on wave [B, C, N]."""
        return self.gradient_of_parts([(losses, wave)], 1)

    def gradient_of_parts(self, parts: Iterable[tuple[dict[str, Tensor], Tensor]], count: int) -> Tensor:
        """Do the same for a batch in ``count`` equal parts [B / count, C, N], each with its own losses."""
        several: list[dict[str, Tensor]] = []
        sums: list[Tensor] = []
        names: list[str] = []
        measure = False
        for losses, wave in parts:
            if not names:
                self.norms = {name: norm.to(wave.device) for name, norm in self.norms.items()}
                measure = self.calls % self.every == 0 or not losses.keys() <= self.norms.keys()
            if measure:
                grads = {n: torch.autograd.grad(loss / count, wave, retain_graph=True)[0] for n, loss in losses.items()}
                several.append(grads)
            else:
                total = torch.stack([self._weighed(name, loss, losses) for name, loss in losses.items()]).sum()
                sums.append(torch.autograd.grad(total / count, wave, retain_graph=True)[0])
            names = list(losses)
        self.calls += 1
        if not sums:
            gradients = {name: torch.cat([grads[name] for grads in several]) for name in names}
            for name, gradient in gradients.items():
                # Per clip, so that the batch's size does not change the balance.
                norm = mean_over_processes(gradient.flatten(1).norm(dim=1).mean()).to(widest_float(gradient.device))
                before = self.norms.get(name)
                self.norms[name] = norm if before is None else self.decay * before + (1 - self.decay) * norm
            first = torch.zeros_like(gradients[names[0]])
            out = sum((self._weighed(name, gradients[name], names) for name in names), first)
        else:
            out = torch.cat(sums)
        return out if self.plain else out * self.norms[names[0]].to(out.dtype)

    def shares(self) -> dict[str, float | Tensor]:
        """Return each loss's part in the sum of the gradients' norms as sent back; for the log."""
        parts: dict[str, float | Tensor]
        if self.plain:
            parts = {name: self.weights[name] * norm for name, norm in self.norms.items()}
        else:
            parts = {name: self.weights[name] * 1.0 for name in self.norms}
        return {name: part / (sum(parts.values()) + 1e-12) for name, part in parts.items()}

    def _weighed(self, name: str, x: Tensor, losses: Iterable[str]) -> Tensor:
        """Return a loss or its gradient times the factor that gives it its share."""
        if self.plain:
            return self.weights[name] * x
        norm = self.norms[name]
        share = norm.new_full((), self.weights[name] / sum(self.weights[other] for other in losses))
        return (share / (norm + 1e-12)).to(x.dtype) * x

    def state(self) -> dict[str, Any]:
        """Return what `load` restores: scalars on their device, and ``calls``."""
        return {**self.norms, "calls": self.calls}

    def load(self, norms: Mapping[str, Any]) -> None:
        """Restore what `state` returned, or the same as plain numbers."""
        self.calls = int(norms.get("calls", 0))
        named = {name: norm for name, norm in norms.items() if name != "calls"}
        self.norms = {n: x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64) for n, x in named.items()}
