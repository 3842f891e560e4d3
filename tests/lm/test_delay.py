"""delay and undelay against a naive double loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm.delay import delay, undelay


@given(st.integers(1, 3), st.integers(1, 6), st.integers(0, 9), st.randoms(use_true_random=False))
def test_against_a_double_loop(B: int, K: int, T: int, random: object) -> None:
    codes = torch.randint(0, 50, (B, K, T), generator=torch.Generator().manual_seed(random.randint(0, 999)))  # type: ignore[attr-defined]
    delayed = delay(codes, 99)
    assert delayed.shape == (B, K, T + K - 1)
    for b in range(B):
        for k in range(K):
            for s in range(T + K - 1):
                expected = int(codes[b, k, s - k]) if 0 <= s - k < T else 99
                assert int(delayed[b, k, s]) == expected
    assert torch.equal(undelay(delayed), codes)


def test_the_drawn_example() -> None:
    codes = torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]])
    drawn = [[1, 2, 3, 4, 0, 0], [0, 5, 6, 7, 8, 0], [0, 0, 9, 10, 11, 12]]
    assert delay(codes, 0)[0].tolist() == drawn


def test_too_few_steps() -> None:
    with pytest.raises(ValueError, match="too few"):
        undelay(torch.zeros(1, 4, 2, dtype=torch.long))
