"""Measure how close two waveforms are (mel distance, SI-SDR, PESQ, STOI, ViSQOL), and how codebooks are used.

PESQ, STOI and ViSQOL come from the packages of the extra ``eval``. A judge that cannot score a pair returns
None, which counts as failed and is never replaced by a number.
"""

from __future__ import annotations

import functools
import importlib
import math
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from codec.audio.signal import mel_filterbank, resample
from codec.common.extras import install_hint
from codec.errors import SoundloomError

MEL_SCALES = ((2048, 150), (512, 80))  # (window, mels), hop a quarter of the window: DAC's
MEL_FLOOR = 1e-5
MEL_RECIPE = (
    "mean over samples' channels and frames; per scale: L1 of log10((mel magnitude clamped at 1e-5)^2) plus L1 of mel "
    "magnitude; scales summed: windows 2048 and 512 (Hann, centred, reflected), hop a quarter, 150 and 80 Slaney mels"
)
JUDGE_RATE = 16_000  # PESQ-WB and STOI


class SiSdr(NamedTuple):
    """``decibels`` after alignment; ``lag`` in samples, positive where the estimate is late."""

    decibels: float
    lag: int


@dataclass(frozen=True)
class Summary:
    """A mean with its 95% bootstrap interval over utterances: ``n`` were scored, ``n_failed`` were not."""

    mean: float
    low: float
    high: float
    n: int
    n_failed: int


@dataclass(frozen=True)
class LevelUse:
    """How one level's codebook is used: share of codes that occur, and exp(entropy) of their frequencies."""

    used: float
    perplexity: float


def mel_distance(reference: Tensor, estimate: Tensor, sample_rate: int) -> float:
    """Return the distance of mel spectrograms by DAC's recipe (`MEL_RECIPE`).

    0 is equal; good speech codecs reach 0.5 to 1. ``reference``, ``estimate``: [..., N]; the longer one is cut. Values
    depend on the sample rate: compare at one rate only. Raises: `SoundloomError` where nothing is left to compare.
    """
    distance = MelDistance(sample_rate)
    distance.add(*_same_length(reference, estimate))
    return distance.value()


class MelDistance:
    """`mel_distance` of waveforms that come piece by piece; an hour needs no more memory than its pieces."""

    def __init__(self, sample_rate: int) -> None:
        self._scales = [_MelScale(window, mels, sample_rate) for window, mels in MEL_SCALES]

    def add(self, reference: Tensor, estimate: Tensor) -> None:
        """Take the next samples of both, [..., n]."""
        pair = torch.stack([wave.reshape(-1, wave.shape[-1]).float() for wave in (reference, estimate)])
        for scale in self._scales:
            scale.add(pair)

    def value(self) -> float:
        """End both waveforms and return their distance."""
        return sum(scale.value() for scale in self._scales)


def si_sdr(reference: Tensor, estimate: Tensor, max_lag: int = 2400) -> SiSdr:
    """Return the scale-invariant signal-to-distortion ratio after the shift (up to ``max_lag``) that correlates best.

    ``reference``, ``estimate``: [N]; means are removed; the result is within ±100 dB. One sample of shift can cost
    13 dB, so always report the lag.
    Raises: `SoundloomError` on silence, for which the ratio is undefined.
    """
    lag = find_lag(reference, estimate, max_lag)
    reference, estimate = shift(reference, estimate, lag)
    reference = reference.double() - reference.double().mean()
    estimate = estimate.double() - estimate.double().mean()
    energy = reference.square().sum()
    if energy == 0 or estimate.square().sum() == 0:
        raise SoundloomError("SI-SDR of silence means nothing: leave silent utterances out")
    target = (estimate @ reference) / energy * reference
    noise = (estimate - target).square().sum()
    ratio = float(target.square().sum() / noise) if noise > 0 else math.inf
    return SiSdr(10 * math.log10(min(max(ratio, 1e-10), 1e10)), lag)


def find_lag(reference: Tensor, estimate: Tensor, max_lag: int = 2400) -> int:
    """Return the shift, up to ``max_lag`` samples either way, at which waveforms [N] correlate best; positive: late."""
    reference, estimate = _same_length(reference, estimate)
    if reference.dim() != 1:
        raise SoundloomError(f"alignment wants waveforms [N], got {list(reference.shape)}: choose a channel")
    n = reference.shape[0]
    max_lag = min(max_lag, n - 1)
    size = 1 << (n + max_lag).bit_length()
    spectrum = torch.fft.rfft(estimate.double(), size) * torch.fft.rfft(reference.double(), size).conj()
    correlation = torch.fft.irfft(spectrum, size)
    around = torch.cat([correlation[size - max_lag :], correlation[: max_lag + 1]])  # lags -max_lag … max_lag
    return int(around.argmax()) - max_lag


