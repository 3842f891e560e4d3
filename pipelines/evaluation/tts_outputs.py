"""Make what a voice's report compares: the voice's speech, and the anchors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.audio.files import read_audio
from codec.audio.signal import resample
from codec.errors import SoundloomError
from pipelines.corpus.manifest import read_manifest
from pipelines.evaluation.anchors import through_opus
from pipelines.teachers.registry import open_teacher
from pipelines.voice.voice import Voice


@dataclass
class Item:
    """One output: sentence ``index`` by ``system`` with ``seed``; ``wave`` [N] is None where there is none."""

    system: str
    index: int
    seed: int
    wave: Tensor | None
    finish_reason: str = "end"
    attempts: int = 1
    transcript: str | None = None
    scores: dict[str, float | None] | None = None

    def record(self, sample_rate: int) -> dict[str, Any]:
        """Return plain values for the report's JSON."""
        known = ("system", "index", "seed", "finish_reason", "attempts", "transcript")
        seconds = None if self.wave is None else self.wave.shape[0] / sample_rate
        return {name: getattr(self, name) for name in known} | {"seconds": seconds, "scores": self.scores or {}}


@dataclass(frozen=True)
class Reference:
    """Speech of the sentences by a person or a teacher: waves [N] at the voice's rate, None where one is missing."""

    name: str
    facts: str
    waves: list[Tensor | None]


def teacher_reference(name: str, texts: Sequence[str], sample_rate: int) -> Reference:
    """Let a teacher read the sentences. Raises: SoundloomError where it is not installed."""
    teacher, _, voice = name.partition(":")
    speaker = open_teacher(teacher, voice)
    waves: list[Tensor | None] = []
    for text in texts:
        try:
            wave = torch.from_numpy(np.array(speaker.speak(text, 0), np.float32))
            waves.append(resample(wave, speaker.sample_rate, sample_rate))
        except (SoundloomError, RuntimeError, ValueError):
            waves.append(None)  # counted as failed
    return Reference(f"teacher {speaker.speaker}", json.dumps(speaker.facts()), waves)


def manifest_reference(
    path: Path, sample_rate: int, limit: int | None, split: str | None
) -> tuple[list[str], Reference]:
    """Read texts and recordings of a manifest (lines with ``audio`` and ``text``). Raises: SoundloomError."""
    texts: list[str] = []
    waves: list[Tensor | None] = []
    for row in islice(read_manifest(path, split or ""), limit):
        if not row.text:
            raise SoundloomError(f'{path}: {row.audio}: wanted a row with "audio" and "text"')
        texts.append(row.text)
        waves.append(read_audio(path.parent / row.audio, sample_rate)[0])
    if not texts:
        raise SoundloomError(f"{path}: has no rows{f' of split {split}' if split else ''}")
    return texts, Reference(f"recordings of {path.name}", str(path), waves)


def reference_items(
    reference: Reference, voice: Voice, levels: int | None = None, opus: Sequence[int] = ()
) -> Iterator[Item]:
    """Yield the anchors: the reference, the same through the voice's codec and through Opus.

    ``levels``: those that the voice decodes (None: its own); the codec runs at all, a half and a quarter of its levels,
    and at these. ``opus``: target bitrates in bit/s.
    """
    every = voice.codec.num_levels
    counts = sorted({levels or voice.config.levels or voice.num_levels, every // 2, every // 4} - {0, every})
    for index, wave in enumerate(reference.waves):
        yield Item("reference", index, 0, wave)
        codes = None if wave is None else voice.codec.encode(wave.expand(1, voice.codec.channels, -1))
        for count in (every, *reversed(counts)):
            name = "reference through the codec" + (f", {count} levels" if count < every else "")
            again = None
            if wave is not None and codes is not None:
                again = voice.codec.decode(codes[:, :count])[0].mean(0)[: wave.shape[0]].cpu()
            yield Item(name, index, 0, again)
        for bitrate in opus:
            again = None if wave is None else through_opus(wave, voice.sample_rate, bitrate)[0]
            yield Item(f"reference through Opus, target {bitrate / 1000:g}", index, 0, again)


def voice_items(
    voice: Voice, texts: Sequence[str], seed: int, settings: dict[str, Any], batch_size: int = 1
) -> Iterator[Item]:
    """Yield every sentence without the guard and then with it; an attempt that ended well is both.

    Without the guard there is one take.
    """
    several = settings.get("takes", 1) > 1 or settings.get("checker") is not None
    alone = settings | {"retries": 0} | ({"takes": 1, "checker": None} if several else {})
    group = 4 * batch_size  # so that sentences of about one length can share a batch
    for begin in range(0, len(texts), group):
        places = range(begin, min(begin + group, len(texts)))
        off = _spoken(voice, texts, places, seed, alone, batch_size)
        again = [i for i, item in off.items() if item.finish_reason != "error" and (several or not _ended_well(item))]
        needed = several or voice.config.retries
        on = off | (_spoken(voice, texts, again, seed, settings, batch_size) if needed else {})
        for index in places:
            yield replace(off[index], system="voice, guard off")
            yield _sharing(off[index], on[index])


def _sharing(off: Item, on: Item) -> Item:
    """Return ``on``, with the very sound of ``off`` where both are equal, so that judges hear it once."""
    same = off.wave is not None and on.wave is not None and torch.equal(off.wave, on.wave)
    return replace(on, wave=off.wave) if same else on


def _ended_well(item: Item) -> bool:
    return item.finish_reason == "end"


def sentence_request(seed: int, index: int) -> int:
    """Return the seed of a request: one for each sentence and seed of the evaluation."""
    return seed * 100_003 + index


def _spoken(
    voice: Voice, texts: Sequence[str], places: Sequence[int], seed: int, settings: dict[str, Any], batch_size: int
) -> dict[int, Item]:
    """Speak some of the sentences, by their place; one that cannot be spoken is an item without sound."""
    items: dict[int, Item] = {}
    good: list[int] = []
    for index in places:
        try:
            voice.check_text(texts[index])
            good.append(index)
        except SoundloomError:
            items[index] = Item("voice", index, seed, None, "error")
    seeds = [sentence_request(seed, index) for index in good]
    speeches = voice.speak_batch([texts[index] for index in good], seeds=seeds, batch_size=batch_size, **settings)
    for index, speech in zip(good, speeches, strict=True):
        wave = speech.waveform.mean(0).cpu()
        items[index] = Item("voice", index, seed, wave, speech.finish_reason, speech.attempts)
    return items


def ends_of_many(
    voice: Voice, texts: Sequence[str], settings: dict[str, Any], batch_size: int, seed: int = 0
) -> dict[str, list[Item]]:
    """Speak many texts and keep how they end, not their sound: an item per text, without the guard and with it."""
    found: dict[str, list[Item]] = {"voice, guard off": [], "voice": []}
    for item in voice_items(voice, texts, seed, settings, batch_size):
        item.wave = None
        found[item.system].append(item)
    return found
