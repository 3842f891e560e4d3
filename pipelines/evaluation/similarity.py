"""Compare speakers: the network of Resemblyzer, without that package's dependencies. A proxy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.audio.signal import mel_filterbank, resample
from pipelines.evaluation.packages import package_folder, weights_mark

RATE = 16_000


class SpeakerEncoder(nn.Module):
    """Embed a speaker by the network and weights of Resemblyzer (LSTM over 40 mels, GE2E).

    Unlike Resemblyzer itself, long pauses are not cut out. Only the package's weights file is needed:
    ``pip install --no-deps Resemblyzer``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        path = package_folder("resemblyzer", "Resemblyzer", "pip install --no-deps Resemblyzer") / "pretrained.pt"
        weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        own = self.state_dict().keys()  # the file also holds two values that only its training used
        self.load_state_dict({name: value for name, value in weights.items() if name in own})
        self.eval()
        self.description = f"Resemblyzer's speaker encoder, sha256 {weights_mark(path)}"

    @torch.inference_mode()
    def forward(self, wave: Tensor, sample_rate: int) -> Tensor | None:
        """Return the embedding [256], of length 1, of wave [N]: the mean over windows of 1.6 s; None for silence."""
        wave = resample(wave.detach().float().cpu(), sample_rate, RATE)
        rms = float(wave.square().mean().sqrt())
        if rms < 1e-4:
            return None
        wave = wave * max(1.0, 10 ** (-30 / 20) / rms)  # quiet speech is raised to -30 dB, as in its training
        wave = nn.functional.pad(wave, (0, max(0, 160 * 160 - wave.shape[0])))
        hann = torch.hann_window(400)
        spectrum = torch.stft(wave, 400, 160, window=hann, pad_mode="constant", return_complex=True)
        mel = spectrum.abs().square().t() @ mel_filterbank(40, 400, RATE)  # [frames, 40]
        windows = mel.unfold(0, 160, 77).transpose(1, 2)  # [windows, 160, 40]
        _, (hidden, _) = self.lstm(windows)
        parts = nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=1)
        return nn.functional.normalize(parts.mean(0), dim=0)

    def similarity(self, first: Tensor, second: Tensor, sample_rate: int) -> float | None:
        """Return the cosine of two waves [N]: about 0.6 for strangers, 0.9 for one voice; None where one is silent."""
        pair = [self(wave, sample_rate) for wave in (first, second)]
        return None if pair[0] is None or pair[1] is None else float(pair[0] @ pair[1])
