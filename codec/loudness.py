"""Loudness after ITU-R BS.1770, and the gain that raises a quiet recording before a codec encodes it.

A codec loses more of quiet sound. DAC brings a whole file to one loudness and stores the old one, EnCodec at 48 kHz
stores a scale for each second. Here a file has one gain, and only quiet recordings are raised: loud ones lose nothing.
A stream whose future is unknown keeps a gain of 1.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

TARGET = -20.0  # LUFS that quiet recordings are raised to
SILENCE = -90.0  # LUFS; BS.1770 has -70, where speech may still be raised. Dither of 16 bits is at about -94
_RELATIVE = 0.1  # blocks 10 dB below the mean are pauses
_OFFSET = -0.691  # so that a sine of 997 Hz at full scale has -3.01 LUFS
_PARTS = 4  # steps of 100 ms in a block of 400 ms


class LoudnessMeter:
    """Gated loudness and peak of a recording that comes in pieces of any length; its memory is 8 bytes for 100 ms."""

    def __init__(self, sample_rate: int) -> None:
        self.peak = 0.0
        self._step = max(1, round(sample_rate / 10))
        self._rate = sample_rate
        self._powers: list[Tensor] = []  # of each step of 100 ms, channels added
        self._rest: Tensor | None = None

    def add(self, wave: Tensor) -> None:
        """Take the next samples [C, n] at full scale 1."""
        wave = wave.detach().to("cpu", torch.float32)
        if not wave.shape[1]:
            return
        self.peak = max(self.peak, float(wave.abs().max()))
        wave = wave if self._rest is None else torch.cat([self._rest, wave], 1)
        whole = wave.shape[1] // self._step * self._step
        self._rest = wave[:, whole:].clone()
        if whole:
            self._powers.append(self._weighted(wave[:, :whole]))

    def loudness(self) -> float:
        """Return the loudness in LUFS of what was added; minus infinity for silence."""
        powers = self._powers
        if sum(map(len, powers)) < _PARTS and self._rest is not None and self._rest.shape[1]:
            missing = self._step - self._rest.shape[1]
            rest = torch.nn.functional.pad(self._rest, (0, missing))  # of a sound shorter than a block, all counts
            powers = [*powers, self._weighted(rest) * (self._step / self._rest.shape[1])]
        steps = torch.cat(powers) if powers else torch.zeros(0, dtype=torch.float64)
        blocks = steps.unfold(0, _PARTS, 1).mean(1) if len(steps) >= _PARTS else steps.mean(0, keepdim=True)
        blocks = blocks[blocks > 10 ** ((SILENCE - _OFFSET) / 10)]
        if not len(blocks):
            return -math.inf
        blocks = blocks[blocks > _RELATIVE * blocks.mean()]
        return _OFFSET + 10 * math.log10(float(blocks.mean()))

    def gain(self) -> float:
        """Return the factor for the encoder's input, a float32 of at least 1; 1 for silence and for loud sound.

        It raises the loudness to `TARGET`, and no peak beyond full scale. It is a whole number of tenths of a decibel,
        so that the last bits of a sum do not change the codes.
        """
        loudness = self.loudness()
        if loudness == -math.inf:
            return 1.0
        room = -20 * math.log10(self.peak)
        tenths = max(0, min(round(10 * (TARGET - loudness)), math.floor(10 * room)))
        return float(np.float32(10 ** (tenths / 200)))

    def _weighted(self, wave: Tensor) -> Tensor:
        """Return the mean square of each step of a wave [C, m · step] after the K filter, channels added: [m].

        The filter weighs the spectrum of a step, instead of running over the samples: nothing passes between pieces.
        """
        spectrum = torch.fft.rfft(wave.unflatten(1, (-1, self._step)).double())  # [C, m, bins]
        weights = _k_weights(self._step, self._rate)
        return (spectrum.abs().square() * weights).sum((0, 2))


def gain_of(wave: Tensor, sample_rate: int) -> float:
    """Return the `LoudnessMeter.gain` of a whole recording [C, N].

    ``codec.decode(codec.encode(wave * gain)) / gain`` has the level of the recording.
    """
    meter = LoudnessMeter(sample_rate)
    meter.add(wave)
    return meter.gain()


@functools.lru_cache(maxsize=16)
def _k_weights(step: int, sample_rate: int) -> Tensor:
    """Return what each bin of `torch.fft.rfft` of ``step`` samples adds to their weighted mean square."""
    hertz = torch.fft.rfftfreq(step, 1 / sample_rate, dtype=torch.float64)
    delay = torch.exp(-2j * math.pi * hertz.clamp(max=24_000) / 48_000)  # the filter is defined at 48 kHz
    response = torch.ones_like(delay)
    for above, below in _K_FILTER:
        response *= _polynomial(above, delay) / _polynomial(below, delay)
    both_sides = torch.full_like(hertz, 2.0)
    both_sides[0] = 1.0
    if step % 2 == 0:
        both_sides[-1] = 1.0
    return response.abs().square() * both_sides / step**2


# BS.1770-4: the shelf of a head, then the high-pass; each as coefficients of its numerator and denominator.
_K_FILTER = (
    ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)),
    ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)),
)


def _polynomial(coefficients: tuple[float, float, float], delay: Tensor) -> Tensor:
    first, second, third = coefficients
    return first + second * delay + third * delay**2
