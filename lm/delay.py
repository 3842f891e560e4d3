"""The delay pattern: by how many steps each level runs behind level 0. No other file knows it.

Each column is one step of a model; `.` is the fill. K = 3 levels, T = 4 frames, `a0` is level a's frame 0::

    codes            delays 0, 1, 2       delays 0, 1, 1     delays 0, 0, 0
    a0 a1 a2 a3      a0 a1 a2 a3  .  .    a0 a1 a2 a3  .     a0 a1 a2 a3
    b0 b1 b2 b3       . b0 b1 b2 b3  .     . b0 b1 b2 b3     b0 b1 b2 b3
    c0 c1 c2 c3       .  . c0 c1 c2 c3     . c0 c1 c2 c3     c0 c1 c2 c3

A level knows what earlier steps wrote. With one step a level it knows all lower levels of its own frame, as a residual
quantizer needs; T frames cost T + K - 1 steps instead of T * K. Parallel levels know only earlier frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from codec.errors import SoundloomError

MOST_DELAY = 1024


class Pattern:
    """``delays[k]``: steps by which level k runs behind level 0, whose own delay is 0.

    The input of step s holds frame ``s - 1 - delays[k]`` of level k; its output scores frame ``s - delays[k]``.
    """

    def __init__(self, delays: Sequence[int]) -> None:
        self.delays = tuple(delays)
        if not self.delays or self.delays[0] != 0 or not all(0 <= d <= MOST_DELAY for d in self.delays):
            shown = str(list(self.delays))[:60]
            raise SoundloomError(f"delays {shown}: expected 0 for level 0 and 0 to {MOST_DELAY} for each other level")

    @classmethod
    def one_step_a_level(cls, levels: int) -> Pattern:
        """Return the delays 0, 1, 2 …, which a residual quantizer needs."""
        return cls(range(levels))

    @property
    def levels(self) -> int:
        """Number of levels, K."""
        return len(self.delays)

    @property
    def lag(self) -> int:
        """Steps by which the last level to be written runs behind level 0."""
        return max(self.delays)

    @overload
    def steps(self, frames: int) -> int: ...

    @overload
    def steps(self, frames: Tensor) -> Tensor: ...

    def steps(self, frames: int | Tensor) -> int | Tensor:
        """Return the number of steps that write all levels of the first ``frames`` frames."""
        return frames + self.lag

    def shift(self, codes: Tensor, fill: int) -> Tensor:
        """Shift each level right by its delay: codes [B, K, T] -> [B, K, T + lag], the gaps holding ``fill``."""
        B, K, T = codes.shape
        out = codes.new_full((B, K, self.steps(T)), fill)
        for k, delay in enumerate(self.delays):
            out[:, k, delay : delay + T] = codes[:, k]
        return out

    def unshift(self, shifted: Tensor) -> Tensor:
        """Undo `shift`: [B, K, T + lag] -> codes [B, K, T]."""
        T = shifted.shape[2] - self.lag
        if T < 0:
            raise ValueError(f"{shifted.shape[2]} steps are too few for delays of up to {self.lag}")
        return torch.stack([shifted[:, k, delay : delay + T] for k, delay in enumerate(self.delays)], dim=1)

    def inputs(self, codes: Tensor, start: int, end: int) -> Tensor:
        """Return the input ids of all steps: codes [B, K, T] -> [B, K, T + lag + 1].

        ``start`` stands before a level's first frame, ``end`` after its last.
        """
        B, K, T = codes.shape
        out = codes.new_full((B, K, self.steps(T) + 1), end)
        for k, delay in enumerate(self.delays):
            out[:, k, : delay + 1] = start
            out[:, k, delay + 1 : delay + 1 + T] = codes[:, k]
        return out

    def frames_of(self, inputs: Tensor, frames: int) -> Tensor:
        """Return the first ``frames`` frames that step inputs [B, K, S] hold: codes [B, K, frames]."""
        return self.unshift(inputs[:, :, 1 : self.steps(frames) + 1])

    def frame_of(self, inputs: Tensor, frame: int) -> Tensor:
        """Return one frame that step inputs [K, S] hold: codes [K]."""
        return torch.stack([inputs[k, frame + 1 + delay] for k, delay in enumerate(self.delays)])

    def aligned(self, hidden: Tensor, frames: int) -> Tensor:
        """Line steps up with frames: hidden [B, S, D] -> [K, B, frames, D], what scores frame t of level k.

        Lining up hidden states costs less than lining up logits.
        """
        return torch.stack([hidden[:, delay : delay + frames] for delay in self.delays])

    def frames_at(self, step: int, device: torch.device | str | None = None) -> Tensor:
        """Return the frame of each level that ``step`` scores, long [K]; below 0 before a level's first."""
        return step - torch.tensor(self.delays, device=device)

    def reads(self, frames: Tensor, first: int, end: int) -> Tensor:
        """Return which of the steps ``first`` … ``end`` - 1 read some of the first ``frames`` [B]: bool [B, n]."""
        steps = torch.arange(first, end, device=frames.device)
        return (steps < self.free_of(frames)[:, None]) & (frames[:, None] > 0)

    def free_of(self, frames: Tensor) -> Tensor:
        """Return the first step that reads none of the first ``frames`` frames, long [B]."""
        return frames + self.lag + 1