def shift(reference: Tensor, estimate: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """Cut [N] waveforms to the part in which ``estimate``, ``lag`` samples late, and ``reference`` overlap."""
    return _same_length(reference[max(0, -lag) :], estimate[max(0, lag) :])


def pesq_wb(reference: Tensor, estimate: Tensor, sample_rate: int) -> float | None:
    """Return PESQ wide-band (P.862.2) at 16 kHz, 1.04 to 4.64; None where PESQ refuses (silence, less than 0.25 s).

    ``reference``, ``estimate``: [N]. Utterances over 20 s are refused too: the package's C code has fixed tables.
    """
    pesq = require("pesq")
    pair = _judge_pair(reference, estimate, sample_rate)
    if len(pair[0]) > 20 * JUDGE_RATE or not all(np.abs(wave).max() > 0 for wave in pair):
        return None
    try:
        score = float(pesq.pesq(JUDGE_RATE, *pair, "wb"))
    except (pesq.PesqError, ValueError):
        return None
    return score if math.isfinite(score) else None


def stoi(reference: Tensor, estimate: Tensor, sample_rate: int) -> float | None:
    """Return short-time objective intelligibility at 16 kHz, 0 to 1; None where too little speech is left to score.

    ``reference``, ``estimate``: [N], aligned.
    """
    pystoi = require("pystoi")
    pair = _judge_pair(reference, estimate, sample_rate)
    if np.abs(pair[0]).max() == 0:
        return None
    with warnings.catch_warnings():
        # With too few frames the package warns and returns 1e-5.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            score = float(pystoi.stoi(*pair, JUDGE_RATE))
        except (RuntimeWarning, ValueError):
            return None
    return score if math.isfinite(score) else None


def visqol(reference: Tensor, estimate: Tensor, sample_rate: int) -> float | None:
    """Return ViSQOL's speech mode at 16 kHz, 1 to 5; None where it refuses (silence, much less than a second).

    ``reference``, ``estimate``: [N]. A port to Python (visqol-python) of Google's ViSQOL v3 (Chinen et al. 2020), with
    its lattice network. A proxy: harsh on low bitrates, and not the published tool itself.
    """
    judge = _visqol_judge()
    pair = [wave.astype(np.float64) for wave in _judge_pair(reference, estimate, sample_rate)]
    if not all(np.abs(wave).max() > 0 for wave in pair):
        return None
    try:
        score = float(judge.measure_from_arrays(*pair, JUDGE_RATE).moslqo)
    except (IndexError, ValueError):  # nothing that it takes for speech
        return None
    return score if math.isfinite(score) else None


@functools.cache
def _visqol_judge() -> Any:
    package = require("visqol")
    require("ai_edge_litert")  # without the lattice network its scores are one to two points too high
    judge = package.VisqolApi()
    judge.create(mode="speech", use_lattice_model=True)
    return judge


def summarize(values: Sequence[float | None], seed: int = 0) -> Summary:
    """Return mean and 95% bootstrap interval of the values; None counts as failed. NaN where none is left."""
    good = [value for value in values if value is not None]
    if not good:
        return Summary(math.nan, math.nan, math.nan, 0, len(values))
    low, high = bootstrap_interval(np.asarray(good), seed=seed)
    return Summary(float(np.mean(good)), low, high, len(good), len(values) - len(good))


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float] = lambda sample: float(sample.mean(axis=0)),
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of ``statistic`` over ``draws`` resamplings, with replacement, of the rows."""
    rng = np.random.default_rng(seed)
    found = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(draws)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def count_codes(codes: Tensor, codebook_size: int) -> Tensor:
    """Count each code: codes [B, K, T] -> long [K, codebook_size]; add the counts up over batches."""
    return torch.stack([torch.bincount(level.flatten(), minlength=codebook_size) for level in codes.unbind(1)])


def codebook_use(counts: Tensor) -> list[LevelUse]:
    """Return use and perplexity of each level from counts [K, codebook_size]."""
    share = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    entropy = -(share * share.clamp(min=1e-300).log()).sum(dim=1)
    return [
        LevelUse(used, perplexity)
        for used, perplexity in zip((counts > 0).double().mean(dim=1).tolist(), entropy.exp().tolist(), strict=True)
    ]


def attainable_perplexity(frames: int, codebook_size: int) -> float:
    """Return the perplexity that ``frames`` samples of equally likely codes show: few frames cannot show a high one.

    It is the exponential of the expected entropy of Poisson counts.
    """
    if frames < 1:
        return 1.0
    rate = frames / codebook_size
    count = torch.arange(1, int(rate + 12 * math.sqrt(rate) + 30), dtype=torch.float64)
    chance = torch.exp(count * math.log(rate) - rate - torch.lgamma(count + 1))
    return math.exp(math.log(frames) - float((chance * count * count.log()).sum()) * codebook_size / frames)


def expected_usage(perplexity: float, frames: int, codebook_size: int) -> float:
    """Return the share of a codebook that ``frames`` frames show if no code is dead and use has this ``perplexity``.

    Frequencies are taken to be log-normal, which real codebooks resemble. Level 0 is the most uneven, so that 1,024
    codes need tens of thousands of frames: at a perplexity of 300, 2,000 frames show 48%, 50,000 frames 95%.
    """
    middle = (torch.arange(codebook_size, dtype=torch.float64) + 0.5) / codebook_size
    normal = torch.special.ndtri(middle)
    low, high = 0.0, 30.0
    for _ in range(60):  # perplexity falls as the spread grows
        spread = (low + high) / 2
        share = torch.softmax(spread * normal, 0)
        found = math.exp(-float((share * share.clamp(min=1e-300).log()).sum()))
        low, high = (spread, high) if found > perplexity else (low, spread)
    never = torch.exp(frames * torch.log1p(-torch.softmax(high * normal, 0).clamp(max=1 - 1e-12)))
    return 1 - float(never.mean())


def alive_share(counts: Tensor) -> float:
    """Return the share of a codebook that is alive, from counts [codebook_size].

    The numbers of codes seen once and twice predict how many remain unseen (Chao 1984). Where nearly every code that
    occurs does so often, those that do not occur are dead.
    """
    seen, once, twice = (int(part) for part in ((counts > 0).sum(), (counts == 1).sum(), (counts == 2).sum()))
    return min(1.0, (seen + once * (once - 1) / (2 * (twice + 1))) / len(counts))


def require(module: str, extra: str = "eval") -> types.ModuleType:
    """Import an optional package. Raises: SoundloomError that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise SoundloomError(f"{module} needs {error.name}: {install_hint(extra)}") from error
        raise SoundloomError(f"{module} is not installed: {install_hint(extra)}") from error


