"""Any delay pattern trains, writes and streams: the model, the loop and MusicGen take their delays from `Pattern`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lm_models import CODES, LEVELS, TEXT, batch, delay_lm, streamed, written
from lm_store import FACTS
from torch import Tensor

from codec.errors import SoundloomError
from lm import load_lm, save_lm
from lm.generation.request import GenerateConfig
from lm.loss import lm_loss
from lm.step_lm import DelayLM, DelayLMConfig
from lm.text.tokenizer import TextTokenizer

PATTERNS = [(0, 0, 0), (0, 1, 2), (0, 1, 1), (0, 3, 1)]


def tokens() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.randint(0, TEXT, (3, 7), generator=g), torch.randint(0, CODES, (3, LEVELS, 4), generator=g)


@torch.no_grad()
@pytest.mark.parametrize("delays", PATTERNS)
def test_each_score_depends_on_what_the_delays_allow(delays: tuple[int, ...]) -> None:
    model, T = delay_lm(delays=delays), 5
    text, codes = torch.randint(0, TEXT, (1, 4)), torch.randint(0, CODES, (1, LEVELS, T))
    lengths = torch.tensor([4]), torch.tensor([T])
    base = model(text, lengths[0], codes, lengths[1]).logits
    assert base.shape == (1, LEVELS, T + 1, CODES + 1)
    for level in range(LEVELS):
        for frame in range(T):
            other = codes.clone()
            other[0, level, frame] = (other[0, level, frame] + 1) % CODES
            changed = (model(text, lengths[0], other, lengths[1]).logits - base)[0].abs().amax(-1) > 0
            for k in range(LEVELS):
                for t in range(T + 1):
                    assert bool(changed[k, t]) == (frame + delays[level] + 1 <= t + delays[k]), (level, frame, k, t)


@pytest.mark.parametrize("delays", PATTERNS)
def test_learns_a_tiny_batch_by_heart_and_writes_it(delays: tuple[int, ...]) -> None:
    text, text_lengths, codes, lengths = batch()
    model = delay_lm(delays=delays)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = lm_loss(model(text, text_lengths, codes, lengths), codes, lengths).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05
    config = GenerateConfig(temperature=0.0, max_frames=30, min_frames=1)
    result = written(model, text, text_lengths, config=config)
    assert result.finish_reasons == ["end"] * 4 and torch.equal(result.lengths, lengths)
    for b in range(4):
        assert torch.equal(result.row(b), codes[b, :, : lengths[b]])


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("delays", PATTERNS)
def test_alone_in_a_batch_and_streamed_are_the_same(delays: tuple[int, ...], guidance: float) -> None:
    model = delay_lm(delays=delays, guide_prompt=True)
    text, prompt = tokens()
    lengths, books = torch.tensor([0, 4, 2]), torch.randn(LEVELS, CODES, 5)
    config = GenerateConfig(temperature=1.0, max_frames=20, guidance=guidance, sampled_levels=1)
    together = written(model, text, None, prompt, lengths, [1, 2, 3], config, None, books)
    assert together.latents is not None
    for b in range(3):
        own = prompt[b, :, : lengths[b]]
        assert torch.equal(together.row(b)[:, : lengths[b]], own)
        frames = list(streamed(model, text[b], own, b + 1, config, None, books))
        assert torch.equal(torch.stack([f.codes for f in frames], 1), together.row(b)[:, lengths[b] :])
        latents = torch.stack([f.latent for f in frames if f.latent is not None], 1)
        expected = together.latents[b, :, lengths[b] : together.lengths[b]]
        torch.testing.assert_close(latents, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("delays", PATTERNS)
def test_greedy_codes_are_what_training_scores_highest(delays: tuple[int, ...]) -> None:
    model = delay_lm(delays=delays)
    text, prompt = tokens()
    config = GenerateConfig(temperature=0.0, top_k=None, max_frames=14, min_frames=14, loop_seconds=0)
    codes = written(model, text, None, prompt, None, None, config).codes
    lengths = torch.full((3,), 14)
    logits = model(text, torch.full((3,), 7), codes, lengths).logits[:, :, 4:14, :CODES]
    assert torch.equal(logits.argmax(-1), codes[:, :, 4:])


def test_streamed_frames_come_as_soon_as_they_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for delays in PATTERNS:
        model = delay_lm(delays=delays)
        steps: list[int] = []
        advance = model.advance
        monkeypatch.setattr(model, "advance", lambda *a, real=advance, taken=steps: taken.append(1) or real(*a))
        config = GenerateConfig(max_frames=9, min_frames=9, loop_seconds=0)
        for frame, _ in enumerate(streamed(model, torch.arange(5), config=config)):
            assert len(steps) == frame + 1 + max(delays)


def test_a_folder_names_its_delays(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.train(["hello world"], tmp_path / "text", lexicon=None)
    shape = dict(num_levels=FACTS.num_levels, codebook_size=FACTS.codebook_size, frame_rate=FACTS.frame_rate)
    model = delay_lm(delays=(0, *[1] * (FACTS.num_levels - 1)), text_vocab_size=tokenizer.vocab_size, **shape)
    save_lm(tmp_path / "lm", model, tokenizer, FACTS)
    loaded = load_lm(tmp_path / "lm")
    assert isinstance(loaded.model, DelayLM) and loaded.model.pattern.delays == model.pattern.delays
    codes = model.generate([1, 2, 3], max_frames=9)
    assert torch.equal(loaded.generate([1, 2, 3], max_frames=9), codes)


def test_the_first_levels_keep_their_delays() -> None:
    model = delay_lm(delays=(0, 3, 1))
    state = torch.get_rng_state()
    cut = model.first_levels(2)
    assert torch.equal(torch.get_rng_state(), state) and cut.pattern.delays == (0, 3)
    cut.heads.data.zero_()
    assert model.heads.abs().sum() > 0  # the two share nothing


@pytest.mark.parametrize("delays", [(0, 1), (0, 1, 2, 3), (1, 0, 0), (0, -1, 0)])
def test_delays_that_do_not_fit(delays: tuple[int, ...]) -> None:
    with pytest.raises(SoundloomError, match="delays"):
        DelayLMConfig(TEXT, LEVELS, CODES, 75.0, 2.5, delays=delays)
