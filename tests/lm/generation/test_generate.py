"""Generation with tiny and with rigged models: sameness, prompts, ends, caps, loops, guidance, retries."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_models import CODES, LEVELS, TEXT, coarse_fine_lm, delay_lm, streamed, written
from torch import Tensor

from codec.common.seeds import retry_seed
from lm.generation.generate import Generation, generate_guarded
from lm.generation.grid_writer import GenerativeLM, guided
from lm.generation.request import GenerateConfig, Request, make_request
from lm.prefix import PromptSpan
from lm.step_lm import DelayLMConfig

CONFIG = GenerateConfig(temperature=1.0, top_k=None, max_frames=25, loop_seconds=0)
MODELS = {"delay": delay_lm, "pair": coarse_fine_lm}


class Rigged:
    """A model whose level 0 says what ``script(frame)`` says (END is CODES); higher levels say level + 1."""

    def __init__(self, script: Callable[[int], int], levels: int = LEVELS) -> None:
        self.levels, self.script = levels, script
        self.config = DelayLMConfig(TEXT, levels, CODES, 10.0, 2.0)
        self.pattern = self.config.pattern

    @property
    def decoder(self) -> Rigged:
        return self

    def complete(self, codes: Tensor, lengths: Tensor, request: Request, generators: object) -> Tensor:
        return codes

    def start(
        self, text_ids: Tensor, text_lengths: Tensor, max_steps: int, span: PromptSpan | None = None
    ) -> SimpleNamespace:
        return SimpleNamespace(step=0, limit=max_steps)

    def advance(self, state: SimpleNamespace, inputs: Tensor, hidden: Tensor | None = None) -> Tensor:
        state.step += inputs.shape[2]
        assert state.step <= state.limit
        logits = torch.zeros(inputs.shape[0], self.levels, CODES + 1)
        logits[:, 0, self.script(state.step - 1)] = 50
        for level in range(1, self.levels):
            logits[:, level, level + 1] = 50
        return logits


def write(script: Callable[[int], int], levels: int = LEVELS, units: int = 5, **options: object) -> Generation:
    config = GenerateConfig(**{"temperature": 0.0, **options})  # type: ignore[arg-type]
    model = Rigged(script, levels)
    whole = written(model, torch.zeros(1, units, dtype=torch.long), config=config)
    parts = streamed(model, torch.zeros(units, dtype=torch.long), config=config)
    frames = [frame.codes for frame in parts]
    assert torch.equal(torch.stack(frames, 1), whole.row(0)) and parts.finish_reason == whole.finish_reasons[0]
    return whole


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_end(levels: int) -> None:
    result = write(lambda t: CODES if t >= 12 else t % 7, levels)
    assert result.finish_reasons == ["end"] and result.lengths.tolist() == [12]
    assert result.row(0)[0].tolist() == [t % 7 for t in range(12)]
    for level in range(1, levels):
        assert (result.row(0)[level] == level + 1).all()


@pytest.mark.parametrize("levels", [1, 3])
def test_cap_follows_from_the_text(levels: int) -> None:
    result = write(lambda t: (t * t) % 10, levels, units=5, loop_seconds=0)
    assert result.finish_reasons == ["cap"] and result.lengths.tolist() == [2 * 2 * 5 + 2 * 10]
    assert write(lambda t: (t * t) % 10, levels, max_frames=7).lengths.tolist() == [7]


def test_an_end_too_early_is_not_heard() -> None:
    result = write(lambda t: CODES, units=10)
    assert result.finish_reasons == ["end"] and result.lengths.tolist() == [7]  # 0.35 of 10 units of 2 frames
    assert write(lambda t: CODES, units=10, min_frames=4).lengths.tolist() == [4]
    assert write(lambda t: CODES, units=0, min_frames=0).lengths.tolist() == [1]


@pytest.mark.parametrize("period", [1, 2, 5])
def test_loop(period: int) -> None:
    result = write(lambda t: t if t < 8 else t % period, units=40)
    assert result.finish_reasons == ["loop"]
    # The first cycle is no repetition; then 1.6 s at 10 frames/s, and at least three periods.
    assert abs(int(result.lengths) - (8 + period + max(16, 3 * period))) <= period
    assert write(lambda t: t % period, units=40, loop_seconds=0).finish_reasons == ["cap"]


def test_a_loop_longer_than_the_longest_period_is_speech() -> None:
    assert write(lambda t: t % 7, units=40, loop_period=6).finish_reasons == ["cap"]


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("kind", ["delay", "pair"])
def test_the_text_after_a_prompt_is_the_same_alone_in_a_batch_and_streamed(kind: str, guidance: float) -> None:
    model = MODELS[kind]()
    g = torch.Generator().manual_seed(6)
    text, text_lengths = torch.randint(0, TEXT, (4, 7), generator=g), torch.tensor([7, 4, 6, 5])
    prompt, prompt_lengths = torch.randint(0, CODES, (4, LEVELS, 5), generator=g), torch.tensor([0, 5, 2, 3])
    said = torch.tensor([0, 2, 3, 0])
    config, seeds = GenerateConfig(temperature=1.0, max_frames=25, guidance=guidance), [1, 2, 3, 4]
    together = written(model, text, text_lengths, prompt, prompt_lengths, seeds, config, said)
    for b in range(4):
        own_text, own_prompt = text[b, : text_lengths[b]], prompt[b, :, : prompt_lengths[b]]
        alone = written(model, own_text[None], None, own_prompt[None], None, [seeds[b]], config, said[b : b + 1])
        assert torch.equal(alone.row(0), together.row(b))
        parts = streamed(model, own_text, own_prompt, seeds[b], config, int(said[b]))
        frames = torch.stack([frame.codes for frame in parts], 1)
        assert torch.equal(frames, alone.row(0)[:, prompt_lengths[b] :])
    other = written(model, text, text_lengths, prompt, prompt_lengths, seeds, config)
    assert torch.equal(other.row(0), together.row(0)) and not torch.equal(other.row(2), together.row(2))


@pytest.mark.parametrize("drawn", [1, 2, None])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_latents_are_means_by_the_probabilities_that_training_would_give(guidance: float, drawn: int | None) -> None:
    model = delay_lm()
    g = torch.Generator().manual_seed(8)
    text, text_lengths = torch.randint(0, TEXT, (2, 7), generator=g), torch.tensor([7, 4])
    prompt, prompt_lengths = torch.randint(0, CODES, (2, LEVELS, 5), generator=g), torch.tensor([5, 2])
    said, books = torch.tensor([2, 1]), torch.randn(LEVELS, CODES, 6, generator=g)
    config = GenerateConfig(temperature=1.0, max_frames=25, guidance=guidance, sampled_levels=drawn)
    both = written(model, text, text_lengths, prompt, prompt_lengths, [1, 2], config, said, books)
    assert both.latents is not None and both.latents.shape == (2, 6, both.codes.shape[2])
    for b, P in enumerate(prompt_lengths.tolist()):
        codes, end = both.row(b), int(both.lengths[b])
        span = PromptSpan(said[b : b + 1], prompt_lengths[b : b + 1])
        own_text, length = text[b, : text_lengths[b]], torch.tensor([end])
        with torch.no_grad():
            logits = model(own_text[None], text_lengths[b : b + 1], codes[None], length, span=span).logits[0]
        shares = logits[:, P:end, :CODES].softmax(-1)
        for level in range(drawn or LEVELS):
            shares[level] = torch.eye(CODES)[codes[level, P:]]
        expected = torch.einsum("ktv,kvd->dt", shares, books)
        torch.testing.assert_close(both.latents[b, :, P:end], expected, rtol=0, atol=1e-5)
        assert not both.latents[b, :, :P].any() and not both.latents[b, :, end:].any()
        parts = streamed(model, own_text, prompt[b, :, :P], b + 1, config, int(said[b]), books)
        heard = [frame.latent for frame in parts if frame.latent is not None]
        torch.testing.assert_close(torch.stack(heard, 1), expected, rtol=0, atol=1e-5)
    plain = written(model, text, text_lengths, prompt, prompt_lengths, [1, 2], config, said)
    assert plain.latents is None and torch.equal(plain.codes, both.codes)  # what is heard does not change what is said
    first = written(model, text, text_lengths, prompt, prompt_lengths, [1, 2], config, said, books[:1]).latents
    assert first is not None and torch.equal(first[0, :, 5:9], books[0, both.codes[0, 0, 5:9]].T)


def test_after_a_prompt_greedy_codes_are_what_training_scores_highest() -> None:
    model = delay_lm()
    g = torch.Generator().manual_seed(7)
    text, prompt = torch.randint(0, TEXT, (1, 9), generator=g), torch.randint(0, CODES, (1, LEVELS, 6), generator=g)
    said, config = torch.tensor([4]), GenerateConfig(temperature=0.0, top_k=None, max_frames=16, min_frames=16)
    codes = written(model, text, None, prompt, None, [0], config, said).codes
    with torch.no_grad():
        lengths = torch.tensor([16])
        logits = [
            model(text, torch.tensor([9]), codes, lengths, span=span).logits[0, :, 6:16, :CODES]
            for span in (PromptSpan(said, torch.tensor([6])), None)
        ]
    assert torch.equal(logits[0].argmax(-1), codes[0, :, 6:])
    assert not torch.allclose(logits[0], logits[1], atol=1e-3)  # the clock of the text matters


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("kind", ["delay", "pair"])
def test_alone_in_a_batch_and_streamed_are_the_same(kind: str, guidance: float) -> None:
    model = MODELS[kind]()
    g = torch.Generator().manual_seed(5)
    text, text_lengths = torch.randint(0, TEXT, (4, 7), generator=g), torch.tensor([7, 0, 4, 5])
    prompt, prompt_lengths = torch.randint(0, CODES, (4, LEVELS, 5), generator=g), torch.tensor([0, 5, 2, 3])
    prompt[2, :, 2:] = -1  # padding may hold anything
    config = GenerateConfig(temperature=1.0, max_frames=25, guidance=guidance)
    seeds = [11, 12, 13, 14]
    together = written(model, text, text_lengths, prompt, prompt_lengths, seeds, config)
    assert together.codes.shape[1] == LEVELS
    for b in range(4):
        own_text, own_prompt = text[b, : text_lengths[b]], prompt[b, :, : prompt_lengths[b]]
        alone = written(model, own_text[None], None, own_prompt[None], None, [seeds[b]], config)
        assert torch.equal(alone.row(0), together.row(b))
        assert alone.finish_reasons[0] == together.finish_reasons[b]
        assert torch.equal(alone.row(0)[:, : prompt_lengths[b]], own_prompt)
        assert (alone.row(0) >= 0).all() and (alone.row(0) < CODES).all()
        assert (together.codes[b, :, together.lengths[b] :] == model.config.end_id).all()
        parts = streamed(model, own_text, own_prompt, seeds[b], config)
        frames = torch.stack([frame.codes for frame in parts], 1)
        assert torch.equal(frames, alone.row(0)[:, prompt_lengths[b] :])
        assert parts.finish_reason == alone.finish_reasons[0]


def test_seeds_decide_and_nothing_else() -> None:
    model = delay_lm()
    text = torch.arange(6)[None]
    torch.manual_seed(1)
    first = written(model, text, seeds=[3], config=CONFIG)
    torch.manual_seed(2)
    assert torch.equal(first.codes, written(model, text, seeds=[3], config=CONFIG).codes)
    others = [written(model, text, seeds=[s], config=CONFIG).codes for s in (4, 5)]
    assert any(o.shape != first.codes.shape or not torch.equal(o, first.codes) for o in others)


def test_stream_gives_a_frame_as_soon_as_it_is_whole() -> None:
    steps: list[int] = []

    def script(frame: int) -> int:
        steps.append(frame)
        return CODES if frame >= 10 else frame % 5

    parts = streamed(Rigged(script), torch.arange(5), config=GenerateConfig(temperature=0.0))
    for frame in range(10):
        next(parts)
        assert steps[-1] == frame + LEVELS - 1
    assert parts.finish_reason is None
    assert list(parts) == [] and parts.finish_reason == "end"


def test_training_mode_and_dropout_are_off_while_writing() -> None:
    model = delay_lm(cfg_drop=0.9, audio_drop=0.9)
    expected = written(model, torch.arange(6)[None], config=CONFIG)
    model.train()
    assert torch.equal(written(model, torch.arange(6)[None], config=CONFIG).codes, expected.codes)
    assert model.training


def test_guidance_mixes_with_and_without_text() -> None:
    with_text, without = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    torch.testing.assert_close(guided(torch.cat([with_text, without]), 3.0), without + 3 * (with_text - without))
    model = delay_lm()
    text = torch.arange(6)[None]
    # Guidance 0 is the model without text, whatever the text says (apart from its caps).
    config = GenerateConfig(temperature=1.0, guidance=0.0, max_frames=20, min_frames=1)
    plain = GenerateConfig(temperature=1.0, guidance=1.0, max_frames=20, min_frames=1)
    no_text = written(model, text[:, :0], config=plain)
    assert torch.equal(written(model, text, config=config).codes, no_text.codes)


class Moody(Rigged):
    """Ends well only for every third request."""

    tries = 0

    def start(
        self, text_ids: Tensor, text_lengths: Tensor, max_steps: int, span: PromptSpan | None = None
    ) -> SimpleNamespace:
        self.tries += 1
        return super().start(text_ids, text_lengths, max_steps)

    def advance(self, state: SimpleNamespace, inputs: Tensor, hidden: Tensor | None = None) -> Tensor:
        ends = self.tries >= 3
        self.script = lambda t: CODES if ends and t >= 9 else (t * t) % 10
        return super().advance(state, inputs)


def guarded(model: GenerativeLM, retries: int, text: Tensor, **named: Any) -> Generation:
    return generate_guarded(model, make_request(model.config, text, **named), retries)


def test_guard_tries_again_a_bounded_number_of_times() -> None:
    text = torch.zeros(2, 5, dtype=torch.long)
    config = GenerateConfig(temperature=0.0, max_frames=20)
    result = guarded(Moody(lambda t: 0), 2, text, config=config)
    assert result.finish_reasons == ["end", "end"] and result.attempts == [3, 3] and result.lengths.tolist() == [9, 9]
    result = guarded(Moody(lambda t: 0), 1, text, config=config)
    assert result.finish_reasons == ["cap", "cap"] and result.attempts == [2, 2] and result.lengths.tolist() == [20, 20]
    assert len({retry_seed(s, a) for s in range(50) for a in range(1, 4)}) == 150


@pytest.mark.parametrize("guide", [True, False])
def test_guidance_hides_the_prompt_from_rows_without_text(guide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = delay_lm(guide_prompt=guide)
    told: list[torch.Tensor | None] = []
    advance = model.advance
    monkeypatch.setattr(
        model, "advance", lambda state, inputs, *more: told.append(*more or [None]) or advance(state, inputs, *more)
    )
    text, prompt = torch.randint(0, TEXT, (2, 6)), torch.randint(0, CODES, (2, LEVELS, 4))
    lengths = torch.tensor([4, 2])
    config = GenerateConfig(guidance=2.0, max_frames=9, min_frames=9)
    first = written(model, text, None, prompt, lengths, config=config)
    hidden = torch.cat([step for step in told if step is not None], 1) if guide else None
    if hidden is None:
        assert told and all(step is None for step in told)
    else:
        assert hidden.sum(1).tolist() == [0, 0, 4 + LEVELS, 2 + LEVELS]
    alone = [written(model, text[b : b + 1], None, prompt[b : b + 1], lengths[b : b + 1], [b], config) for b in (0, 1)]
    assert all(torch.equal(alone[b].row(0), first.row(b)) for b in (0, 1))


def test_a_guarded_row_does_not_depend_on_its_neighbours() -> None:
    model = delay_lm()
    text = torch.randint(0, TEXT, (4, 6), generator=torch.Generator().manual_seed(0))
    config = GenerateConfig(temperature=1.0, top_k=None, max_frames=9)
    together = guarded(model, 2, text, seeds=[5, 6, 7, 8], config=config)
    assert max(together.attempts) > 1
    for b in range(4):
        alone = guarded(model, 2, text[b : b + 1], seeds=[5 + b], config=config)
        assert torch.equal(alone.row(0), together.row(b)) and alone.attempts[0] == together.attempts[b]


def test_the_thin_face() -> None:
    for model in (delay_lm(), coarse_fine_lm()):
        codes = model.generate([1, 2, 3], seed=4, max_frames=12)
        assert codes.shape[:2] == (1, LEVELS) and codes.dtype == torch.long
        prompt = codes[0, :, :3]
        assert torch.equal(model.generate(torch.tensor([1, 2]), prompt, max_frames=12)[0, :, :3], prompt)
        with pytest.raises(TypeError):
            model.generate([1], temprature=1.0)
