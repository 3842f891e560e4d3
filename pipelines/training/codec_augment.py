"""Change crops as the world does: rooms, noise, band limits, levels, clipping, lossy copies.

The changed crop is the codec's input and its target: a codec is to keep what it is given, not to restore it.
Everything is a function of the generator, which `Crops` seeds from the run's seed, the step and the crop.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.audio import encode_audio, read_audio, resample
from codec.errors import SoundloomError

STRETCHES = (0.8, 0.85, 0.9, 1.1, 1.15, 1.2)
BANDS = (8_000, 11_025, 12_000, 16_000, 22_050)  # sample rates of telephones, old files and wideband links
OPUS_BITRATES = (8_000, 12_000, 16_000, 24_000, 32_000, 48_000)
LOSSY_RATE = 24_000  # Opus and MP3 both take it
PEAK = 0.99

Draw = Callable[[np.random.Generator, int], Tensor]


@dataclass(frozen=True)
class AugmentSettings:
    """What is done to a crop before it is the codec's input and target. Probabilities are shares of the crops.

    Args:
        gain_db: the level is changed by up to this much, downwards or upwards.
        speed_probability: played faster or slower, which makes new voices of known ones.
        tilt_probability: low or high frequencies are weakened, as other rooms and microphones do.
        noise_probability: white noise at 15 to 45 dB below the signal.
        mix_probability: a second, weaker crop is added.
        room_probability: a synthetic room, whose sound decays by 60 dB within 0.1 to 0.9 s.
        coloured_noise_probability: white, pink or brown noise at coloured_noise_db below the signal.
        coloured_noise_db: range of that ratio.
        clip_probability: too loud by 1 to 12 dB for its recorder, so that peaks are cut off.
        band_probability: nothing above 4 to 11 kHz.
        lossy_probability: a copy by Opus at 8 to 48 kbit/s, or by MP3.
        level_probability: the peak is set to a level in level_db.
        level_db: range of that level, relative to full scale.
    """

    gain_db: float = 9.0
    speed_probability: float = 0.3
    tilt_probability: float = 0.2
    noise_probability: float = 0.1
    mix_probability: float = 0.05
    room_probability: float = 0.0
    coloured_noise_probability: float = 0.0
    coloured_noise_db: tuple[float, float] = (5.0, 40.0)
    clip_probability: float = 0.0
    band_probability: float = 0.0
    lossy_probability: float = 0.0
    level_probability: float = 0.0
    level_db: tuple[float, float] = (-45.0, 0.0)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_probability") and not 0 <= value <= 1:
                raise SoundloomError(f"augment.{field.name}: must be 0 to 1, not {value}")
        if not 0 <= self.gain_db <= 60:
            raise SoundloomError(f"augment.gain_db: must be 0 to 60, not {self.gain_db}")
        for name, low, high in (("coloured_noise_db", -20, 100), ("level_db", -80, 0)):
            first, last = getattr(self, name)
            if not low <= first <= last <= high:
                raise SoundloomError(f"augment.{name}: must be two rising numbers from {low} to {high}")


def augmented(
    crop: Tensor, rng: np.random.Generator, settings: AugmentSettings, sample_rate: int, draw: Draw
) -> Tensor:
    """Return crop [1, N], changed; ``draw(rng, length)`` gives another one [1, length] of the same sources."""
    length = crop.shape[1]
    if rng.random() < settings.speed_probability:
        to_rate = round(sample_rate * STRETCHES[rng.integers(len(STRETCHES))])
        wave = draw(rng, -(-length * sample_rate // to_rate) + 8)
        crop = resample(wave, sample_rate, to_rate)[:, :length]
    if rng.random() < settings.mix_probability:
        crop = crop + draw(rng, length) * 10 ** (rng.uniform(-20, -5) / 20)
    if rng.random() < settings.tilt_probability:
        # one zero at 0 Hz or at half the sample rate: a gentle loss of low or of high frequencies
        crop = crop + rng.uniform(-0.9, 0.9) * F.pad(crop, (1, 0))[:, :-1]
    if rng.random() < settings.noise_probability:
        noise = torch.from_numpy(rng.standard_normal(crop.shape, dtype=np.float32))
        crop = crop + noise * crop.square().mean().sqrt() * 10 ** (rng.uniform(-45, -15) / 20)
    crop = _in_the_wild(crop, rng, settings, sample_rate)
    crop = crop * 10 ** (rng.uniform(-settings.gain_db, settings.gain_db) / 20)
    if _happens(rng, settings.level_probability):
        crop = crop * 10 ** (rng.uniform(*settings.level_db) / 20) / crop.abs().max().clamp(min=1e-5)
    peak = float(crop.abs().max())
    return crop / peak * PEAK if peak > PEAK else crop


def _in_the_wild(crop: Tensor, rng: np.random.Generator, settings: AugmentSettings, sample_rate: int) -> Tensor:
    """Apply, in the order of a recording's life: room, noise, the recorder's clipping, band limit, lossy copy."""
    if _happens(rng, settings.room_probability):
        crop = in_room(crop, room_response(rng, sample_rate))
    if _happens(rng, settings.coloured_noise_probability):
        ratio = 10 ** (-rng.uniform(*settings.coloured_noise_db) / 20)
        crop = crop + coloured_noise(rng, crop.shape[1]) * crop.square().mean().sqrt() * ratio
    if _happens(rng, settings.clip_probability):
        top = float(crop.abs().max()) * 10 ** (-rng.uniform(1, 12) / 20)
        crop = crop.clamp(-top, top) if top > 0 else crop
    if _happens(rng, settings.band_probability):
        crop = band_limited(crop, sample_rate, [rate for rate in BANDS if rate < sample_rate], rng)
    if _happens(rng, settings.lossy_probability):
        crop = lossy_copy(crop, sample_rate, rng)
    return crop


def _happens(rng: np.random.Generator, probability: float) -> bool:
    # Without a draw where it is off: runs of before these settings resume to the bit.
    return probability > 0 and rng.random() < probability


def room_response(rng: np.random.Generator, sample_rate: int) -> Tensor:
    """Return a synthetic room's impulse response [N]: the direct sound, then noise that decays exponentially."""
    seconds = rng.uniform(0.1, 0.9)  # until the sound has decayed by 60 dB
    length = round(seconds * sample_rate)
    decay = torch.from_numpy(np.exp(-6.9 * np.arange(length) / length).astype(np.float32))
    tail = torch.from_numpy(rng.standard_normal(length, dtype=np.float32)) * decay
    tail[: round(rng.uniform(0.001, 0.01) * sample_rate)] = 0  # the first echo takes its way
    energy = 10 ** (-rng.uniform(0, 15) / 10)  # of the echoes, relative to the direct sound
    response = tail * (energy / tail.square().sum().clamp(min=1e-9)).sqrt()
    response[0] = 1
    return response


