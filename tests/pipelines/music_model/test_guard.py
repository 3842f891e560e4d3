"""The guard of music: holes of silence and exact repetition, and what is neither."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipelines.music_model.guard import is_silent, loops, verdict, worse

RATE, FRAMES = 24_000, 500  # 10 s at 50 frames a second


def codes(period: int | None = None, begin: int = 0, frames: int = FRAMES) -> Tensor:
    """Random codes [4, frames] that repeat a cycle from ``begin`` on."""
    made = torch.randint(0, 1024, (4, frames), generator=torch.Generator().manual_seed(0))
    if period is not None:
        for frame in range(begin + period, frames):
            made[:, frame] = made[:, frame - period]
    return made


@pytest.mark.parametrize(
    ("period", "frames_repeated", "found"),
    [(1, 80, True), (1, 60, False), (10, 170, True), (10, 120, False), (80, 330, True), (80, 250, False)],
)
def test_exact_repetition(period: int, frames_repeated: int, found: bool) -> None:
    made = codes()
    end = 100 + frames_repeated
    made[:, 100:end] = codes(period, 100)[:, 100:end]
    assert loops(made, 50.0) is found


def test_a_level_that_changes_is_no_loop() -> None:
    made = codes(10)
    assert loops(made, 50.0)
    made[3] = codes()[3]
    assert not loops(made, 50.0)
    assert not loops(codes(), 50.0) and not loops(codes(frames=1), 50.0) and not loops(codes(frames=0), 50.0)


def sound(quiet_from: float, quiet_to: float, seconds: float = 10.0) -> Tensor:
    wave = 0.1 * torch.randn(1, round(seconds * RATE), generator=torch.Generator().manual_seed(0))
    wave[:, round(quiet_from * RATE) : round(quiet_to * RATE)] *= 1e-3
    return wave


def test_silence() -> None:
    assert not is_silent(sound(0, 0), RATE) and not is_silent(sound(4, 5.9), RATE)
    assert is_silent(sound(4, 6.2), RATE) and is_silent(sound(0, 10), RATE) and is_silent(sound(0.5, 2, 2.0), RATE)
    assert not is_silent(sound(0, 1, 0.5), RATE)  # less than a second is no evidence


def test_verdicts_and_their_order() -> None:
    assert verdict(codes(), 50.0, sound(0, 0), RATE) == "end"
    assert verdict(codes(1), 50.0, sound(0, 0), RATE) == "loop"
    assert verdict(codes(1), 50.0, sound(0, 10), RATE) == "silence"
    assert worse("silence", "loop") and worse("loop", "end") and not worse("end", "end")
