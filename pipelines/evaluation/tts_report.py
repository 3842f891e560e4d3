"""Build the report on a voice: tables and things to hear."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from codec.audio.files import encode_audio
from pipelines.evaluation import plots, tts_pictures
from pipelines.evaluation import tts_scores as scores
from pipelines.evaluation.cloning import Cloning, Recording
from pipelines.evaluation.report import Cell, Listening, Picture, Report, Sound, Table
from pipelines.evaluation.sentence_sets import SPELLED
from pipelines.evaluation.tts_outputs import Item, Reference, sentence_request
from pipelines.voice.voice import Voice

GUARDS = ("voice, guard off", "voice")


@dataclass
class Results:
    """Everything that was measured. ``many``: how further requests ended, by the guard's setting.

    ``sets``: the places of the sentences of each named set; empty where the sentences are no sets.
    """

    texts: list[str]
    sample_rate: int
    reference: Reference | None
    items: list[Item] = field(default_factory=list)
    speakers: dict[str, list[Recording]] = field(default_factory=dict)  # new ones, to imitate
    cloning: Cloning | None = None
    many: dict[str, list[Item]] = field(default_factory=dict)
    factors: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    sets: dict[str, range] = field(default_factory=dict)

    def of(self, system: str, seed: int | None = None) -> list[Item]:
        """Return the outputs of a system, or those of one seed."""
        return [item for item in self.items if item.system == system and seed in (None, item.seed)]

    @property
    def spelled(self) -> range:
        """Return the places of the sentences that spell."""
        return self.sets.get(SPELLED, range(0))

    @property
    def systems(self) -> list[str]:
        """Return who speaks, in the order of the tables."""
        return list(dict.fromkeys(item.system for item in self.items))


def build_report(voice: Voice, results: Results, seeds: list[int], facts: dict[str, str], judged: list[str]) -> Report:
    """Return the report's tables from what was measured."""
    report = Report(
        f"Voice report: {voice.name}",
        f"{len(results.texts)} sentences, seeds {', '.join(map(str, seeds))}. Every figure is a proxy: good for "
        "comparing rows of one table, not for comparing with figures published elsewhere.",
        facts,
    )
    columns = [*judged, *(["duration ratio"] if results.reference else [])]
    if columns:
        rows: list[list[Cell]] = [
            [system, *(scores.mean_score(results.of(system), column) for column in columns)]
            for system in results.systems
        ]
        report.tables.append(Table("Sound", ["system", *columns], rows, "Mean [95% interval over sentences]."))
    if any(item.transcript is not None for item in results.items):
        report.tables.append(_word_table(results, seeds))
    if results.sets:
        report.tables.append(set_table(results))
    if results.cloning is not None:
        report.tables.append(results.cloning.table())
    report.tables.append(_endings_table("How requests end", {name: results.of(name) for name in GUARDS}))
    if results.many:
        report.tables.append(_endings_table("How many more requests end", results.many))
    report.tables.append(_speed_table(results))
    report.data = {"texts": results.texts, "items": [item.record(results.sample_rate) for item in results.items]}
    return report


