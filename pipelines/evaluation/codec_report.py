"""Build the codec's report: tables, rate-quality curves, spectrograms and things to hear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from codec.audio.files import encode_audio
from codec.metrics import Summary, alive_share, codebook_use, expected_usage, summarize
from pipelines.evaluation import codec_scores as scores
from pipelines.evaluation import plots
from pipelines.evaluation.report import Listening, Picture, Report, Sound, Table
from pipelines.evaluation.words import word_errors

SCORES = ("DistillMOS", "PESQ-WB", "STOI", "ViSQOL", "DNSMOS")  # the recording itself has a finite score
PICTURED_OPUS = 16  # kbit/s; the Opus nearest to it is among the spectrograms
CURVES = dict.fromkeys(SCORES, "higher is better")
CURVES |= {"mel distance": "lower is better", "SI-SDR": "dB, higher is better"}


@dataclass
class Results:
    """Everything that was measured. ``table[system][column]`` has a value or None for each clip, in order."""

    clips: list[scores.Clip]
    unread: list[str]
    table: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    transcripts: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)  # codec -> how often each code was used, [K, V]
    counted_minutes: float = 0.0
    waves: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # clip -> system -> wave, for a few clips
    systems: dict[str, list[str]] = field(default_factory=dict)  # family (a line of a curve) -> systems
    variants: list[str] = field(default_factory=list)  # families that stand next to the codec in its spectrograms

    def mean(self, system: str, column: str) -> Summary:
        """Return the mean over clips with its interval."""
        return summarize(self.table[system][column])


def build_report(
    tested: Sequence[scores.CodecUnderTest], results: Results, facts: dict[str, str], columns: Sequence[str]
) -> Report:
    """Return tables, curves and things to hear from what was measured."""
    first = tested[0]
    report = Report(
        f"Codec report: {first.name}",
        f"{len(results.clips)} recordings. Every figure is a proxy: good for comparing rows of one table, "
        "not for comparing with figures published elsewhere.",
        facts,
    )
    report.tables.append(_quality_table(results, columns))
    words = word_table(results)
    report.tables += [words] if words else []
    report.tables.append(_use_table(tested, results))
    reference = results.table["reference itself"]
    for column, note in CURVES.items():
        if column not in reference:
            continue
        lines = {
            family: [(results.mean(system, "kbit/s").mean, results.mean(system, column)) for system in systems]
            for family, systems in results.systems.items()
        }
        ceiling = summarize(reference[column])
        anchors = {"reference": ceiling.mean} if ceiling.n and column in SCORES else {}
        figure = plots.curve_figure(lines, "kbit/s of the file", column, anchors)
        report.pictures.append(Picture(f"{column} by bitrate", plots.figure_png(figure), note))
    for name, counts in results.counts.items():
        report.pictures.append(Picture(f"Use of the codes: {name}", plots.figure_png(plots.use_figure(counts))))
    report.listening = [_listening(first, results, i) for i in results.waves]
    report.data = {"clips": [clip.name for clip in results.clips], "unread": results.unread, "scores": results.table}
    report.data["transcripts"] = results.transcripts
    return report


def _quality_table(results: Results, columns: Sequence[str]) -> Table:
    rows = []
    for system, values in results.table.items():
        lags = sorted(lag for lag in values["lag"] if lag is not None)
        lag = str(int(lags[len(lags) // 2])) if lags else None
        means = [results.mean(system, column) for column in columns]
        rows.append(
            [system, _bitrate(results, system), *means, results.mean(system, "SI-SDR"), lag, len(values["lag"])]
        )
    return Table(
        "Quality by number of levels",
        ["system", "kbit/s", *columns, "SI-SDR dB", "lag", "n"],
        rows,
        "Mean [95% bootstrap interval over recordings]. kbit/s of whole files, headers included. Lag: median, in "
        "samples, taken out before SI-SDR only. Loss: the original's score minus the output's, clip by clip. The first "
        "row is the ceiling, the second the floor.",
    )


def _bitrate(results: Results, system: str) -> float | None:
    summary = results.mean(system, "kbit/s")
    return summary.mean if summary.n else None


def word_table(results: Results) -> Table | None:
    """Return word errors of recordings in English or of unknown language; None without any transcript or words.

    Against known transcripts where there are any (on those recordings alone), else against the recogniser's own
    transcript of the reference.
    """
    judged = [i for i, clip in enumerate(results.clips) if clip.english] if results.transcripts else []
    known = [i for i in judged if results.clips[i].text]
    judged = known or judged
    texts_by_system = {system: [texts[i] for i in judged] for system, texts in results.transcripts.items()}
    if not judged or not any(texts_by_system["reference itself"]):
        return None
    references = [results.clips[i].text or "" for i in judged] if known else texts_by_system["reference itself"]
    rows: list[list[Any]] = []
    base = 0.0
    for system, texts in texts_by_system.items():
        errors = word_errors(references, texts)
        base = errors.corpus.mean if system == "reference itself" else base
        rows.append([system, errors.corpus, errors.corpus.mean - base, errors.mean, errors.over_half, errors.outputs])
    source = "the known transcripts" if known else "the recogniser's transcript of the reference"
    return Table(
        "Word errors",
        ["system", "WER, corpus", "excess over the reference", "WER, mean", "over 50%", "n"],
        rows,
        f"{len(judged)} of {len(results.clips)} recordings (English, or of no known language), against {source}. The "
        "recogniser's own errors dominate: look at the excess.",
    )


def _use_table(tested: Sequence[scores.CodecUnderTest], results: Results) -> Table:
    rows: list[list[Any]] = []
    for one in tested:
        if one.name not in results.counts:  # the codes of an earlier one
            continue
        counts = results.counts[one.name]
        frames, size = int(counts[0].sum()), one.codec.codebook_size
        for level, use in enumerate(codebook_use(counts)):
            hoped, alive = expected_usage(use.perplexity, frames, size), alive_share(counts[level])
            rows.append([f"{one.name}, level {level}", use.used, hoped, alive, use.perplexity, size, frames])
    return Table(
        "Use of the codebooks",
        ["level", "share of codes used", "to be expected", "seem alive", "perplexity", "codes", "frames"],
        rows,
        f"On {results.counted_minutes:.1f} minutes of the recordings. Few frames show few codes: expected is the "
        "share that this many frames show of a codebook without dead codes at this perplexity; alive is what more "
        "frames would show, from codes seen once and twice (Chao).",
    )


def _listening(first: scores.CodecUnderTest, results: Results, i: int) -> Listening:
    rate, clip = first.codec.sample_rate, results.clips[i]
    waves = results.waves[i]

    def sound(system: str) -> Sound:
        bitrate = results.table[system]["kbit/s"][i]
        return Sound(system, encode_audio(waves[system], rate, ".flac"), f"{bitrate:.1f} kbit/s" if bitrate else "")

    own = results.systems[first.name]
    others = [system for family, systems in results.systems.items() if family != first.name for system in systems]
    picture = Picture("Spectrograms", plots.figure_png(plots.spectrogram_figure(_pictured(first, results, i), rate)))
    dial, buttons = [sound(system) for system in own], [sound(system) for system in ["reference itself", *others]]
    return Listening(clip.name, dial, buttons, clip.text or "", picture)


def _pictured(first: scores.CodecUnderTest, results: Results, i: int) -> dict[str, Tensor]:
    """Return what to show side by side: the original, the codec, its variants, Opus, then fewer levels."""
    waves = results.waves[i]
    shown = ["reference itself", results.systems[first.name][-1]]
    shown += [results.systems[family][-1] for family in results.variants]
    shown += sorted(
        results.systems.get("Opus", []), key=lambda name: abs(results.mean(name, "kbit/s").mean - PICTURED_OPUS)
    )[:1]
    shown += [first.label(n) for n in reversed(first.levels[:-1])]
    return {"original" if name == "reference itself" else name: waves[name] for name in shown}
