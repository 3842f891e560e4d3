"""The networks that learn to separate real sound from reconstructed: STFT scales, periods, log-mel patches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from codec.audio.signal import mel_filterbank
from codec.errors import SoundloomError


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Which discriminators there are: one network for each window and each period. An empty tuple leaves a kind out.

    Args:
        windows: windows of the STFT discriminators, in samples.
        stft_channels: channels of each of their layers.
        power: exponent of the magnitudes in their input. 1 is the raw spectrum, in which the loudest partials hide
            everything else.
        periods: periods of the period discriminators, in samples.
        period_channels: channels of their first layer; later ones have up to four times as many.
        mel_windows: windows of the discriminators of log-mel patches, in samples; they cost next to nothing.
        mel_channels: channels of each of their layers.
    """

    windows: tuple[int, ...] = (1024, 512, 256)
    stft_channels: int = 16
    power: float = 0.3
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: int = 16
    mel_windows: tuple[int, ...] = ()
    mel_channels: int = 16

    def __post_init__(self) -> None:
        if not (self.windows or self.periods or self.mel_windows):
            raise SoundloomError("discriminators: name at least one window or period")
        if min((*self.windows, *self.mel_windows), default=64) < 16 or min(self.periods, default=1) < 1:
            raise SoundloomError("discriminators: windows must be 16 samples or more, and periods 1 or more")
        if min(self.stft_channels, self.period_channels, self.mel_channels) < 1 or not 0 < self.power <= 2:
            raise SoundloomError("discriminators: channels must be 1 or more, and power over 0 and at most 2")


class STFTDiscriminator(nn.Module):
    """Judge one complex spectrogram (EnCodec, Défossez et al. 2022): wave [B, 1, N] -> score, features.

    The input has three channels: the compressed spectrum's real and imaginary parts, and the log magnitude.
    """

    window: Tensor

    def __init__(self, window: int, channels: int, power: float) -> None:
        super().__init__()
        self.size = window
        self.power = power
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        layers = [nn.Conv2d(3, channels, (3, 9), stride=(1, 2), padding=(1, 4))]
        for dilation in (1, 2, 4):  # along time; frequency is halved by the stride
            layers.append(
                nn.Conv2d(channels, channels, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4))
            )
        layers.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.output = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def compressed_spectrum(self, wave: Tensor) -> Tensor:
        """wave [B, 1, N] -> [B, 3, frames, bins]."""
        wave = wave.squeeze(1).float()
        X = torch.stft(wave, self.size, self.size // 4, window=self.window, normalized=True, return_complex=True)
        magnitude = (X.real.square() + X.imag.square() + 1e-8).sqrt()
        gain = magnitude ** (self.power - 1)
        loudness = (magnitude + 1e-3).log() / 3 + 1  # about -1 to 1
        return torch.stack([X.real * gain, X.imag * gain, loudness], 1).transpose(2, 3)

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.compressed_spectrum(wave)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.output(x), features


class PeriodDiscriminator(nn.Module):
    """Looks at every p-th sample side by side (HiFi-GAN, Kong et al. 2020): wave [B, 1, N] -> score, features.

    Columns stand side by side in the batch: scores and features are [B * period, channels, T], clip by clip.
    """

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 2 * channels, 4 * channels, 4 * channels]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), stride=(3, 1), padding=(2, 0))) for a, b in pairwise(widths)
        )
        self.output = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        # [B, 1, N] -> [B * period, 1, T]: kernels are one column wide, so that a column can be a clip of its own. As
        # convolutions over [B, 1, T, period] on a CPU, their backward passes take several times as long.
        x = F.pad(wave, (0, -wave.shape[-1] % self.period)).unflatten(-1, (-1, self.period))
        x = x.permute(0, 3, 1, 2).flatten(0, 1)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(self._along_columns(layer, x), 0.2)
            features.append(x)
        return self._along_columns(self.output, x), features

    @staticmethod
    def _along_columns(layer: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(layer, nn.Conv2d)
        return F.conv1d(x, layer.weight.squeeze(-1), layer.bias, layer.stride[0], layer.padding[0])


class MelDiscriminator(nn.Module):
    """Score patches of a log-mel spectrogram (PatchGAN, Isola et al. 2017): wave [B, 1, N] -> score, features.

    Each score depends on a patch of some ten frames and bands, so it judges texture and not the phrase.
    """

    BANDS = 80
    window: Tensor
    filters: Tensor

    def __init__(self, window: int, channels: int, sample_rate: int) -> None:
        super().__init__()
        self.size = window
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.register_buffer("filters", mel_filterbank(self.BANDS, window, sample_rate), persistent=False)
        strides = ((1, 1), (1, 2), (2, 2), (1, 1))  # along time and bands
        widths = (1, *[channels] * len(strides))
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, 3, stride=stride, padding=1))
            for (a, b), stride in zip(pairwise(widths), strides, strict=True)
        )
        self.output = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        wave = wave.squeeze(1).float()
        X = torch.stft(wave, self.size, self.size // 4, window=self.window, return_complex=True)  # [B, bins, frames]
        magnitude = (X.real.square() + X.imag.square() + 1e-8).sqrt()
        x = (magnitude.transpose(1, 2) @ self.filters + 1e-3).log().unsqueeze(1) / 3 + 1  # [B, 1, frames, bands]
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.output(x), features


class Discriminators(nn.Module):
    """All of them: wave [B, 1, N] -> scores (one tensor each) and features (a list of tensors each)."""

    def __init__(self, config: DiscriminatorConfig, sample_rate: int = 24_000) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [STFTDiscriminator(window, config.stft_channels, config.power) for window in config.windows]
            + [PeriodDiscriminator(period, config.period_channels) for period in config.periods]
            + [MelDiscriminator(window, config.mel_channels, sample_rate) for window in config.mel_windows]
        )

    def forward(self, wave: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        scores, features = zip(*(part(wave) for part in self.parts), strict=True)
        return list(scores), list(features)
