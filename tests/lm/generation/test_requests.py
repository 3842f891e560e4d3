"""Requests: their limits in frames, what does not fit a model, settings out of their bounds, and what a run leaves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lm_models import CODES, LEVELS, TEXT, coarse_fine_lm, delay_lm, settings, streamed, written
from torch import Tensor

from codec.errors import SoundloomError
from lm.generation.generate import generate, stream
from lm.generation.request import MOST_FRAMES, GenerateConfig, frame_limits, make_request
from lm.step_lm import DelayLMConfig

CONFIG = GenerateConfig(temperature=1.0, top_k=None, max_frames=25, loop_seconds=0)


def test_limits() -> None:
    config = DelayLMConfig(TEXT, LEVELS, CODES, 10.0, 2.0)
    text, text_lengths = torch.zeros(3, 10, dtype=torch.long), torch.tensor([10, 0, 3])
    prompt, prompt_lengths = torch.zeros(3, LEVELS, 30, dtype=torch.long), torch.tensor([0, 4, 30])

    def limits(options: GenerateConfig) -> tuple[Tensor, Tensor]:
        request = make_request(config, text, text_lengths, prompt, prompt_lengths, None, options)
        return frame_limits(request, config)

    least, most = limits(GenerateConfig())
    assert least.tolist() == [7, 5, 31] and most.tolist() == [60, 104, 50]


def test_the_cap_after_a_prompt_follows_from_the_rest_of_the_text() -> None:
    model = delay_lm()
    text, prompt = torch.zeros(1, 30, dtype=torch.long), torch.zeros(1, LEVELS, 40, dtype=torch.long)
    config = GenerateConfig(cap_factor=2.0, cap_seconds=1.0, floor_factor=0.5)
    request = make_request(model.config, text, None, prompt, None, [0], config, torch.tensor([20]))
    least, most = frame_limits(request, model.config)  # ten units of 2.5 frames are left, at 75 frames a second
    assert (int(least), int(most)) == (40 + 12, max(40 + 50 + 75, 40 + 75))


def test_codebooks_that_are_not_the_models_are_refused() -> None:
    for shape in ((LEVELS + 1, CODES, 4), (LEVELS, CODES + 1, 4), (CODES, 4)):
        with pytest.raises(SoundloomError, match="vectors has shape"):
            written(delay_lm(), torch.arange(6)[None], vectors=torch.zeros(shape))
    with pytest.raises(SoundloomError, match="writes 1 step by step"):
        written(coarse_fine_lm(), torch.arange(6)[None], vectors=torch.zeros(LEVELS, CODES, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_ids": torch.tensor([[1, TEXT]])}, "text_ids outside"),
        ({"text_ids": torch.tensor([1])}, "shape"),
        ({"text_lengths": torch.tensor([3])}, "text_lengths"),
        ({"prompt_codes": torch.zeros(1, 2, 4, dtype=torch.long)}, "prompt_codes has shape"),
        ({"prompt_codes": torch.full((1, LEVELS, 4), CODES)}, "another codec"),
        ({"prompt_codes": torch.zeros(1, LEVELS, 25, dtype=torch.long)}, "max_frames 25"),
        ({"seeds": [1, 2]}, "seeds"),
    ],
)
def test_requests_that_do_not_fit(change: dict[str, object], message: str) -> None:
    values = {"text_ids": torch.tensor([[1, 2]]), "config": CONFIG, **change}
    with pytest.raises(SoundloomError, match=message):
        written(delay_lm(), **values)  # type: ignore[arg-type]


BAD_SETTINGS: list[tuple[str, Any]] = [
    *(("temperature", value) for value in (-1.0, 1e308, math.nan, "1", None, True)),
    *(("fine_temperature", value) for value in (-1, math.inf, "x")),
    *(("top_k", value) for value in (0, 2.5, 10**400, "5")),
    *(("top_p", value) for value in (0.0, 1.1, math.nan)),
    *(("guidance", value) for value in (math.nan, -1, 1e30, 1e308)),
    *(("max_frames", value) for value in (0, 12.5, 10**15, 2**70)),
    *(("min_frames", value) for value in (-1, 1.5, 10**15)),
    *(("cap_factor", value) for value in (1e6, 1e300, -1)),
    *(("cap_seconds", value) for value in (1e12, -1)),
    *(("floor_factor", value) for value in (-1, math.inf)),
    *(("loop_seconds", value) for value in (-1, 1e9)),
    *(("loop_period", value) for value in (0, 10**12, 1.5)),
    *(("sampled_levels", value) for value in (0, 1.5)),
]


@pytest.mark.parametrize(("name", "value"), BAD_SETTINGS, ids=lambda value: str(value)[:12])
def test_settings_out_of_range_are_one_short_line(name: str, value: object) -> None:
    with pytest.raises(SoundloomError, match=f"^{name} is .*; expected ") as caught:
        GenerateConfig(**{name: value})  # type: ignore[arg-type]
    assert len(str(caught.value)) < 160 and "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", ["x", 1.5, -1, 2**63, 2**64, True, None])
def test_seeds_out_of_range(seed: Any) -> None:
    with pytest.raises(SoundloomError, match=r"^seed .* expected"):
        written(delay_lm(), torch.tensor([[1, 2]]), seeds=[seed])


def test_a_batch_without_rows_is_refused() -> None:
    with pytest.raises(SoundloomError, match="at least one row"):
        written(delay_lm(), torch.zeros(0, 4, dtype=torch.long))
    with pytest.raises(SoundloomError, match="one request, not 2"):
        stream(delay_lm(), make_request(delay_lm().config, torch.zeros(2, 4, dtype=torch.long)))


def test_a_row_of_absurd_length_is_refused_before_anything_is_allocated() -> None:
    model = delay_lm(frames_per_text_unit=5000.0)
    config = GenerateConfig(cap_factor=10.0)
    with pytest.raises(SoundloomError, match=f"more than {MOST_FRAMES:,}; cut its text"):
        written(model, torch.zeros(1, 50, dtype=torch.long), config=config)


def test_room_for_the_longest_row_is_not_taken_before_it_is_needed() -> None:
    model = delay_lm()
    text = torch.arange(6)[None]
    with torch.no_grad():
        state = model.start(text, torch.tensor([6]), MOST_FRAMES)
    assert state.cache.max_length > MOST_FRAMES and state.cache.keys[0].shape[2] < 1000
    short, long = (GenerateConfig(max_frames=n, min_frames=n, loop_seconds=0) for n in (600, 700))
    codes = written(model, text, config=long).codes  # beyond the first room
    assert torch.equal(written(model, text, config=short).codes, codes[:, :, :600])


@pytest.mark.parametrize(
    ("name", "value"),
    [("frame_rate", 1e9), ("frames_per_text_unit", 1e300), ("frames_around_text", 1e9), ("frame_rate", math.nan)],
)
def test_rates_of_a_model_are_bounded(name: str, value: float) -> None:
    with pytest.raises(SoundloomError, match=f"^{name} is"):
        DelayLMConfig(**settings(**{name: value}))


def test_a_request_can_be_run_again() -> None:
    model = delay_lm()
    request = make_request(model.config, torch.arange(6)[None], config=CONFIG, seeds=[3])
    first, second = generate(model, request), generate(model, request)
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(torch.stack([frame.codes for frame in stream(model, request)], 1), first.row(0))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_what_is_returned_can_be_used_in_training(guidance: float) -> None:
    config = GenerateConfig(max_frames=9, min_frames=5, guidance=guidance, sampled_levels=1)
    books = torch.randn(LEVELS, CODES, 4)
    for model in (delay_lm(), coarse_fine_lm()):
        vectors = books if model.decoder is model else None
        made = written(model, torch.arange(6)[None], config=config, vectors=vectors)
        frames = list(streamed(model, torch.arange(6), config=config, vectors=vectors))
        values: list[Tensor | None] = [made.codes, made.lengths, made.latents]
        values += [value for frame in frames for value in frame]
        assert not any(value.is_inference() for value in values if value is not None)
        table = torch.nn.Embedding(CODES + 1, 4)
        loss = table(made.codes[0]).sum() + table(torch.stack([frame.codes for frame in frames])).sum()
        if made.latents is not None:
            loss = loss + (table.weight[0] * made.latents[0].T).sum()
        loss.backward()
        assert table.weight.grad is not None


def test_autocast_around_it_changes_nothing() -> None:
    for model in (delay_lm(), coarse_fine_lm()):
        expected = model.generate([1, 2, 3], max_frames=12)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.generate([1, 2, 3], max_frames=12), expected)
            frames = list(streamed(model, torch.tensor([1, 2, 3]), config=GenerateConfig(max_frames=12)))
        assert torch.equal(torch.stack([frame.codes for frame in frames], 1), expected[0])


def test_broken_weights_are_an_error_at_any_temperature() -> None:
    for temperature in (0.0, 1.0):
        model = delay_lm()
        model.heads.data[5] = math.nan
        with pytest.raises(SoundloomError, match="weights are broken"):
            model.generate([1, 2, 3], temperature=temperature, max_frames=9)
