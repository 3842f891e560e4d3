"""A music model: any length, continuation, rows that do not depend on neighbours, the guard's further tries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from music_models import CAPTIONS, WRITTEN, tiny_music

import pipelines.music_model.model as module
from codec.common.seeds import retry_seed
from codec.errors import SoundloomError
from lm.generation.generate import generate
from lm.generation.sampling import SamplingConfig
from pipelines.music_model.model import MusicModel
from pipelines.music_model.windows import Windows, window_seed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MusicModel:
    return tiny_music(tmp_path_factory.mktemp("text"))


def prompt_wave(seconds: float) -> torch.Tensor:
    return 0.1 * torch.randn(1, round(24_000 * seconds), generator=torch.Generator().manual_seed(0))


def test_a_piece_has_the_length_that_was_asked_for(model: MusicModel) -> None:
    steps: list[tuple[int, int]] = []
    music = model.write(CAPTIONS[0], 0.5, seed=3, on_step=lambda step, of: steps.append((step, of)))
    assert music.codes.shape == (WRITTEN, 25) and music.waveform.shape == (1, 12_000) and music.seconds == 0.5
    assert steps[-1] == (model.steps(0.5), model.steps(0.5)) and len(steps) == model.steps(0.5)
    again = model.write(CAPTIONS[0], 0.5, seed=3)
    assert torch.equal(again.codes, music.codes) and torch.equal(again.waveform, music.waveform)
    for other in (model.write(CAPTIONS[0], 0.5, seed=4), model.write(CAPTIONS[1], 0.5, seed=3), model.write(None, 0.5)):
        assert not torch.equal(other.codes, music.codes)
    with pytest.raises(SoundloomError, match="seconds is 601"):
        model.write(CAPTIONS[0], 601)
    with pytest.raises(SoundloomError, match="the text is empty"):
        model.write(" ", 1)
    with pytest.raises(SoundloomError, match=r"nothing to speak in the text '\(!\)'"):
        model.write("(!)", 1)
    with pytest.raises(SoundloomError, match="more than 512"):
        model.write("a quartz vox " * 100, 1)


def test_settings_change_the_music(model: MusicModel) -> None:
    own = model.write_codes([CAPTIONS[0]], 0.3)
    for settings in (SamplingConfig(1.0, None, 250, 1.0, 4.0), SamplingConfig(0.0), SamplingConfig(1.0, None, 2)):
        assert not torch.equal(model.write_codes([CAPTIONS[0]], 0.3, settings=settings), own)


def test_pieces_side_by_side_are_those_alone(model: MusicModel) -> None:
    seeds = [5, 6]
    together = model.write_batch(CAPTIONS, 2.4, seeds=seeds)
    for text, seed, piece in zip(CAPTIONS, seeds, together, strict=True):
        alone = model.write(text, 2.4, seed=seed)
        assert torch.equal(alone.codes, piece.codes) and torch.allclose(alone.waveform, piece.waveform, atol=1e-5)
    with pytest.raises(SoundloomError, match="1 seeds for 2 texts"):
        model.write_codes(CAPTIONS, 1, seeds=[1])


def test_long_pieces_are_written_in_windows(model: MusicModel) -> None:
    assert model.windows == Windows(longest=100, stride=50)
    long, first = model.write(CAPTIONS[0], 3.5, seed=1), model.write(CAPTIONS[0], 2.0, seed=1)
    assert long.codes.shape == (WRITTEN, 175) and torch.equal(long.codes[:, :100], first.codes)
    # the second window continues the last second of the first, with a seed of its own
    ids = [model.text_ids(CAPTIONS[0])]
    second = generate(model.network, model.request(ids, 100, first.codes[None, :, -50:], [window_seed(1, 1)]))
    assert torch.equal(second.codes[0, :, 50:], long.codes[:, 100:150])


def test_a_recording_goes_on(model: MusicModel) -> None:
    wave = prompt_wave(0.43)
    music = model.write(CAPTIONS[0], 0.5, prompt=wave)
    codes = model.codec.encode(wave[None])[0, :WRITTEN]
    assert codes.shape[1] == 22 and torch.equal(music.codes[:, :22], codes)
    new = model.write(CAPTIONS[0], 0.5, prompt=wave, only_new=True)
    assert torch.equal(new.codes, music.codes[:, 22:]) and torch.equal(new.waveform, music.waveform[:, 22 * 480 :])
    # of a long recording the last second is context
    long = prompt_wave(3.0)
    ids = [model.text_ids(CAPTIONS[0])]
    request = model.request(ids, 75, model.encode(long)[None, :, -50:], [7])
    made = model.write(CAPTIONS[0], 0.5, prompt=long, seed=7, only_new=True)
    assert torch.equal(generate(model.network, request).codes[0, :, 50:], made.codes)
    with pytest.raises(SoundloomError, match="the prompt has 2 channels"):
        model.write(CAPTIONS[0], 0.5, prompt=wave.expand(2, -1))


def test_a_bad_window_is_tried_again_with_another_seed(model: MusicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    good = model.write_codes(CAPTIONS, 0.4, seeds=[1, 2])
    seen: list[torch.Tensor] = []

    def fake(codes: torch.Tensor, *_: object) -> str:
        seen.append(codes)
        return "loop" if torch.equal(codes, good[1]) else "end"

    monkeypatch.setattr(module, "verdict", fake)
    fine, bad = model.write_rows(CAPTIONS, 0.4, seeds=[1, 2])
    assert (fine.finish_reason, fine.attempts, bad.finish_reason, bad.attempts) == ("end", 1, "end", 2)
    assert torch.equal(fine.codes, good[0]) and len(seen) == 3
    other = model.write_codes([CAPTIONS[1]], 0.4, seeds=[retry_seed(2, 1)])
    assert torch.equal(bad.codes, other[0])
    assert model.finished(bad).attempts == 2


def test_what_never_ends_well_is_said_and_keeps_the_least_bad_try(
    model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = iter(["silence", "silence", "loop", "end", "end"])
    monkeypatch.setattr(module, "verdict", lambda *_: next(verdicts))
    (row,) = model.write_rows([CAPTIONS[0]], 0.4, seeds=[2])
    assert (row.finish_reason, row.attempts) == ("loop", 3) and next(verdicts) == "end"
    assert torch.equal(row.codes, model.write_codes([CAPTIONS[0]], 0.4, seeds=[retry_seed(2, 2)], retries=0)[0])


def test_the_likeliest_codes_are_written_once(model: MusicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "verdict", lambda *_: "loop")
    music = model.write(CAPTIONS[0], 0.4, settings=SamplingConfig(0.0))
    assert (music.finish_reason, music.attempts) == ("loop", 1)


def test_codes_of_another_model_are_refused(model: MusicModel) -> None:
    with pytest.raises(SoundloomError, match=r"expected \[2, frames\]"):
        model.decode(torch.zeros(3, 5, dtype=torch.long))


def test_expected_latents_change_the_sound_and_no_code(model: MusicModel, tmp_path: Path) -> None:
    expected = tiny_music(tmp_path, sampled_levels=1)
    wave = prompt_wave(0.4)
    (plain,), (made,) = (m.write_batch([CAPTIONS[0]], 3.0, prompt=wave, seeds=[4]) for m in (model, expected))
    assert torch.equal(plain.codes, made.codes) and plain.waveform.shape == made.waveform.shape
    assert torch.allclose(plain.waveform[:, :8000], made.waveform[:, :8000], atol=1e-5)  # the prompt's codes are true
    assert not torch.allclose(plain.waveform[:, 12_000:], made.waveform[:, 12_000:], atol=1e-2)
    # the second window's latents follow the first's
    (row,) = expected.write_rows([CAPTIONS[0]], 3.0, prompt=wave, seeds=[4])
    assert row.latents is not None and row.latents.shape == (8, 170) and bool((row.latents != 0).any(0).all())
    with pytest.raises(SoundloomError, match="sampled_levels"):
        tiny_music(tmp_path, sampled_levels=WRITTEN + 1)
