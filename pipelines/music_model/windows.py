"""Music of any length: overlapping windows. Each continues the end of the one before.

As audiocraft's ``extend_stride``: a window of 30 s adds 18 s and keeps the 12 s before them as its prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from codec.common.seeds import checked_seed, stable_seed


@dataclass(frozen=True)
class Windows:
    """``longest``: frames of a window; ``stride``: frames that each window after the first adds."""

    longest: int
    stride: int

    def parts(self, before: int, new: int) -> Iterator[tuple[int, int]]:
        """Return (frames kept as prompt, frames added) of each window, after ``before`` frames until ``new`` more."""
        done, total = before, before + new
        while done < total:
            fits = done + (total - done) <= self.longest and done == before
            kept = done if fits else min(done, self.longest - self.stride)
            added = min(self.longest - kept, total - done)
            yield kept, added
            done += added

    def steps(self, before: int, new: int, lag: int) -> int:
        """Return how many steps a decoder takes in all."""
        return sum(added + lag for _, added in self.parts(before, new))


class WriteWindow(Protocol):
    """Writes one window: codes long [B, K, frames] that begin with prompt [B, K, P], a row for each seed."""

    def __call__(
        self, frames: int, prompt: Tensor | None, seeds: Sequence[int], on_step: Callable[[int], None], /
    ) -> Tensor: ...


def write_windows(
    write: WriteWindow,
    windows: Windows,
    new: int,
    prompt: Tensor,
    seeds: Sequence[int],
    lag: int,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Write ``new`` frames after prompt [B, K, P]; return all codes [B, K, P + new].

    Each window has seeds of its own, made from ``seeds``; the first has these themselves. ``lag``: steps by which a
    window takes longer than it has frames.
    """
    codes, before = prompt, prompt.shape[2]
    total, taken = windows.steps(before, new, lag), 0
    for index, (kept, added) in enumerate(windows.parts(before, new)):
        start = taken

        def count(step: int, start: int = start) -> None:
            if on_step is not None:
                on_step(start + step, total)

        context = codes[:, :, -kept:] if kept else None
        written = write(kept + added, context, [window_seed(seed, index) for seed in seeds], count)
        codes = torch.cat([codes.to(written.device), written[:, :, kept:]], dim=2)
        taken += added + lag
    return codes


def window_seed(seed: int, index: int) -> int:
    """Return the seed of a window: the first has the piece's own, the others hashes of it."""
    if checked_seed(seed) == seed and index == 0:
        return seed
    return stable_seed(seed, "window", index)
