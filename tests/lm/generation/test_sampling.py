"""Sampling: which ids are kept, which are sampled, and whose random numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import SoundloomError
from lm.generation.sampling import SamplingConfig, distribution, sample

PLAIN = SamplingConfig(temperature=1.0, top_k=None)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(2, 12), st.integers(1, 12), st.floats(0.05, 1.0), st.floats(0.2, 3.0), st.integers(0, 99))
def test_kept_ids_against_a_plain_loop(V: int, top_k: int, top_p: float, temperature: float, seed: int) -> None:
    logits = torch.randn(V, generator=generator(seed))
    kept = distribution(logits, SamplingConfig(temperature, None, top_k, top_p)) > 0
    scores = (logits / temperature).tolist()
    order = sorted(range(V), key=lambda i: -scores[i])[:top_k]
    weights = torch.tensor([scores[i] for i in order]).softmax(0).tolist()
    before, expected = 0.0, set()
    for i, weight in zip(order, weights, strict=True):
        if abs(before - top_p) < 1e-5:
            return  # on the border rounding decides
        if before < top_p:
            expected.add(i)
        before += weight
    assert set(kept.nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("top_k", [1, 3, 39])
def test_ids_as_likely_as_the_last_kept_one_are_kept_too(top_k: int) -> None:
    logits = torch.randint(-3, 4, (2, 5, 40), generator=generator(0)).float()
    logits[:, 1:, 7] = float("-inf")
    kept = distribution(logits, SamplingConfig(1.0, None, top_k)) > 0
    least = logits.topk(top_k).values[..., -1:]
    assert torch.equal(kept, (logits >= least) & logits.isfinite())


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.1, 0.2, 0.0, 0.7]).log().expand(1, 20000, 4)
    drawn = sample(logits, [generator(0)], PLAIN)
    share = torch.bincount(drawn[0], minlength=4) / 20000
    assert share[2] == 0
    torch.testing.assert_close(share, torch.tensor([0.1, 0.2, 0.0, 0.7]), atol=0.015, rtol=0)


def test_a_row_does_not_depend_on_its_neighbours_nor_on_the_global_generator() -> None:
    logits = torch.randn(3, 5, 40)
    config = SamplingConfig(1.2, None, 20, 0.9)
    together = sample(logits, [generator(s) for s in (4, 5, 6)], config)
    torch.manual_seed(123)
    alone = [sample(logits[b : b + 1], [generator(4 + b)], config) for b in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_temperature_zero_is_the_most_likely_also_for_some_levels() -> None:
    logits = torch.randn(2, 3, 50)
    pair = [generator(0), generator(1)]
    assert torch.equal(sample(logits, pair, SamplingConfig(0.0)), logits.argmax(-1))
    mixed = sample(logits, pair, PLAIN, torch.tensor([5.0, 0.0, 5.0]))
    assert torch.equal(mixed[:, 1], logits.argmax(-1)[:, 1]) and not torch.equal(mixed, logits.argmax(-1))


def test_greedy_takes_as_many_random_numbers_as_drawing() -> None:
    one, two = generator(3), generator(3)
    sample(torch.randn(1, 4, 6), [one], SamplingConfig(0.0))
    sample(torch.randn(1, 4, 6), [two], PLAIN)
    assert torch.equal(torch.rand(3, generator=one), torch.rand(3, generator=two))


def test_forbidden_ids_are_never_drawn() -> None:
    logits = torch.full((1, 500, 6), float("-inf"))
    logits[..., 4] = 0.0
    assert (sample(logits, [generator(0)], PLAIN) == 4).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_broken_scores_are_an_error(value: str, temperature: float) -> None:
    with pytest.raises(SoundloomError, match="finite"):
        sample(torch.full((1, 2, 5), float(value)), [generator(0)], SamplingConfig(temperature))


def test_temperatures_of_levels() -> None:
    assert SamplingConfig(0.5, 0.25).temperatures(2, 0).tolist() == [0.5, 0.25]
    assert SamplingConfig(0.5, 0.25).temperatures(1, 3).tolist() == [0.25]
    assert SamplingConfig(0.5).temperatures(2).tolist() == [0.5, 0.5]
