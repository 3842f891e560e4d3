"""What a voice and its anchors say of a list of sentences, and how judges score it."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from codec.audio.files import read_audio, resample
from codec.errors import SoundloomError
from codec.metrics import Summary, summarize
from pipelines.corpus.manifest import read_manifest
from pipelines.evaluation import plots
from pipelines.evaluation.anchors import through_opus
from pipelines.evaluation.judges import Panel
from pipelines.evaluation.words import WordErrors, word_errors
from pipelines.voice.speech import FINISH_REASONS, Speech
from pipelines.voice.voice import Voice

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        """Plain values for the report's JSON."""
        known = ("system", "index", "seed", "finish_reason", "attempts", "transcript")
        seconds = None if self.wave is None else self.wave.shape[0] / sample_rate
        return {name: getattr(self, name) for name in known} | {"seconds": seconds, "scores": self.scores or {}}


@dataclass(frozen=True)
class Reference:
    """Human or teacher's speech of the sentences: waves [N] at the voice's rate, None where one is missing."""

    name: str
    facts: str
    waves: list[Tensor | None]


def teacher_reference(name: str, texts: Sequence[str], sample_rate: int) -> Reference:
    """A teacher reads the sentences. Raises: SoundloomError where it is not installed."""
    from pipelines.teachers.registry import open_teacher

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
    """Texts and recordings of a manifest (lines with ``audio`` and ``text``). Raises: SoundloomError."""
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
                again = voice.codec.decode(codes[:, :count])[0].mean(0)[: wave.shape[0]].clone()
            yield Item(name, index, 0, again)
        for bitrate in opus:
            again = None if wave is None else through_opus(wave, voice.sample_rate, bitrate)[0]
            yield Item(f"reference through Opus, target {bitrate / 1000:g}", index, 0, again)


def voice_items(
    voice: Voice, texts: Sequence[str], seed: int, settings: dict[str, Any], batch_size: int = 1
) -> Iterator[Item]:
    """Every sentence without the guard and with it, in this order; a try that ended well is both."""
    group = 4 * batch_size  # so that sentences of about one length can go together
    for begin in range(0, len(texts), group):
        places = range(begin, min(begin + group, len(texts)))
        off = _spoken(voice, texts, places, seed, {**settings, "retries": 0}, batch_size)
        bad = [index for index, item in off.items() if item.finish_reason not in ("end", "error")]
        on = off | (_spoken(voice, texts, bad, seed, settings, batch_size) if voice.config.retries else {})
        for index in places:
            yield replace(off[index], system="voice, guard off")
            yield on[index]


def sentence_request(seed: int, index: int) -> int:
    """The request's seed: one a sentence and a seed of the evaluation."""
    return seed * 100_003 + index


def _spoken(
    voice: Voice, texts: Sequence[str], places: Sequence[int], seed: int, settings: dict[str, Any], batch_size: int
) -> dict[int, Item]:
    """Some of the sentences by their place; one that cannot be spoken is an item without sound."""
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
        wave = speech.waveform.mean(0)
        items[index] = Item("voice", index, seed, wave, speech.finish_reason, speech.attempts)
    return items


def ends_of_many(
    voice: Voice, texts: Sequence[str], settings: dict[str, Any], batch_size: int, seed: int = 0
) -> dict[str, list[Item]]:
    """How many requests end, without their sound: the guard's setting -> an item a text. For the failure rate."""
    found: dict[str, list[Item]] = {"voice, guard off": [], "voice": []}
    for item in voice_items(voice, texts, seed, settings, batch_size):
        item.wave = None
        found[item.system].append(item)
    return found


def real_time_factors(voice: Voice, texts: Sequence[str], settings: dict[str, Any], count: int) -> list[float]:
    """Wall time over seconds of sound of sentences spoken whole, one by one, one try each; the first is not counted."""
    factors = []
    for index in range(count + 1):
        began = time.perf_counter()
        speech = voice.speak(texts[index % len(texts)], seed=index, **{**settings, "retries": 0})
        factors.append((time.perf_counter() - began) / speech.seconds)
    return factors[1:]


