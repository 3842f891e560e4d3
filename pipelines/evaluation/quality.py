"""Predict what listeners would say of the sound quality of speech: DistillMOS and DNSMOS. Proxies, both.

A quality judge is never part of a loss and never chooses among outputs that it scores.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from codec.audio.signal import resample
from codec.audio.torchaudio_stub import import_torchaudio
from codec.errors import SoundloomError
from codec.metrics import require
from pipelines.evaluation.packages import package_folder, package_versions, weights_mark

RATE = 16_000
LEVEL = -26  # dB RMS below full scale (dBov), the level at which speech is scored
SILENCE = 1e-4  # RMS below which there is nothing to score
_TOGETHER = 4  # crops in one batch: memory stays the same for a recording of any length


class DistillMOS:
    """Predict a mean opinion score from 1 to 5 (Stahl and Gamper 2025), distilled from XLS-R.

    It notices what DNSMOS, STOI and word errors miss: speech whose harmonics are blurred scores low. Weights come with
    the package ``distillmos``; a smaller install is ``pip install --no-deps distillmos==0.9.1 xls-r-sqa==0.1.0``.
    """

    name = "DistillMOS"

    def __init__(self, device: str | torch.device = "cpu") -> None:
        folder = package_folder("distillmos", "distillmos")
        import_torchaudio()  # distillmos imports torchaudio, which fails where its compiled extension does not load
        package = require("distillmos.sqa")
        path = folder / "weights" / "distill_mos_v7.pt"
        weights = torch.load(path, map_location="cpu", weights_only=True)["model"]
        self._size, self._hop = package.SEQ_LEN, package.MAX_HOP_LEN
        # Loading the weights here avoids the package's print; cropping here bounds the memory.
        self._model = package.ConvTransformerSQAModel(load_weights=False, segmenting_in_forward=False)
        self._model.load_state_dict(weights)
        self._model.eval().to(device)
        self._device = device
        self.description = (
            f"{package_versions('distillmos')}, 16 kHz mono at {LEVEL} dBov, sha256 {weights_mark(path)}, 1 to 5"
        )

    @torch.no_grad()
    def __call__(self, wave: Tensor, sample_rate: int) -> float | None:
        """Return the score of wave [N] or [1, N], the mean over crops of 7.68 s; None for silence."""
        audio = at_level(wave, sample_rate)
        if audio is None:
            return None
        crops = self._crops(audio)
        scores = [self._model(part.to(self._device)).cpu() for part in crops.split(_TOGETHER)]
        return float(torch.cat(scores).mean())

    def _crops(self, audio: Tensor) -> Tensor:
        """Cut audio [N] as the package does: crops [n, 122,880] at most a second apart, padded with silence."""
        spare = max(0, audio.shape[0] - self._size)
        audio = torch.nn.functional.pad(audio, (0, max(0, self._size - audio.shape[0])))
        places = np.linspace(0, 1, int(np.ceil(spare / self._hop)) + 1)
        return torch.stack([audio[int(place * spare) :][: self._size] for place in places])


class Dnsmos:
    """Predict DNSMOS P.835, overall quality from 1 to 5, with the network inside of ``speechmos``.

    Made to compare noise suppressors. Only the network's file is needed:
    ``pip install onnxruntime && pip install --no-deps speechmos``.
    """

    name = "DNSMOS"
    seconds = 9.01  # length of the network's input
    polynomial = (-0.06766283, 1.11546468, 0.04602535)  # raw output to opinion scores, from speechmos

    def __init__(self) -> None:
        remedy = "pip install --no-deps speechmos"
        path = package_folder("speechmos", "speechmos", remedy) / "dnsmos_models" / "sig_bak_ovr.onnx"
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        versions = package_versions("speechmos", "onnxruntime")
        self.description = f"DNSMOS P.835 overall at {LEVEL} dB RMS, sha256 {weights_mark(path)}, {versions}"

    def __call__(self, wave: Tensor, sample_rate: int) -> float | None:
        """Return the mean over windows a second apart of wave [N], repeated up to one window; None for silence."""
        audio = at_level(wave, sample_rate)
        if audio is None:
            return None
        audio = audio.clamp(-1, 1)
        size = int(self.seconds * RATE)
        while audio.shape[0] < size:
            audio = audio.repeat(2)
        outputs = [
            float(self._session.run(None, {"input_1": window[None].numpy()})[0][0][2])
            for window in audio.unfold(0, size, RATE)
        ]
        return float(np.mean(np.polyval(self.polynomial, outputs)))


def at_level(wave: Tensor, sample_rate: int) -> Tensor | None:
    """Return wave [N] or [1, N] as [M] at 16 kHz and `LEVEL`; None for silence. Raises: SoundloomError on a shape."""
    if wave.dim() > 2 or (wave.dim() == 2 and wave.shape[0] != 1):
        raise SoundloomError(f"quality is judged on one channel, got {list(wave.shape)}; wanted [N] or [1, N]")
    audio = resample(wave.detach().float().cpu().reshape(-1), sample_rate, RATE)
    rms = float(audio.square().mean().sqrt()) if audio.numel() else 0.0
    if not rms >= SILENCE:  # NaN too
        return None
    return audio * (10 ** (LEVEL / 20) / rms)
