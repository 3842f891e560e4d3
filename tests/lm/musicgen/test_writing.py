"""Writing with a tiny MusicGen network: what it returns can be trained with, and sizes are checked before any work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from codec.errors import SoundloomError
from lm.musicgen.generate import MusicGenSampling, generate
from lm.musicgen.network import MusicGenLM, MusicGenLMConfig

SHAPE = dict(codebook_size=11, dim=16, num_layers=2, num_heads=2, ffn_dim=20, text_dim=8)


def music_lm(**changes: Any) -> MusicGenLM:
    torch.manual_seed(0)
    return MusicGenLM(MusicGenLMConfig(**{**SHAPE, **changes})).eval()


@pytest.mark.parametrize("channels", [1, 2])
def test_codes_can_be_used_in_training_and_the_model_after_writing(channels: int) -> None:
    model = music_lm(channels=channels)
    states, lengths = torch.randn(2, 5, 8), torch.tensor([5, 3])
    codes = generate(model, states, lengths, 12, seeds=[1, 2])
    assert codes.shape == (2, 4, 12) and not codes.is_inference()
    model.train()
    table = torch.nn.Embedding(11, 3)
    scores = model(states, lengths, codes, torch.tensor([12, 9])).logits
    (scores.square().sum() + table(codes).sum()).backward()
    assert model.code_embedding.grad is not None and table.weight.grad is not None


def test_autocast_around_it_changes_nothing() -> None:
    model, states = music_lm(), torch.randn(1, 5, 8)
    expected = generate(model, states, torch.tensor([5]), 12)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(generate(model, states, torch.tensor([5]), 12), expected)


def test_levels_may_have_temperatures_of_their_own() -> None:
    model = music_lm()
    greedy = generate(model, None, None, 10, settings=MusicGenSampling(temperature=0.0))
    fine = generate(model, None, None, 10, settings=MusicGenSampling(temperature=0.0, fine_temperature=5.0))
    assert torch.equal(fine[:, 0, 0], greedy[:, 0, 0]) and not torch.equal(fine[:, 1:], greedy[:, 1:])


@pytest.mark.parametrize(
    ("frames", "seeds", "message"),
    [(10**15, [0], "too many"), (0, [0], "at least 1"), (4, [], "no seeds"), (4, [0, 1], "1 texts for 2 seeds")],
)
def test_sizes_that_do_not_fit(frames: int, seeds: list[int], message: str) -> None:
    with pytest.raises(SoundloomError, match=message):
        generate(music_lm(), torch.zeros(1, 5, 8), torch.tensor([5]), frames, seeds=seeds)
