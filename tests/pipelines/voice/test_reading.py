"""The guard sees in the attention whether a text was read once, from its start to its end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from voice_helpers import tiny_voice

from pipelines.voice import synthesis
from pipelines.voice.alignment import clearest_map
from pipelines.voice.reading import follows, frames_with_sound, path_with_jumps

WORDS = [(0, 2), (4, 6)]  # two words of three units, a space between; unit 7 is the full stop
RATE = 50.0
STRAIGHT = [7] * 10 + [0] * 8 + [1] * 4 + [2] * 4 + [3] * 2 + [4] * 6 + [5] * 4 + [6] * 6 + [7] * 6


def attention(places: list[int], clear: float = 0.9) -> Tensor:
    weights = torch.full((len(places), 8), (1 - clear) / 30)
    weights[torch.arange(len(places)), torch.tensor(places)] = clear
    return weights


def fine(places: list[int], quiet_from: int = 10_000, clear: float = 0.9) -> bool:
    sound = torch.arange(len(places)) < quiet_from
    return follows(attention(places, clear), sound, WORDS, RATE)


def test_a_text_read_once_is_fine_wherever_the_model_looks_in_silence() -> None:
    assert fine(STRAIGHT)
    assert fine(STRAIGHT + [1] * 20, quiet_from=len(STRAIGHT))
    assert fine(STRAIGHT[:-8] + [7] * 30, quiet_from=len(STRAIGHT))


def test_what_is_said_again_or_behind_the_text_is_seen() -> None:
    assert not fine(STRAIGHT + [4] * 6 + [5] * 4 + [6] * 4)
    assert not fine(STRAIGHT + [7] * 10)


def test_a_word_left_out_is_seen_where_the_attention_is_clear() -> None:
    without = [0] * 16 + [1] * 6 + [2] * 6 + [7] * 6
    assert not fine(without) and fine(without, clear=0.4)


def test_the_path_takes_a_jump_only_for_much_evidence() -> None:
    once = [0, 1, 2, 3, 4, 5, 6, 7]
    assert path_with_jumps(attention([*once, 0, 1, 2, 3]), 0).tolist() == [*once, 0, 1, 2, 3]
    blurred = path_with_jumps(attention([*once, 5, 7, 7], clear=0.5), 0)
    assert (blurred.diff() >= 0).all()
    assert path_with_jumps(torch.ones(3, 2), 0).shape == (3,)


def test_frames_with_sound() -> None:
    wave = torch.cat([torch.zeros(1, 40), torch.ones(1, 20), torch.full((1, 20), 0.001)], dim=1)
    assert frames_with_sound(wave, 4).tolist() == [False, False, True, False]
    maps = torch.stack([attention(STRAIGHT[::-1]), attention(STRAIGHT)])
    assert torch.equal(clearest_map(maps, torch.arange(50) > 10), maps[1])


@pytest.mark.parametrize(("asked", "checked"), [(None, True), (True, True), (False, False)])
def test_a_misread_sentence_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool | None, checked: bool
) -> None:
    voice = tiny_voice(tmp_path)
    monkeypatch.setattr(synthesis, "finish_reason", lambda *_: "end")
    answers = iter([False, True])
    monkeypatch.setattr(synthesis, "reads_well", lambda *_: next(answers))
    speech = voice.speak("Hello.", check_words=asked)
    assert (speech.finish_reason, speech.attempts) == ("end", 2 if checked else 1)
    monkeypatch.setattr(synthesis, "reads_well", lambda *_: False)
    speech = voice.speak("Hello.", check_words=asked, retries=1)
    assert (speech.finish_reason, speech.attempts) == (("words", 2) if checked else ("end", 1))
    long = voice.speak("hello " * 9, check_words=asked, retries=0, max_frames=60)
    assert long.finish_reason == ("words" if asked else "end")
