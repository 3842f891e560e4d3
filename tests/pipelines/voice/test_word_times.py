"""Word times follow the attention, never run backwards, and agree with the teacher's durations."""

from __future__ import annotations

import json
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from voice_helpers import tiny_voice

from pipelines import load_voice
from pipelines.voice.alignment import clearest_map
from pipelines.voice.captions import CAPTION_SECONDS, WordTime, as_json, as_srt, as_vtt, captions
from pipelines.voice.word_times import (
    frames_of_words,
    monotone_path,
    spoken_words,
    word_times,
)


def test_the_path_follows_the_attention_and_never_moves_back() -> None:
    places = torch.tensor([0, 0, 1, 2, 2, 5, 5, 6, 7, 7])
    weights = torch.full((10, 8), 0.02)
    weights[torch.arange(10), places] = 0.9
    assert monotone_path(weights).tolist() == places.tolist()
    weights[4] = torch.tensor([0.9, *[0.01] * 7])  # one frame looks back: the path does not
    path = monotone_path(weights)
    assert (path.diff() >= 0).all() and path[5:].tolist() == places[5:].tolist()


def test_words_are_those_that_are_spoken() -> None:
    pieces = ["f", "v", "▁", "d", "l", "z", "."]
    assert spoken_words("$5.", pieces) == [("five", (0, 1)), ("dollars", (3, 5))]


def test_words_that_do_not_fit_the_units_are_named_by_them() -> None:
    assert spoken_words("one two three", ["w", "▁", "t"]) == [("w", (0, 0)), ("t", (2, 2))]


WORDS = [WordTime(f"w{i}", i * 0.5, i * 0.5 + 0.4) for i in range(12)]


def test_files_of_captions() -> None:
    assert json.loads(as_json(WORDS))[1] == {"word": "w1", "start": 0.5, "end": 0.9}
    assert as_srt(WORDS).startswith("1\n00:00:00,000 --> 00:00:05,900\nw0 w1 w2")
    assert as_vtt(WORDS).startswith("WEBVTT\n\n00:00:00.000 --> 00:00:05.900\nw0 ")


def test_captions_of_long_texts_without_punctuation_can_be_read() -> None:
    words = [WordTime("abcdefghi"[: 2 + i % 8], i * 0.3, i * 0.3 + 0.29) for i in range(400)]
    made = captions(words)
    assert len(made) > 10 and " ".join(line for one in made for line in one.lines) == " ".join(w.word for w in words)
    for one in made:
        assert len(one.lines) <= 2 and max(map(len, one.lines)) <= 42 and one.end - one.start <= CAPTION_SECONDS
    assert all(a.end <= b.start for a, b in pairwise(made))


def test_captions_end_with_sentences_and_at_silences_and_cut_giants() -> None:
    words = [
        WordTime("one", 0, 0.4),
        WordTime("two", 0.5, 0.9, ends=True),
        WordTime("three", 1.0, 1.4),
        WordTime("four", 3.0, 3.2),
        WordTime("x" * 100, 3.3, 12.0, ends=True),
    ]
    made = captions(words)
    assert [one.lines[0][:5] for one in made] == ["one t", "three", "four", "xxxxx"]
    assert made[-1].end == 3.3 + 7 and max(len(line) for line in made[-1].lines) == 42


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_times_follow_the_speed(tmp_path: Path, speed: float) -> None:
    voice = tiny_voice(tmp_path)
    usual = word_times(voice, voice.speak("hello world. hello again", seed=0, retries=0))
    other = word_times(voice, voice.speak("hello world. hello again", seed=0, retries=0, speed=speed))
    assert [word.word for word in usual] == [word.word for word in other]
    for a, b in zip(usual, other, strict=True):
        assert b.start == pytest.approx(a.start / speed, abs=0.01)
        assert b.end == pytest.approx(a.end / speed, abs=0.01)


def test_times_lie_in_the_speech_and_in_order(tmp_path: Path) -> None:
    voice = tiny_voice(tmp_path)
    speech = voice.speak("hello world. hello again", seed=0)
    words = word_times(voice, speech)
    assert words and all(a.start <= b.start for a, b in pairwise(words))
    assert all(0 <= word.start <= word.end <= speech.seconds + 0.2 for word in words)


@pytest.mark.slow
def test_times_agree_with_the_teachers_durations(record_property: Any) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    teacher = pytest.importorskip("hibari").Hibari(threads=1)
    network = onnx.load(teacher.model_path)
    ends = "/CumSum_output_0"  # where each phoneme ends, in frames
    network.graph.output.append(onnx.helper.make_tensor_value_info(ends, onnx.TensorProto.INT64, None))
    session = runtime.InferenceSession(network.SerializeToString())
    voice = load_voice()
    folder = Path(__file__).parents[3] / "pipelines" / "evaluation" / "sentences"
    texts = [line for line in (folder / "english.txt").read_text(encoding="utf-8").splitlines() if line[:1].isalpha()]
    starts, stops = [], []
    for text in texts[::5][:40]:
        phonemes = teacher.phonemize(text)
        if len(phonemes) != 1:
            continue
        ids = teacher.ids(phonemes[0])
        wave = teacher.from_ids(ids, 1.0, np.random.default_rng(0))
        frames = session.run([ends], {"ids": np.array([ids]), "speed": np.ones(1, np.float32)})[0].ravel()
        true = teacher_words([c for c in phonemes[0] if c in teacher.vocab], frames / frames[-1] * len(wave) / 24_000)
        found = attention_words(voice, text, torch.from_numpy(wave)[None])
        if len(true) == len(found):
            starts += [word.start - start for word, (start, _) in zip(found, true, strict=True)]
            stops += [word.end - end for word, (_, end) in zip(found, true, strict=True)]
    figures = [statistics.median(map(abs, errors)) for errors in (starts, stops)]
    record_property("words", len(starts))
    record_property("median error of starts and ends", figures)
    assert len(starts) > 300 and max(figures) <= 0.04


def teacher_words(phonemes: list[str], ends: Any) -> list[tuple[float, float]]:
    words: list[tuple[float, float]] = []
    inside = False
    for i, phoneme in enumerate(phonemes):
        if phoneme == " ":
            inside = False
        elif phoneme.isalpha() or phoneme in "ˈˌ":
            words[-1:] = [(words[-1][0], ends[i + 1])] if inside else [*words[-1:], (ends[i], ends[i + 1])]
            inside = True
    return words


def attention_words(voice: Any, text: str, wave: torch.Tensor) -> list[WordTime]:
    """The voice's word times for a recording, as if it had written its codes."""
    codes = voice.codec.encode(wave[None])[0]
    ids = voice.text_ids(text)
    maps = voice.lm.model.attention_maps(torch.tensor(ids), codes).flatten(0, 1)
    pieces = [voice.lm.tokenizer.piece(one) for one in ids]
    return list(frames_of_words(clearest_map(maps)[:, : len(ids)], spoken_words(text, pieces), voice.frame_rate))