def score(item: Item, reference: Tensor | None, rate: int, panel: Panel) -> None:
    """Fill in the transcript and the scores of one output."""
    if item.wave is None:
        item.scores = dict.fromkeys(panel.judges)
        return
    if panel.transcribe is not None:
        item.transcript = panel.transcribe(item.wave, rate)
    item.scores = {name: judge(item.wave, reference, rate) for name, judge in panel.judges.items()}
    if reference is not None:
        item.scores["duration ratio"] = item.wave.shape[0] / reference.shape[0]


def item_errors(texts: Sequence[str], items: Sequence[Item], shift: int = 0) -> WordErrors:
    """Return the word errors of the items against their sentences, or those ``shift`` further on (a floor)."""
    references = [texts[(item.index + shift) % len(texts)] for item in items]
    return word_errors(references, [item.transcript for item in items], [item.index for item in items])


def mean_score(items: Sequence[Item], name: str) -> Summary:
    """Mean of a score over sentences, each the mean of its seeds."""
    grouped: dict[int, list[float]] = {}
    failed = 0
    for item in items:
        value = (item.scores or {}).get(name)
        if value is None or not math.isfinite(value):
            failed += 1
        else:
            grouped.setdefault(item.index, []).append(value)
    summary = summarize([float(np.mean(values)) for values in grouped.values()])
    return Summary(summary.mean, summary.low, summary.high, summary.n, failed)


def endings(items: Sequence[Item]) -> dict[str, int]:
    """How often each finish reason came."""
    counted = Counter(item.finish_reason for item in items)
    return {reason: counted.get(reason, 0) for reason in (*FINISH_REASONS, "error")}


def first_sound(voice: Voice, texts: Sequence[str], settings: dict[str, Any], count: int) -> list[float]:
    """Seconds from a request to its first samples, in a warm process; the first request is not counted."""
    waits = []
    for index in range(count + 1):
        began = time.perf_counter()
        stream = voice.stream(texts[index % len(texts)], seed=index, **settings)
        next(stream)
        waits.append(time.perf_counter() - began)
    return waits[1:]


def alignment(voice: Voice, speech: Speech) -> tuple[Tensor, str] | None:
    """Where the first sentence's frames look in its text: float [T, L] of the head that looks most clearly.

    The choice: of all layers and heads, the highest mean of each frame's largest weight among those whose place in the
    text moves forward the most. None where the model gives no maps.
    """
    model = voice.lm.model.decoder
    if not hasattr(model, "attention_maps") or speech.codes.shape[0] < model.levels:
        return None
    sentence = speech.sentences[0]
    ids = torch.tensor(voice.text_ids(sentence.text))
    maps = model.attention_maps(ids, sentence.codes).flatten(0, 1)  # [layers * heads, T, L]
    place = (maps * torch.arange(maps.shape[2])).sum(-1) / maps.sum(-1).clamp(min=1e-9)  # [heads, T]
    clock = torch.arange(maps.shape[1], dtype=torch.float32)
    clock = (clock - clock.mean()) / clock.std().clamp(min=1e-6) if len(clock) > 1 else clock
    centred = place - place.mean(1, keepdim=True)
    forward = (centred * clock).mean(1) / centred.std(1).clamp(min=1e-6)
    best = int((forward.nan_to_num() + maps.amax(-1).mean(1)).argmax())
    heads = model.config.transformer.num_heads
    return maps[best], f"layer {best // heads}, head {best % heads}"


def speech_figure(voice: Voice, speech: Speech) -> Figure:
    """Spectrogram over the alignment of the first sentence."""
    figure = plots.new_figure(8, 4.5)
    rows = figure.subplots(2, 1, height_ratios=[1, 1.4])
    plots.draw_harmonics(rows[0], speech.waveform.mean(0), speech.sample_rate, "")
    rows[0].set_ylabel("kHz")
    found = alignment(voice, speech)
    if found is None:
        plots.draw_codes(rows[1], speech.codes, voice.codec.codebook_size, voice.frame_rate)
        return figure
    weights, where = found
    seconds = weights.shape[0] / voice.frame_rate
    extent = (0, seconds, 0, weights.shape[1])
    rows[1].imshow(weights.t().numpy(), origin="lower", aspect="auto", cmap="viridis", extent=extent)
    rows[1].set_xlabel("seconds")
    rows[1].set_ylabel(f"text unit ({where})")
    return figure
