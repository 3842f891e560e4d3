"""What the codec is trained on: mel distances, adversarial losses and the balance between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.audio.files import mel_filterbank
from codec.common.distributed import mean_over_processes

MEL_SCALES = ((2048, 128), (1024, 80), (512, 64), (256, 32))


class MelLoss(nn.Module):
    """Distance of mel spectra at several windows (hop a quarter): absolute in log10, plus relative in amplitude.

    wave [B, C, N] twice -> scalar. Scales are (window in samples, mel bands); after DAC (Kumar et al. 2023), with two
    changes that a failed run asked for. The clamp is at `floor`, about the noise of 16-bit audio, and not at 1e-5:
    below it there is nothing to hear, but the logarithm's gradient there drowned that of the speech. And the
    amplitude term, per clip relative to the clip's mean, gives loud parts a say of their own.
    """

    def __init__(
        self, sample_rate: int, scales: Sequence[tuple[int, int]] = MEL_SCALES, floor: float = 3e-3, linear: float = 0.3
    ) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.floor = floor
        self.linear = linear
        for window, bands in self.scales:
            self.register_buffer(f"window_{window}", torch.hann_window(window), persistent=False)
            self.register_buffer(f"mel_{window}", mel_filterbank(bands, window, sample_rate), persistent=False)

    def mel(self, wave: Tensor, window: int) -> Tensor:
        """wave [M, N] -> mel amplitudes [M, frames, bands]."""
        hann = getattr(self, f"window_{window}")
        spectrum = torch.stft(wave, window, window // 4, window=hann, return_complex=True)  # [M, bins, frames]
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-10).sqrt()
        return magnitude.transpose(1, 2) @ getattr(self, f"mel_{window}")

    def forward(self, wave: Tensor, target: Tensor) -> Tensor:
        B, C, N = wave.shape
        wave, target = wave.reshape(B * C, N).float(), target.reshape(B * C, N).float()
        losses = []
        for window, _ in self.scales:
            ours = self.mel(wave, window)
            with torch.no_grad():
                theirs = self.mel(target, window)
            losses.append(F.l1_loss(ours.clamp(min=self.floor).log10(), theirs.clamp(min=self.floor).log10()))
            if self.linear:
                relative = (ours - theirs).abs().mean((1, 2)) / (theirs.mean((1, 2)) + self.floor)
                losses[-1] = losses[-1] + self.linear * relative.mean()
        return torch.stack(losses).mean()


def discriminator_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Hinge loss over all discriminators: real scores pushed above 1, those of reconstructions below -1."""
    terms = [F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def adversarial_loss(fake: list[Tensor]) -> Tensor:
    """What the codec pays for being recognised, averaged over all discriminators.

    Linear, as the hinge loss of a generator is: a discriminator that is sure still gives a gradient.
    """
    return torch.stack([-f.float().mean() for f in fake]).mean()


def feature_sizes(real: list[list[Tensor]]) -> Tensor:
    """Mean absolute value of each of the discriminators' inner features, over all processes: [number of features]."""
    return mean_over_processes(torch.stack([r.float().detach().abs().mean() for rs in real for r in rs]))


def feature_matching_loss(real: list[list[Tensor]], fake: list[list[Tensor]], sizes: Tensor | None = None) -> Tensor:
    """Mean absolute distance of the discriminators' inner features, relative to the size of the real ones.

    ``sizes``: those of the whole batch, where these are features of a part of it.
    """
    pairs = [pair for rs, fs in zip(real, fake, strict=True) for pair in zip(rs, fs, strict=True)]
    sizes = feature_sizes(real) if sizes is None else sizes
    terms = [
        F.l1_loss(f.float(), r.float().detach()) / size.clamp(min=1e-4)
        for (r, f), size in zip(pairs, sizes, strict=True)
    ]
    return torch.stack(terms).mean()


class Balancer:
    """Gives each loss its share of the gradient at the codec's output, whatever its own scale (EnCodec, section 3.4).

    `weights` name the losses and their shares. `gradient(losses, wave)` returns the gradient to send back
    through the codec: the sum of each loss's gradient over an average of its norm, times its share. The first
    loss sets the unit (its own averaged norm), so that terms outside of the balance keep their weight beside it.

    With ``plain`` the losses are summed as they are, times their weights, and the norms are only measured.

    Norms are measured at every `every`-th call, which costs a backward pass for each loss; in between, all losses
    share one pass and the norms stay. The averages forget as fast per call whatever `every` is.
    """

    def __init__(self, weights: dict[str, float], decay: float = 0.99, every: int = 1, plain: bool = False) -> None:
        self.weights = dict(weights)
        self.plain = plain
        self.decay = decay**every
        self.every = every
        self.calls = 0
        self.norms: dict[str, float] = {}

    def gradient(self, losses: dict[str, Tensor], wave: Tensor) -> Tensor:
        """losses by name, each a scalar that depends on wave [B, C, N] -> gradient [B, C, N]."""
        return self.gradient_of_parts([(losses, wave)], 1)

    def gradient_of_parts(self, parts: Iterable[tuple[dict[str, Tensor], Tensor]], count: int) -> Tensor:
        """The same for a batch in ``count`` equal parts [B / count, C, N], each with its losses, one after another."""
        several: list[dict[str, Tensor]] = []
        sums: list[Tensor] = []
        for losses, wave in parts:
            if not several and not sums:
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
                # per clip, so that the batch's size does not change the balance
                norm = float(mean_over_processes(gradient.flatten(1).norm(dim=1).mean()))
                before = self.norms.get(name)
                self.norms[name] = norm if before is None else self.decay * before + (1 - self.decay) * norm
            first = torch.zeros_like(gradients[names[0]])
            out = sum((self._factor(name, names) * gradients[name] for name in names), first)
        else:
            out = torch.cat(sums)
        return out if self.plain else out * self.norms[names[0]]

    def shares(self) -> dict[str, float]:
        """Each loss's part in the sum of the gradients' norms, as they are sent back; for the log."""
        parts = {name: self.weights[name] * (norm if self.plain else 1.0) for name, norm in self.norms.items()}
        return {name: part / (sum(parts.values()) + 1e-12) for name, part in parts.items()}

    def _factor(self, name: str, losses: Iterable[str]) -> float:
        if self.plain:
            return self.weights[name]
        return self.weights[name] / sum(self.weights[other] for other in losses) / (self.norms[name] + 1e-12)

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {**self.norms, "calls": self.calls}

    def load(self, norms: dict[str, float]) -> None:
        """Take back what `state` gave."""
        self.calls = int(norms.get("calls", 0))
        self.norms = {name: float(norm) for name, norm in norms.items() if name != "calls"}
