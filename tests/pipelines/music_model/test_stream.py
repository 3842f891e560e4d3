"""Streams of music: the codes and the sound of the whole piece, in pieces, with every kind of start."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from music_models import CAPTIONS, tiny_music

import pipelines.music_model.model as module
from codec.errors import SoundloomError
from pipelines.music_model.model import MusicModel


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MusicModel:
    return tiny_music(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def latent_model(tmp_path_factory: pytest.TempPathFactory) -> MusicModel:
    return tiny_music(tmp_path_factory.mktemp("text"), sampled_levels=1)


@pytest.mark.parametrize(("prompted", "only_new"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("latents", [False, True])
def test_chunks_make_the_whole_piece(
    model: MusicModel, latent_model: MusicModel, prompted: bool, only_new: bool, latents: bool
) -> None:
    model = latent_model if latents else model
    wave = 0.1 * torch.randn(1, 10_000, generator=torch.Generator().manual_seed(0)) if prompted else None
    whole = model.write(CAPTIONS[0], 2.6, prompt=wave, only_new=only_new, seed=5)  # two windows
    stream = model.stream(CAPTIONS[0], 2.6, prompt=wave, only_new=only_new, seed=5)
    chunks = list(stream)
    music = stream.music
    assert music is not None and torch.equal(music.codes, whole.codes) and len(chunks) > 4
    assert all(chunk.shape[0] == 1 and chunk.shape[1] for chunk in chunks)
    assert torch.equal(torch.cat(chunks, dim=1), music.waveform)
    assert music.waveform.shape == whole.waveform.shape
    assert torch.allclose(music.waveform, whole.waveform, atol=1e-5)


def test_sound_comes_before_the_piece_is_written(model: MusicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    verdicts = module.MusicModel.verdict
    monkeypatch.setattr(module.MusicModel, "verdict", lambda self, codes: (seen.append(1), verdicts(self, codes))[1])
    stream = model.stream(None, 60.0)
    assert len(list(islice(stream, 3))) == 3 and not seen and stream.music is None


def test_what_the_guard_finds_is_said_and_nothing_is_tried_again(
    model: MusicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "verdict", lambda *_: "loop")
    stream = model.stream(CAPTIONS[0], 0.4, seed=3)
    list(stream)
    assert stream.music is not None and (stream.music.finish_reason, stream.music.attempts) == ("loop", 1)


def test_bad_requests_fail_at_once(model: MusicModel) -> None:
    for text, seconds, seed, message in ((" ", 1, 0, "empty"), ("a", 0, 0, "seconds is 0"), ("a", 1, -1, "seed is -1")):
        with pytest.raises(SoundloomError, match=message):
            model.stream(text, seconds, seed=seed)


def test_a_codec_that_does_not_stream_gives_one_chunk(model: MusicModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SoundloomError("no streams")

    monkeypatch.setattr(model.player, "init_state", refuse)
    (chunk,) = model.stream(CAPTIONS[0], 0.4, seed=3)
    assert torch.equal(chunk, model.write(CAPTIONS[0], 0.4, seed=3, settings=None).waveform)
