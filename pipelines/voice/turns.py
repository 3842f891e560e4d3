"""Several turns, each with a speaker and a speed of its own, as one speech: what SSML and scripts become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codec.common.seeds import turn_seed
from codec.errors import SoundloomError, quoted
from lm.text.tokenizer import NothingToSpeak
from pipelines.voice.sentences import MAX_CHARACTERS, describe_skipped
from pipelines.voice.speech import Sentence, Speech, SpeechStream
from pipelines.voice.timescale import FASTEST, SLOWEST, checked_speed

if TYPE_CHECKING:
    from pipelines.voice.voice import Voice

MAX_TURNS = 2_000
_SENTENCE_ENDS = (".", "?", "!", "…", '"', "”")


@dataclass(frozen=True)
class Turn:
    """A text for one speaker.

    ``speaker``: a speaker's name, or the voice's own; None for the one that the call asks for. ``speed`` is times the
    call's. ``pause``: seconds of silence after it; None for the voice's usual ones.
    """

    text: str
    speaker: str | None = None
    speed: float = 1.0
    pause: float | None = None


@dataclass(frozen=True)
class _Ready:
    """A turn that can be spoken: its seed, its options, and the silence after it."""

    text: str
    seed: int
    options: Mapping[str, Any]
    pause: float


def speak_turns(voice: Voice, turns: Sequence[Turn], *, seed: int = 0, batch_size: int = 8, **options: Any) -> Speech:
    """Speak the turns one after another. Options and errors are those of `Voice.speak`.

    Each turn has a seed of its own, which follows from ``seed`` and its place; the first has ``seed``. The turns of a
    speaker are spoken side by side, which does not change their sound.
    """
    ready, skipped = _prepare(voice, turns, seed, options)
    speeches: dict[int, Speech] = {}
    for manner in dict.fromkeys(_manner(one) for one in ready):
        own = [i for i, one in enumerate(ready) if _manner(one) == manner]
        texts, seeds = [ready[i].text for i in own], [ready[i].seed for i in own]
        made = voice.speak_batch(texts, seeds=seeds, batch_size=batch_size, **ready[own[0]].options)
        speeches.update(zip(own, made, strict=True))
    parts: list[Tensor] = []
    sentences: list[Sentence] = []
    at = 0
    for i, one in enumerate(ready):
        new = [speeches[i].waveform, voice.silence(one.pause)]
        sentences += _moved(speeches[i], at)
        parts += new
        at += sum(part.shape[-1] for part in new)
    return Speech.of(torch.cat(parts, dim=-1), voice.sample_rate, sentences, skipped)


def stream_turns(voice: Voice, turns: Sequence[Turn], *, seed: int = 0, **options: Any) -> SpeechStream:
    """Speak the turns while they are written; see `Voice.stream`."""
    ready, skipped = _prepare(voice, turns, seed, options)
    return SpeechStream(voice.sample_rate, _stream(voice, ready), skipped)


def _stream(voice: Voice, ready: Sequence[_Ready]) -> Iterator[Tensor | Sentence]:
    at = 0
    for one in ready:
        chunks = voice.stream(one.text, seed=one.seed, **one.options)
        yield from chunks
        assert chunks.speech is not None
        yield from _moved(chunks.speech, at)
        at += chunks.speech.waveform.shape[-1]
        pause = voice.silence(one.pause)
        at += pause.shape[-1]
        if pause.shape[-1]:
            yield pause


def _moved(speech: Speech, by: int) -> Iterator[Sentence]:
    return (replace(sentence, start=sentence.start + by) for sentence in speech.sentences)


def manners(voice: Voice, turns: Sequence[Turn], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the options of each turn. Raises: SoundloomError for an unknown speaker, or a speed out of its range."""
    if not turns:
        raise SoundloomError("the text is empty; give some words to speak")
    if len(turns) > MAX_TURNS:
        raise SoundloomError(f"the text has {len(turns):,} turns; expected at most {MAX_TURNS:,}")
    if sum(len(turn.text) for turn in turns) > MAX_CHARACTERS:
        raise SoundloomError(f"the turns have more than {MAX_CHARACTERS:,} characters; speak them in parts")
    return [_options(voice, turn, options) for turn in turns]


def _options(voice: Voice, turn: Turn, options: Mapping[str, Any]) -> dict[str, Any]:
    speed = checked_speed(options.get("speed", 1.0)) * turn.speed
    if not SLOWEST - 1e-9 <= speed <= FASTEST + 1e-9:
        shown = quoted(turn.text.strip(), 40)
        raise SoundloomError(f"speed {speed:g} for {shown}: expected {SLOWEST:g} to {FASTEST:g}, all rates multiplied")
    own: dict[str, Any] = {**options, "speed": min(max(speed, SLOWEST), FASTEST)}
    if turn.speaker is not None:
        speaker = None if turn.speaker == voice.name else turn.speaker
        own |= {"speaker": speaker, "prompt": None, "prompt_text": None}
    if own.get("speaker") is not None:
        voice.check_speaker(own["speaker"])
    return own


def _prepare(
    voice: Voice, turns: Sequence[Turn], seed: int, options: Mapping[str, Any]
) -> tuple[list[_Ready], list[str]]:
    """Check everything before anything is spoken; return what can be spoken, and the parts that cannot.

    Raises: SoundloomError.
    """
    ready: list[_Ready] = []
    skipped: list[str] = []
    strict, cutter = bool(options.get("strict")), voice.plan.cutter
    failed: SoundloomError | None = None
    for place, (turn, own) in enumerate(zip(turns, manners(voice, turns, options), strict=True)):
        try:
            script = cutter.cut(turn.text, strict)
        except NothingToSpeak as error:
            if strict:
                raise
            failed = error
            skipped.append(turn.text.strip())
            continue
        skipped += script.skipped
        pause = 0.0 if script.pieces[-1].pause else usual_pause(voice, turn)
        ready.append(_Ready(turn.text, turn_seed(seed, place), own, pause))
    if not ready:
        raise failed or SoundloomError(describe_skipped(skipped))
    if turns[-1].pause is None:
        ready[-1] = replace(ready[-1], pause=0.0)
    return ready, skipped


def usual_pause(voice: Voice, turn: Turn) -> float:
    """Return the seconds after a turn: its own, else those between sentences, or a third where no sentence ends."""
    if turn.pause is not None:
        return turn.pause
    return voice.config.pause_seconds * (1 if turn.text.rstrip().endswith(_SENTENCE_ENDS) else 1 / 3)


def _manner(one: _Ready) -> tuple[Any, ...]:
    """Return what turns need in common to be spoken side by side."""
    return one.options.get("speaker"), one.options["speed"], one.options.get("prompt") is None
