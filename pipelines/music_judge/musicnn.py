"""musicnn (Pons and Serra 2019) in torch: 50 tags and an embedding of each clip, without TensorFlow.

The weights are those of the package musicnn 0.1.0 (ISC): MTT_musicnn, trained on MagnaTagATune. The network is
`build_musicnn` of its models.py; each step here names the layer of the checkpoint that it uses.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.audio import resample
from codec.metrics import require
from pipelines.evaluation.packages import package_folder
from pipelines.music_judge.tf_checkpoint import read_checkpoint

SAMPLE_RATE, _HOP, _WINDOW, _MELS = 16_000, 256, 512, 96
_FRAMES = 188  # 3 s, as the network was trained
_EPSILON = 1e-3  # of TensorFlow's batch normalisation
INSTALL = "pip install --no-deps musicnn==0.1.0"
TAGS = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano", "ambient",
    "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
    "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo", "man",
    "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello", "no voice",
    "weird", "country", "metal", "female voice", "choral",
)  # fmt: skip


class MusicNN:
    """Tags and embeddings of clips. Raises: SoundloomError where musicnn or librosa is not installed."""

    description = "musicnn 0.1.0, MTT_musicnn, its checkpoint read without TensorFlow"

    def __init__(self, folder: Path | None = None) -> None:
        require("librosa", "music")
        folder = folder or package_folder("musicnn", "musicnn", INSTALL) / "MTT_musicnn"
        self._weights = {name: torch.from_numpy(value) for name, value in read_checkpoint(f"{folder}/").items()}

    def __call__(self, wave: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
        """Return the probabilities of `TAGS` [50] and the embedding [D] of wave [N], means over pieces of 3 s."""
        with torch.no_grad():
            embedding, logits = self.network(self.spectrogram(wave, sample_rate))
        return logits.sigmoid().mean(0), embedding.mean(0)

    def spectrogram(self, wave: Tensor, sample_rate: int) -> Tensor:
        """Return log-mel spectra [pieces, 188, 96] of wave [N], as musicnn computes them."""
        import librosa

        samples = resample(wave[None], sample_rate, SAMPLE_RATE)[0].numpy()
        samples = np.pad(samples, (0, max(0, _FRAMES * _HOP - len(samples))))
        power: npt.NDArray[np.float32] = librosa.feature.melspectrogram(
            y=samples, sr=SAMPLE_RATE, n_fft=_WINDOW, hop_length=_HOP, n_mels=_MELS
        ).T
        mel = torch.from_numpy(np.log10(10_000 * power + 1).astype(np.float32))
        pieces = mel.shape[0] // _FRAMES
        return mel[: pieces * _FRAMES].reshape(pieces, _FRAMES, _MELS)

    def network(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (the pooled features [B, 753], means over time) and logits [B, 50] of mel [B, 188, 96]."""
        x = self._normal(mel[:, None], 0)  # [B, 1, time, frequency]
        padded = F.pad(x, (0, 0, 3, 3))
        front = [self._front(padded, 0), self._front(padded, 1)]
        for i, length in ((2, 128), (3, 64), (4, 32)):
            # TensorFlow's "same" padding of an even kernel has one more on the right
            front.append(self._front(F.pad(x, (0, 0, (length - 1) // 2, length // 2)), i))
        features = [torch.cat(front, 1)]  # [B, 561, time]
        first = self._middle(features[0], 5)
        second = self._middle(first, 6) + first
        features += [first, second, self._middle(second, 7) + second]
        joined = torch.cat(features, 1)  # [B, 753, time]
        pooled = torch.stack((joined.amax(2), joined.mean(2)), 2).flatten(1)  # as flattened there: max, mean, max …
        hidden = self._dense(self._normal(pooled, 9), "dense").relu()
        return joined.mean(2), self._dense(self._normal(hidden, 10), "dense_1")

    def _layer(self, kind: str, number: int, part: str) -> Tensor:
        return self._weights[f"{kind}_{number}/{part}" if number else f"{kind}/{part}"]

    def _normal(self, x: Tensor, number: int) -> Tensor:
        """Apply batch normalisation ``number`` over channels, dimension 1."""
        beta, gamma, mean, variance = (
            self._layer("batch_normalization", number, part)
            for part in ("beta", "gamma", "moving_mean", "moving_variance")
        )
        return F.batch_norm(x, mean, variance, gamma, beta, eps=_EPSILON)

    def _front(self, x: Tensor, number: int) -> Tensor:
        """Convolve over time and frequency, normalise, and take the largest over frequency: [B, channels, time]."""
        kernel = self._layer("conv2d", number, "kernel").permute(3, 2, 0, 1)
        return self._normal(F.conv2d(x, kernel, self._layer("conv2d", number, "bias")).relu(), number + 1).amax(3)

    def _middle(self, x: Tensor, number: int) -> Tensor:
        """Convolve x [B, channels, time] over time with 7 frames."""
        kernel = self._layer("conv2d", number, "kernel")[:, :, 0].permute(2, 1, 0)
        y = F.conv1d(x, kernel, self._layer("conv2d", number, "bias"), padding=3).relu()
        return self._normal(y, number + 1)

    def _dense(self, x: Tensor, name: str) -> Tensor:
        return x @ self._weights[f"{name}/kernel"] + self._weights[f"{name}/bias"]
