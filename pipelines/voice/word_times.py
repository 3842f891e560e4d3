"""When each word is said, from where the model looks in the text while it writes each frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec.errors import SoundloomError
from lm.step_lm import StepLM
from lm.text.language import Language
from lm.text.languages import DEFAULT
from pipelines.voice.alignment import clearest_map
from pipelines.voice.captions import WordTime

if TYPE_CHECKING:
    from pipelines.voice.speech import Sentence, Speech
    from pipelines.voice.voice import Voice

WORD_END = "▁"  # the tokenizer's space
# The model looks at a unit before it sounds: by this many seconds at a word's start and end, the medians over 466 words
# against the durations of the voice's teacher (tests/pipelines/voice/test_word_times.py, marker slow).
_START_LEAD, _END_LEAD = 0.07, 0.03
_LARGEST_STEP = 4  # text units that may pass within one frame
_FLOOR = 1e-4  # of an attention weight, so that no path is impossible


def word_times(voice: Voice, speech: Speech) -> list[WordTime]:
    """Return the words of ``speech`` as they were spoken ("$5" is "five", "dollars"), with their times.

    Raises: SoundloomError where the voice's model gives no attention maps.
    """
    found: list[WordTime] = []
    for sentence in speech.sentences:
        words = list(_sentence_times(voice, sentence, speech.sample_rate))
        ended = sentence.text.rstrip("\"')\u201d\u2019")[-1:] in ".?!\u2026"
        found += [*words[:-1], *(replace(word, ends=ended) for word in words[-1:])]
    return found


def _sentence_times(voice: Voice, sentence: Sentence, sample_rate: int) -> Iterator[WordTime]:
    model = voice.lm.model
    if not isinstance(model, StepLM):
        raise SoundloomError(f"word times: a {type(model).__name__} gives no attention maps; use a delay model")
    ids = voice.text_ids(sentence.text)
    pieces = [voice.lm.tokenizer.piece(one) for one in ids]
    maps = model.attention_maps(torch.tensor(ids), sentence.codes).flatten(0, 1)
    words = spoken_words(sentence.text, pieces, voice.lm.tokenizer.language)
    offset = sentence.start / sample_rate
    frame_rate = sentence.codes.shape[1] * sample_rate / sentence.num_samples  # another one where the speed is not 1
    speed = frame_rate / voice.frame_rate
    for word in frames_of_words(clearest_map(maps)[:, : len(ids)], words, frame_rate, speed):
        yield WordTime(word.word, round(offset + word.start, 3), round(offset + word.end, 3))


def frames_of_words(
    weights: Tensor, words: Sequence[tuple[str, tuple[int, int]]], frame_rate: float, speed: float = 1.0
) -> Iterator[WordTime]:
    """Yield the times of words, given with their text units, from attention [T, L]; times in seconds from frame 0.

    ``frame_rate``: frames in a second of the sound, which ``speed`` has already changed.
    """
    places = monotone_path(weights)
    for word, (first, last) in words:
        frames = ((places >= first) & (places <= last)).nonzero().flatten()
        if len(frames):
            start = int(frames[0]) / frame_rate + _START_LEAD / speed
            yield WordTime(word, start, max(start, (int(frames[-1]) + 1) / frame_rate + _END_LEAD / speed))


def monotone_path(weights: Tensor) -> Tensor:
    """Return the text unit of each frame that fits attention [T, L] best and never moves back: long [T].

    The path begins at the first unit. Viterbi's algorithm; within a frame it moves by at most `_LARGEST_STEP` units.
    """
    T, L = weights.shape
    scores = weights.clamp(min=_FLOOR).log()
    best = torch.full((L,), -torch.inf)
    best[0] = scores[0, 0]
    moves = torch.zeros(T, L, dtype=torch.long)
    never = torch.full((_LARGEST_STEP,), -torch.inf)
    for t in range(1, T):
        # row n: the best score of having come from n units before
        shifted = torch.stack([torch.cat([never[:n], best])[:L] for n in range(_LARGEST_STEP + 1)])
        best, moves[t] = shifted.max(0)
        best = best + scores[t]
    path = torch.empty(T, dtype=torch.long)
    place = int(best.argmax())
    for t in range(T - 1, -1, -1):
        path[t] = place
        place -= int(moves[t, place])
    return path


def spoken_words(text: str, pieces: Sequence[str], language: Language = DEFAULT) -> list[tuple[str, tuple[int, int]]]:
    """Return the words of a text with the first and last of their text units.

    Words are those of the normalised text where their number fits the units, else the units' own spelling.
    """
    groups: list[list[int]] = [[]]
    for i, piece in enumerate(pieces):
        if piece.startswith(WORD_END):
            groups.append([])
        if any(character.isalpha() or "\ue000" <= character <= "\uf8ff" for character in piece):
            groups[-1].append(i)
    groups = [group for group in groups if group]
    names = [word for word in language.normalize(text).split() if any(character.isalnum() for character in word)]
    if len(names) != len(groups):
        names = ["".join(pieces[i] for i in group).strip(WORD_END) for group in groups]
    return [(word.strip(',.;:!?"()'), (group[0], group[-1])) for word, group in zip(names, groups, strict=True)]
