# ruff: noqa: RUF001 - phonemes look like letters
"""Ready speakers: the same prompt as from the recording, and only for the models and settings that it was made with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from voice_helpers import tiny_voice

import pipelines.voice.prompts as prompts_module
from codec.audio.files import write_audio
from codec.errors import SoundloomError
from lm.generation.request import GenerateConfig
from pipelines import load_voice, make_voice
from pipelines.voice.contents import SpeakerPrompt
from pipelines.voice.ready import READY_FILE
from pipelines.voice.request import SpeakOptions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice with one speaker, which is ready."""
    place = tmp_path_factory.mktemp("voice")
    voice = tiny_voice(place / "text", generation=GenerateConfig(sampled_levels=1, cap_seconds=0.5))
    audio, text = place / "ann.wav", place / "ann.txt"
    write_audio(audio, 0.1 * torch.randn(1, 24_000, generator=torch.Generator().manual_seed(0)), voice.sample_rate)
    text.write_text("hello world")
    voice.speakers["ann"] = SpeakerPrompt(audio, text)
    return make_voice.prepare_speakers(voice.save(place / "tiny"))


def test_a_ready_speaker_is_not_read_again_and_sounds_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, ready = load_voice(folder), load_voice(folder)
    fresh.plan.stored = {}
    spoken = fresh.speak("hello", speaker="ann", retries=0)
    monkeypatch.setattr(prompts_module.PromptReader, "voice_prompt", None)
    assert torch.equal(ready.speak("hello", speaker="ann", retries=0).waveform, spoken.waveform)


@pytest.mark.parametrize("change", ["levels", "words", "voice", "decoder"])
def test_a_state_for_something_else_is_not_used(folder: Path, change: str) -> None:
    voice, options = load_voice(folder), SpeakOptions()
    style = voice.plan.style(options)
    assert voice.plan._stored("ann", style) is not None
    if change == "levels":
        style = voice.plan.style(replace(options, levels=2))
    elif change == "words":
        voice.add_words({"hello": "ˈO"})
    elif change == "voice":
        voice.plan.config = replace(voice.config, files={**voice.config.files, "lm/model.safetensors": "0" * 64})
    else:
        voice.player.decoder.magnitude.bias.data += 1
    assert voice.plan._stored("ann", style) is None


def test_a_changed_file_is_refused_and_an_unlisted_one_is_ignored(folder: Path, tmp_path: Path) -> None:
    path = folder / READY_FILE
    whole = path.read_bytes()
    tensors = load_file(path)
    save_file({**tensors, "ann/codes": tensors["ann/codes"] * 0}, path)
    with pytest.raises(SoundloomError, match="has changed"):
        load_voice(folder)
    path.write_bytes(whole)
    plain = load_voice(folder).save(tmp_path / "plain")  # whose speakers are not ready
    (plain / READY_FILE).write_bytes(b"junk")
    assert load_voice(plain).plan.stored == {}


def test_sealing_makes_the_speakers_ready(folder: Path, tmp_path: Path) -> None:
    plain = load_voice(folder).save(tmp_path / "plain")
    assert not (plain / READY_FILE).exists()
    assert make_voice.main([str(plain), "--seal"]) == 0
    assert set(load_voice(plain).plan.stored) == set(load_file(folder / READY_FILE))