def _word_table(results: Results, seeds: list[int]) -> Table:
    def row(name: str, items: list[Item], shift: int = 0) -> list[Any]:
        errors = scores.item_errors(results.texts, items, shift, results.spelled)
        excess = errors.corpus.mean - base if base is not None else None
        return [name, errors.corpus, excess, errors.mean, errors.over_half, errors.outputs, errors.missing]

    base: float | None = None
    reference = results.of("reference")
    if reference:
        base = scores.item_errors(results.texts, reference, spelled=results.spelled).corpus.mean
    rows = [row(system, results.of(system)) for system in results.systems]
    if len(seeds) > 1:
        rows += [row(f"voice, seed {seed}", results.of("voice", seed)) for seed in seeds]
    if len(results.texts) > 1:
        rows.append(row("voice, other sentences (floor)", results.of("voice"), max(1, len(results.texts) // 2)))
    return Table(
        "Word errors",
        ["system", "WER, corpus", "excess over the reference", "WER, mean", "over 50%", "outputs", "missing"],
        rows,
        "Share of words [95% bootstrap interval over sentences, each with all its seeds]. A missing output counts as "
        "all words deleted. The recogniser makes errors of its own: look at the excess.",
    )


def set_table(results: Results) -> Table:
    """Return the figures of each named set: one row for the reference, the voice and the voice without its guard."""
    rows: list[list[Any]] = []
    for name, places in results.sets.items():
        for system in ("reference", *GUARDS):
            items = [item for item in results.of(system) if item.index in places]
            if items:
                rows.append([f"{name}: {system}", len(places), *_set_figures(results, items)])
    return Table(
        "Named sets",
        ["set: system", "sentences", "WER, corpus", "outputs with errors", "attempts, mean", "not well ended"],
        rows,
        "Hard inputs, each set with its own figures. In the set of letters, joined letters and words that sound like "
        "letters count as the letters.",
    )


def _set_figures(results: Results, items: list[Item]) -> list[Any]:
    errors = wrong = None
    if any(item.transcript is not None for item in items):
        errors = scores.item_errors(results.texts, items, spelled=results.spelled).corpus
        wrong = sum(scores.has_errors(results.texts, item, results.spelled) for item in items)
    attempts = sum(item.attempts for item in items) / len(items)
    return [errors, wrong, attempts, sum(item.finish_reason != "end" for item in items)]


def _endings_table(title: str, found: dict[str, list[Item]]) -> Table:
    rows: list[list[Any]] = []
    for system, items in found.items():
        counted = scores.endings(items)
        attempts = sum(item.attempts for item in items) / max(1, len(items))
        rows.append([system, len(items), *counted.values(), attempts])
    return Table(
        title,
        ["system", "requests", *scores.endings([]), "attempts, mean"],
        rows,
        "end: well; length: far from what the text takes; silence: nothing, or a gap; loop: it repeated itself; "
        "cap: it found no end.",
    )


def _speed_table(results: Results) -> Table:
    rows = [
        ["real-time factor", *_quantiles(results.factors)],
        ["time to first audio, warm, ms", *_quantiles([1000 * wait for wait in results.warm])],
        ["time to first audio, cold, ms", *_quantiles([1000 * wait for wait in results.cold])],
    ]
    return Table(
        "Speed",
        ["figure", "p50", "p95", "n"],
        rows,
        f"{torch.get_num_threads()} threads, one sentence at a time. Warm: from the request to the first samples, "
        "streaming; cold: from starting tts.py, Python and imports included.",
    )


def _quantiles(values: list[float]) -> list[Any]:
    if not values:
        return [None, None, 0]
    return [float(np.quantile(values, 0.5)), float(np.quantile(values, 0.95)), len(values)]


def listenings(voice: Voice, results: Results, seed: int, settings: dict[str, Any], count: int) -> list[Listening]:
    """Return the first sentences to hear, next to the anchors, with a picture of where the model looked."""
    found = []
    for index in range(min(count, len(results.texts))):
        items = [item for item in results.items if item.index == index and item.wave is not None]
        items = [item for item in items if item.system != "voice, guard off"]
        sounds = [
            Sound(
                item.system if item.system != "voice" else f"voice, seed {item.seed}",
                encode_audio(item.wave, results.sample_rate, ".flac"),
                f"{item.finish_reason}; transcript: {item.transcript}"
                if item.transcript is not None
                else item.finish_reason,
            )
            for item in items
            if item.wave is not None
        ]
        picture = None
        if importlib.util.find_spec("matplotlib") and any(item.system == "voice" for item in items):
            # the same request again, because only the codes of all levels show where the model looked
            again = {**settings, "levels": voice.num_levels}
            speech = voice.speak(results.texts[index], seed=sentence_request(seed, index), **again)
            figure = tts_pictures.speech_figure(voice, speech)
            picture = Picture("Spectrogram and alignment", plots.figure_png(figure, 90))
        found.append(Listening(f"Sentence {index + 1}", [], sounds, results.texts[index], picture))
    return found