def _same_length(reference: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    n = min(reference.shape[-1], estimate.shape[-1])
    if n == 0 or reference.shape[:-1] != estimate.shape[:-1]:
        raise SoundloomError(
            f"cannot compare waveforms of shape {list(reference.shape)} and {list(estimate.shape)}: "
            "wanted the same channels and at least one sample"
        )
    return reference[..., :n], estimate[..., :n]


_BLOCK = 4096  # frames whose spectra are in memory together


class _MelScale:
    """One scale of `MelDistance`: centred frames of both waveforms, whose ends are reflected."""

    def __init__(self, window: int, mels: int, sample_rate: int) -> None:
        self.window, self.hop = window, window // 4
        self.parts = _mel_parts(window, mels, sample_rate)
        self.waiting: Tensor | None = None  # [2, B, n]: samples that a later frame needs
        self.begun = False
        self.sum, self.count = 0.0, 0

    def add(self, pair: Tensor) -> None:
        """Take the next samples [2, B, n]."""
        self.waiting = pair if self.waiting is None else torch.cat([self.waiting, pair], -1)
        if not self.begun and self.waiting.shape[-1] > self.window // 2:
            self.begun = True
            self.waiting = torch.nn.functional.pad(self.waiting, (self.window // 2, 0), "reflect")
        while self.begun and self.waiting.shape[-1] >= self.window:
            count = min(_BLOCK, (self.waiting.shape[-1] - self.window) // self.hop + 1)
            self._compare(self.waiting[..., : (count - 1) * self.hop + self.window])
            self.waiting = self.waiting[..., count * self.hop :]

    def value(self) -> float:
        """Return the distance of everything that was added."""
        assert self.waiting is not None
        if not self.begun:  # reflection needs more samples than it mirrors; shorter waveforms end in silence
            self.add(self.waiting.new_zeros(*self.waiting.shape[:2], self.window // 2 + 1 - self.waiting.shape[-1]))
        # At least three quarters of a window wait, so that the end can be mirrored.
        self.waiting = torch.nn.functional.pad(self.waiting, (0, self.window // 2), "reflect")
        self.add(self.waiting[..., :0])
        return self.sum / self.count

    def _compare(self, pair: Tensor) -> None:
        hann, filters = (part.to(pair.device) for part in self.parts)
        spectrum = torch.stft(pair.flatten(0, 1), self.window, self.hop, window=hann, center=False, return_complex=True)
        x, y = (spectrum.abs().transpose(1, 2) @ filters).chunk(2)  # [B, frames, bins] @ [bins, mels]
        logs = [torch.log10(mel.clamp(min=MEL_FLOOR) ** 2) for mel in (x, y)]
        self.sum += float((logs[0] - logs[1]).abs().double().sum() + (x - y).abs().double().sum())
        self.count += x.numel()


@functools.lru_cache(maxsize=16)
def _mel_parts(window: int, mels: int, sample_rate: int) -> tuple[Tensor, Tensor]:
    return torch.hann_window(window), mel_filterbank(mels, window, sample_rate)


def _judge_pair(reference: Tensor, estimate: Tensor, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    reference, estimate = _same_length(reference, estimate)
    reference, estimate = (resample(wave.float().cpu(), sample_rate, JUDGE_RATE) for wave in (reference, estimate))
    return reference.numpy(), estimate.numpy()
