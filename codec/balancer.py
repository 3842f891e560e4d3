"""Balance the losses of a codec by their gradients at its output (EnCodec, Défossez et al. 2022, section 3.4)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from codec.common.distributed import mean_over_processes


class Balancer:
    """Give each loss its share of the gradient at the codec's output, whatever its scale.

    ``weights`` maps the names of the losses to their shares. Each loss's gradient is divided by a running average of
    its norm, multiplied by its share, and summed. The first loss sets the unit (its own averaged norm), so that terms
    outside the balance keep their weight relative to it. With ``plain`` the losses are summed as they are, times their
    weights, and the norms are only measured.

    Norms are measured at every ``every``-th call, which costs a backward pass for each loss. In between, all losses
    share one pass and the norms stay. The averages decay equally fast per call whatever ``every`` is.
    """

    def __init__(self, weights: dict[str, float], decay: float = 0.99, every: int = 1, plain: bool = False) -> None:
        self.weights = dict(weights)
        self.plain = plain
        self.decay = decay**every
        self.every = every
        self.calls = 0
        self.norms: dict[str, float] = {}

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
                measure = self.calls % self.every == 0 or not losses.keys() <= self.norms.keys()
            if measure:
                grads = {n: torch.autograd.grad(loss / count, wave, retain_graph=True)[0] for n, loss in losses.items()}
                several.append(grads)
            else:
                total = torch.stack([self._factor(name, losses) * loss for name, loss in losses.items()]).sum()
                sums.append(torch.autograd.grad(total / count, wave, retain_graph=True)[0])
            names = list(losses)
        self.calls += 1
        if not sums:
            gradients = {name: torch.cat([grads[name] for grads in several]) for name in names}
            for name, gradient in gradients.items():
                # Per clip, so that the batch's size does not change the balance.
                norm = float(mean_over_processes(gradient.flatten(1).norm(dim=1).mean()))
                before = self.norms.get(name)
                self.norms[name] = norm if before is None else self.decay * before + (1 - self.decay) * norm
            first = torch.zeros_like(gradients[names[0]])
            out = sum((self._factor(name, names) * gradients[name] for name in names), first)
        else:
            out = torch.cat(sums)
        return out if self.plain else out * self.norms[names[0]]

    def shares(self) -> dict[str, float]:
        """Return each loss's part in the sum of the gradients' norms as sent back; for the log."""
        parts = {name: self.weights[name] * (norm if self.plain else 1.0) for name, norm in self.norms.items()}
        return {name: part / (sum(parts.values()) + 1e-12) for name, part in parts.items()}

    def _factor(self, name: str, losses: Iterable[str]) -> float:
        if self.plain:
            return self.weights[name]
        return self.weights[name] / sum(self.weights[other] for other in losses) / (self.norms[name] + 1e-12)

    def state(self) -> dict[str, float]:
        """Return what a checkpoint stores."""
        return {**self.norms, "calls": self.calls}

    def load(self, norms: dict[str, float]) -> None:
        """Restore what `state` returned."""
        self.calls = int(norms.get("calls", 0))
        self.norms = {name: float(norm) for name, norm in norms.items() if name != "calls"}
