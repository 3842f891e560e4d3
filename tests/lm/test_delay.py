"""The delay pattern against a naive double loop, for any delays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import SoundloomError
from lm.delay import Pattern

DELAYS = st.lists(st.integers(0, 5), max_size=5).map(lambda rest: [0, *rest])


@given(st.integers(1, 3), DELAYS, st.integers(0, 9), st.integers(0, 999))
def test_against_a_double_loop(B: int, delays: list[int], T: int, seed: int) -> None:
    pattern, K = Pattern(delays), len(delays)
    codes = torch.randint(0, 50, (B, K, T), generator=torch.Generator().manual_seed(seed))
    shifted, inputs = pattern.shift(codes, 99), pattern.inputs(codes, 97, 98)
    steps = T + max(delays)
    assert shifted.shape == (B, K, steps) and inputs.shape == (B, K, steps + 1) and pattern.steps(T) == steps
    for b in range(B):
        for k, delay in enumerate(delays):
            for s in range(steps):
                inside = 0 <= s - delay < T
                assert int(shifted[b, k, s]) == (int(codes[b, k, s - delay]) if inside else 99)
            for s in range(steps + 1):
                frame = s - 1 - delay
                assert int(inputs[b, k, s]) == (97 if frame < 0 else 98 if frame >= T else int(codes[b, k, frame]))
    assert torch.equal(pattern.unshift(shifted), codes) and torch.equal(pattern.frames_of(inputs, T), codes)
    for frame in range(T):
        assert torch.equal(pattern.frame_of(inputs[0], frame), codes[0, :, frame])


@given(DELAYS, st.integers(0, 6), st.integers(0, 3))
def test_which_steps_read_and_score_which_frames(delays: list[int], frames: int, first: int) -> None:
    pattern = Pattern(delays)
    steps = range(first, first + 9)
    reads = pattern.reads(torch.tensor([frames, 0]), first, first + 9)
    for step, read in zip(steps, reads[0].tolist(), strict=True):
        later = any(0 <= s - 1 - delay < frames for s in range(step, step + 99) for delay in delays)
        assert read == later  # a step before the first reader, which reads START alone, counts as one too
        assert pattern.frames_at(step).tolist() == [step - delay for delay in delays]
    assert not reads[1].any()
    assert int(pattern.free_of(torch.tensor(frames))) == frames + max(delays) + 1
    hidden = torch.arange(frames + max(delays) + 1.0)[None, :, None]
    aligned = pattern.aligned(hidden, frames + 1)[:, 0, :, 0]
    assert aligned.tolist() == [[t + delay for t in range(frames + 1)] for delay in delays]


def test_the_examples_in_the_text() -> None:
    codes = torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]])
    shown = [[1, 2, 3, 4, 0, 0], [0, 5, 6, 7, 8, 0], [0, 0, 9, 10, 11, 12]]
    assert Pattern.one_step_a_level(3).shift(codes, 0)[0].tolist() == shown
    assert Pattern([0, 1, 1]).shift(codes, 0)[0].tolist() == [[*shown[0][:5]], [*shown[1][:5]], [0, 9, 10, 11, 12]]
    assert torch.equal(Pattern([0, 0, 0]).shift(codes, 0), codes)


def test_too_few_steps() -> None:
    with pytest.raises(ValueError, match="too few"):
        Pattern([0, 3]).unshift(torch.zeros(1, 2, 2, dtype=torch.long))


@pytest.mark.parametrize("delays", [[], [1, 2], [0, -1], [0, 10**6]])
def test_delays_that_are_none(delays: list[int]) -> None:
    with pytest.raises(SoundloomError, match="expected 0 for level 0"):
        Pattern(delays)
