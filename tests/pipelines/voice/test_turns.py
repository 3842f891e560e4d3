"""Scripts and turns: one speech of several speakers, the same whole and streamed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from voice_helpers import tiny_voice

from codec.audio.files import read_audio, write_audio
from codec.errors import SoundloomError
from lm.generation.request import GenerateConfig
from pipelines import tts
from pipelines.voice.contents import SpeakerPrompt
from pipelines.voice.script import TURN_PAUSE, read_script
from pipelines.voice.turns import Turn, speak_turns, stream_turns
from pipelines.voice.voice import Voice

SHORT = GenerateConfig(cap_factor=1.0, cap_seconds=0.5)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Voice:
    folder = tmp_path_factory.mktemp("voice")
    voice = tiny_voice(folder / "text", generation=SHORT)
    audio, text = folder / "speakers" / "ann.wav", folder / "speakers" / "ann.txt"
    audio.parent.mkdir()
    write_audio(audio, 0.1 * torch.randn(1, 12_000, generator=torch.Generator().manual_seed(0)), voice.sample_rate)
    text.write_text("hello world")
    voice.speakers["ann"] = SpeakerPrompt(audio, text)
    voice.plan.speakers = voice.speakers
    return voice


def test_a_script_becomes_turns() -> None:
    text = "# a comment\n[Heart] Hello.\nAnd more.\n\nisabella: Hi: you.\nNote: me\nand you: said\n"
    turns, notes = read_script(text, ["heart", "isabella"])
    assert [(turn.speaker, turn.text) for turn in turns] == [
        ("heart", "Hello.\nAnd more."),
        ("isabella", "Hi: you.\nNote: me\nand you: said"),
    ]
    assert notes == ["line 6: 'Note' is no speaker, so it is read aloud"]
    assert [turn.pause for turn in turns] == [TURN_PAUSE, None]


def test_a_script_may_begin_without_a_name_and_hold_tags() -> None:
    turns, _ = read_script("Once.\n[ann]\n[pause:0.5s] [gif](/x/) Hi\n[ann] Bye", ["ann"])
    assert [(turn.speaker, turn.text) for turn in turns] == [
        (None, "Once."),
        ("ann", "[pause:0.5s] [gif](/x/) Hi"),
        ("ann", "Bye"),
    ]


@pytest.mark.parametrize(("text", "shown"), [("[bob] Hi", "line 1: no speaker 'bob'"), ("[ann]\n\n# x", "no line")])
def test_bad_scripts_are_refused(text: str, shown: str) -> None:
    with pytest.raises(SoundloomError, match=shown):
        read_script(text, ["ann"])


def test_one_turn_is_its_text(voice: Voice) -> None:
    whole = voice.speak("Hello. How are you?", seed=3)
    assert torch.equal(speak_turns(voice, [Turn("Hello. How are you?")], seed=3).waveform, whole.waveform)


def test_turns_follow_each_other_with_pauses_and_own_seeds(voice: Voice) -> None:
    turns = [Turn("hello", None, pause=0.4), Turn("hello", "tiny", 1.5), Turn("world.", "ann")]
    speech = speak_turns(voice, turns, seed=1)
    assert len(speech.sentences) == 3 and len({sentence.seed for sentence in speech.sentences}) == 3
    assert torch.equal(speech.waveform, speak_turns(voice, turns, seed=1, batch_size=1).waveform)
    first = speech.sentences[0].num_samples
    assert speech.sentences[1].start == first + round(0.4 * voice.sample_rate)
    assert not speech.waveform[:, first : speech.sentences[1].start].any()
    third = voice.speak("world.", seed=speech.sentences[2].seed, speaker="ann")
    assert torch.equal(speech.waveform[:, speech.sentences[2].start :], third.waveform)


def test_streamed_turns_are_the_same_sound(voice: Voice) -> None:
    turns = [Turn("hello.", None, 0.8, 0.2), Turn("world", "ann")]
    whole = speak_turns(voice, turns, seed=2, retries=0)
    chunks = stream_turns(voice, turns, seed=2)
    wave = torch.cat(list(chunks), dim=-1)
    assert wave.shape == whole.waveform.shape and torch.allclose(wave, whole.waveform, atol=1e-5)
    assert chunks.speech is not None
    assert [one.start for one in chunks.speech.sentences] == [one.start for one in whole.sentences]


def test_bad_turns_are_refused_before_anything_is_spoken(voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice, "speak_batch", None)
    for turns, shown in [
        ([Turn("hi"), Turn("hi", "bob")], "no speaker 'bob'"),
        ([Turn("hi", None, 3.0)], "speed 3"),
        ([Turn("hi", None, 0.7)], "speed 0.49"),
        ([Turn("!!")], "nothing to speak"),
        ([], "empty"),
        ([Turn("a" * 30_000), Turn("b" * 30_000)], "characters"),
    ]:
        with pytest.raises(SoundloomError, match=shown):
            speak_turns(voice, turns, speed=0.7 if turns and turns[0].speed == 0.7 else 1.0)


def test_a_turn_that_cannot_be_spoken_is_left_out(voice: Voice) -> None:
    turns = [Turn("你好"), Turn("hello")]
    assert speak_turns(voice, turns).skipped == ("你好",)
    with pytest.raises(SoundloomError, match="nothing to speak"):
        speak_turns(voice, turns, strict=True)


def test_tts_speaks_scripts_and_ssml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_voice(tmp_path / "text", generation=SHORT).save(tmp_path / "tiny")
    common = ["--voice", str(folder), "--retries", "0"]
    ssml = "Hello <audio>x</audio><prosody rate='fast'>world</prosody>"
    assert tts.main(["--ssml", ssml, "-o", str(tmp_path / "a.wav"), *common]) == 0
    assert "warning: SSML: <audio> is unknown and left out" in capsys.readouterr().err
    assert tts.main(["--script", "[tiny] Hello\nwho: world", "-o", str(tmp_path / "b.wav"), *common]) == 0
    assert "line 2: 'who' is no speaker" in capsys.readouterr().err
    streamed = str(tmp_path / "c.wav")
    assert tts.main(["--script", "[tiny] Hello\nwho: world", "--stream", "-o", streamed, *common]) == 0
    assert read_audio(tmp_path / "b.wav").shape == read_audio(streamed).shape
    with pytest.raises(SoundloomError, match="give one of them"):
        tts.main(["--script", "--ssml", "hi", *common])
