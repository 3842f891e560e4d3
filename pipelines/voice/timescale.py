"""Speaking rate: longer or shorter speech of the same pitch, by waveform-similarity overlap-add.

WSOLA (Verhelst & Roelands 1993): windows are taken from the input ``speed`` times as far apart as they are laid down,
each moved by up to 10 ms to where it continues the window before it best.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.errors import SoundloomError

SLOWEST, FASTEST = 0.5, 2.0
_WINDOW, _SEARCH = 0.030, 0.010  # seconds


def checked_speed(speed: float) -> float:
    """Return the speed. Raises: SoundloomError where it is not from 0.5 to 2."""
    good = isinstance(speed, (int, float)) and not isinstance(speed, bool) and SLOWEST <= speed <= FASTEST
    if not good:
        raise SoundloomError(f"speed is {str(speed)[:60]}; expected {SLOWEST:g} (slow) to {FASTEST:g} (fast)")
    return float(speed)


def stretch(wave: Tensor, sample_rate: int, speed: float) -> Tensor:
    """Return wave [C, N] at ``speed`` times its rate, [C, round(N / speed)], with the same pitch."""
    if speed == 1.0:
        return wave
    stretcher = Stretcher(sample_rate, speed)
    return torch.cat([stretcher.push(wave), stretcher.finish()], dim=-1)


class Stretcher:
    """`stretch` for a stream; the chunks joined are the same samples, however the input is cut."""

    def __init__(self, sample_rate: int, speed: float) -> None:
        self.speed = checked_speed(speed)
        self.hop = max(8, round(_WINDOW * sample_rate / 2))
        self.search = max(1, round(_SEARCH * sample_rate))
        self.window = torch.hann_window(2 * self.hop)
        self.input: Tensor | None = None  # from sample `dropped` of the input on
        self.nothing = torch.zeros(1, 0)
        self.dropped = 0
        self.received = self.given = self.frame = self.last = 0
        self.tail: Tensor | None = None  # the second half of the last window, still to be overlapped

    def push(self, wave: Tensor) -> Tensor:
        """Take the next samples [C, n] and return those that are now final [C, m]."""
        self.nothing = wave[:, :0]
        if self.speed == 1.0:
            return wave
        self.received += wave.shape[-1]
        self.input = wave if self.input is None else torch.cat([self.input, wave], dim=-1)
        made = [wave[:, :0]]
        while self._reach() <= self.received:
            made.append(self._next())
        return self._counted(torch.cat(made, dim=-1))

    def finish(self) -> Tensor:
        """Return the samples that waited [C, n]; all chunks together last input / speed."""
        if self.input is None:
            return self.nothing
        total = round(self.received / self.speed)
        made = [self.input[:, :0]]
        while self.given + sum(part.shape[-1] for part in made) < total:
            missing = max(0, self._reach() - self.dropped - self.input.shape[-1])
            self.input = F.pad(self.input, (0, missing))
            made.append(self._next())
        return self._counted(torch.cat(made, dim=-1)[:, : total - self.given])

    def _counted(self, wave: Tensor) -> Tensor:
        self.given += wave.shape[-1]
        return wave

    def _ideal(self) -> int:
        return round(self.frame * self.hop * self.speed)

    def _reach(self) -> int:
        """Return how many input samples the next window may need."""
        return max(self._ideal() + self.search, self.last + self.hop) + 2 * self.hop

    def _next(self) -> Tensor:
        """Lay down the next window and return the samples [C, hop] that it completes."""
        assert self.input is not None
        start = self._best_start()
        piece = self.input[:, start - self.dropped : start - self.dropped + 2 * self.hop]
        rise, fall = self.window.to(piece).chunk(2)
        first, second = piece[:, : self.hop], piece[:, self.hop :]
        done = first if self.tail is None else self.tail + first * rise
        self.tail, self.last = second * fall, start
        self.frame += 1
        self._forget(min(self._ideal() - self.search, self.last + self.hop))
        return done

    def _best_start(self) -> int:
        """Return where the next window starts: near its ideal place, most like the natural continuation."""
        assert self.input is not None
        if self.tail is None:
            return 0
        low = max(0, self._ideal() - self.search)
        count = self._ideal() + self.search - low + 1
        mono = self.input.mean(0)
        region = mono[low - self.dropped : low - self.dropped + count - 1 + 2 * self.hop]
        wanted = mono[self.last + self.hop - self.dropped :][: 2 * self.hop]
        products = F.conv1d(region[None, None], wanted[None, None])[0, 0]
        energy = F.conv1d(region.square()[None, None], torch.ones_like(wanted)[None, None])[0, 0]
        likeness = products / energy.clamp(min=1e-8).sqrt()
        return low + int(likeness.argmax())

    def _forget(self, before: int) -> None:
        """Drop input samples that no later window can need."""
        n = min(max(0, before - self.dropped), 0 if self.input is None else self.input.shape[-1])
        if n > self.hop * 8 and self.input is not None:
            self.input, self.dropped = self.input[:, n:], self.dropped + n