def in_room(crop: Tensor, response: Tensor) -> Tensor:
    """Return crop [1, N] as a room with this impulse response [M] returns it, cut to N samples."""
    size = crop.shape[1] + response.shape[0]
    spectrum = torch.fft.rfft(crop, size) * torch.fft.rfft(response, size)
    return torch.fft.irfft(spectrum, size)[:, : crop.shape[1]]


def coloured_noise(rng: np.random.Generator, length: int) -> Tensor:
    """Return noise [1, length] of unit power whose spectrum is flat, falls by 3 dB an octave (pink), or 6 (brown)."""
    slope = rng.choice([0.0, 0.5, 1.0])
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequencies = np.maximum(np.arange(len(spectrum)), max(1, length // 1000))  # flat below a thousandth of the rate
    noise = np.fft.irfft(spectrum / frequencies**slope, length)
    return torch.from_numpy((noise / max(noise.std(), 1e-9)).astype(np.float32))[None]


def band_limited(crop: Tensor, sample_rate: int, rates: list[int], rng: np.random.Generator) -> Tensor:
    """Return crop [1, N] without what is above half of one of ``rates``."""
    if not rates:
        return crop
    rate = rates[rng.integers(len(rates))]
    return _to_length(resample(resample(crop, sample_rate, rate), rate, sample_rate), crop.shape[1])


def lossy_copy(crop: Tensor, sample_rate: int, rng: np.random.Generator) -> Tensor:
    """Return crop [1, N] after Opus or MP3, in memory."""
    suffix = (".opus", ".mp3")[int(rng.random() < 0.3)]
    bitrate = OPUS_BITRATES[rng.integers(len(OPUS_BITRATES))] if suffix == ".opus" else None
    data = encode_audio(resample(crop, sample_rate, LOSSY_RATE), LOSSY_RATE, suffix, bitrate)
    return _to_length(read_audio(io.BytesIO(data), sample_rate, 1), crop.shape[1])


def _to_length(wave: Tensor, length: int) -> Tensor:
    return F.pad(wave, (0, max(0, length - wave.shape[1])))[:, :length]
