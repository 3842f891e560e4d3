"""Judge a codec on a folder of recordings, at several numbers of levels, beside Opus and other codecs.

    python pipelines/evaluate_codec.py shipped recordings/ -o report/
    python pipelines/evaluate_codec.py runs/my-codec recordings/ -o report/ --levels 1,2,4,8 --limit 24
    python pipelines/evaluate_codec.py shipped recordings/ -o report/ --peers facebook/encodec_24khz --wer

CODEC is a folder, a hub name, or `shipped`. Writes report.json, report.md and report.html (to listen to). Bitrates are
those of whole files: codes packed as .loom, Opus in Ogg. Every mean has a 95% bootstrap interval over recordings; what
a judge refuses is counted, never replaced. Needs `pip install 'soundloom[eval]'`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from codec.audio import encode_audio
from codec.errors import SoundloomError
from codec.metrics import MEL_RECIPE, Summary, codebook_use, require, summarize
from codec.pretrained import load_codec
from pipelines import codec_scores as scores
from pipelines import judges, plots
from pipelines.cli import run
from pipelines.report import Listening, Picture, Report, Sound, Table, write_report

CURVES = {"PESQ-WB": "higher is better", "STOI": "higher is better", "mel distance": "lower is better"}
CURVES |= {"SI-SDR": "dB, higher is better"}


@dataclass
class Results:
    """Everything that was measured. ``table[system][column]`` has a value, or None, for each clip in order."""

    clips: list[scores.Clip]
    unread: list[str]
    table: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    transcripts: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    heard: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # clip -> system -> wave, of a few clips
    systems: dict[str, list[str]] = field(default_factory=dict)  # family (a line of a curve) -> systems

    def mean(self, system: str, column: str) -> Summary:
        return summarize(self.table[system][column])


def measure(
    tested: Sequence[scores.CodecUnderTest],
    results: Results,
    opus: Sequence[int],
    judges_by_name: dict[str, scores.Judge],
    transcribe: Callable[[Tensor, int], str] | None,
    listen: int,
) -> None:
    """Send every clip through every system and score it; the first codec's rate is that of the comparison."""
    rate = tested[0].codec.sample_rate
    families = {one.name: [one.label(n) for n in one.levels] for one in tested}
    if opus:
        families["Opus"] = [f"Opus, target {bitrate / 1000:g}" for bitrate in opus]
    results.systems = families
    for i, clip in enumerate(tqdm(results.clips, unit="clip", disable=not sys.stderr.isatty())):
        outputs = list(scores.anchor_outputs(results.clips, i))
        for one in tested:
            outputs += scores.codec_outputs(one, clip, rate, results.counts)
        outputs += scores.opus_outputs(opus, clip, rate)
        for output in outputs:
            columns = results.table.setdefault(output.system, {})
            for column, value in scores.score(clip, output, rate, judges_by_name).items():
                columns.setdefault(column, []).append(value)
            if transcribe is not None:
                results.transcripts.setdefault(output.system, []).append(transcribe(output.wave, rate))
            if i < listen:
                results.heard.setdefault(i, {})[output.system] = output.wave


def build_report(
    tested: Sequence[scores.CodecUnderTest], results: Results, facts: dict[str, str], columns: Sequence[str]
) -> Report:
    """Tables, curves and things to hear from what was measured."""
    first = tested[0]
    report = Report(
        f"Codec report: {first.name}",
        f"{len(results.clips)} recordings. Every figure is a proxy: good for comparing rows of one table, "
        "not for comparing with figures published elsewhere.",
        facts,
    )
    report.tables.append(_quality_table(results, columns))
    if results.transcripts:
        report.tables.append(_word_table(results))
    report.tables.append(_use_table(tested, results))
    reference = {"reference": results.table["reference itself"]}
    for column, note in CURVES.items():
        lines = {
            family: [(results.mean(system, "kbit/s").mean, results.mean(system, column)) for system in systems]
            for family, systems in results.systems.items()
        }
        ceiling = summarize(reference["reference"].get(column, []))
        anchors = {"reference": ceiling.mean} if ceiling.n and column in ("PESQ-WB", "STOI") else {}
        figure = plots.curve_figure(lines, "kbit/s of the file", column, anchors)
        report.pictures.append(Picture(f"{column} by bitrate", plots.figure_png(figure), note))
    for name, counts in results.counts.items():
        report.pictures.append(Picture(f"Use of the codes: {name}", plots.figure_png(plots.use_figure(counts))))
    report.listening = [_listening(first, results, i) for i in results.heard]
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
        "samples, taken out before SI-SDR only. The first row is the ceiling, the second the floor.",
    )


def _bitrate(results: Results, system: str) -> float | None:
    summary = results.mean(system, "kbit/s")
    return summary.mean if summary.n else None


def _word_table(results: Results) -> Table:
    known = all(clip.text for clip in results.clips)
    references = [clip.text or "" for clip in results.clips] if known else results.transcripts["reference itself"]
    rows: list[list[Any]] = []
    base = 0.0
    for system, texts in results.transcripts.items():
        errors = judges.word_errors(references, texts)
        base = errors.corpus.mean if system == "reference itself" else base
        rows.append([system, errors.corpus, errors.corpus.mean - base, errors.mean, errors.over_half, errors.corpus.n])
    source = "the transcripts beside the recordings" if known else "the judge's own transcript of the reference"
    return Table(
        "Word errors",
        ["system", "WER, corpus", "excess over the reference", "WER, mean", "over 50%", "n"],
        rows,
        f"Against {source}. The judge's own errors dominate: look at the excess.",
    )


def _use_table(tested: Sequence[scores.CodecUnderTest], results: Results) -> Table:
    rows: list[list[Any]] = []
    for one in tested:
        frames = int(results.counts[one.name][0].sum())
        for level, use in enumerate(codebook_use(results.counts[one.name])):
            rows.append([f"{one.name}, level {level}", use.used, use.perplexity, one.codec.codebook_size, frames])
    return Table(
        "Use of the codebooks",
        ["level", "share of codes used", "perplexity", "codes", "frames"],
        rows,
        "Few frames cannot use many codes: compare with the number of frames.",
    )


def _listening(first: scores.CodecUnderTest, results: Results, i: int) -> Listening:
    rate, clip = first.codec.sample_rate, results.clips[i]
    waves = results.heard[i]

    def sound(system: str) -> Sound:
        bitrate = results.table[system]["kbit/s"][i]
        return Sound(system, encode_audio(waves[system], rate, ".flac"), f"{bitrate:.1f} kbit/s" if bitrate else "")

    own = results.systems[first.name]
    others = [system for family, systems in results.systems.items() if family != first.name for system in systems]
    drawn = {"original": waves["reference itself"], **{f"{n} lev.": waves[first.label(n)] for n in first.levels}}
    picture = Picture("Mel spectrograms", plots.figure_png(plots.spectrogram_figure(drawn, rate), 90))
    dial, beside = [sound(system) for system in own], [sound(system) for system in ["reference itself", *others]]
    return Listening(clip.name, dial, beside, clip.text or "", picture)


def _numbers(text: str, option: str, scale: float = 1) -> list[int]:
    try:
        numbers = [round(float(part) * scale) for part in text.split(",") if part.strip()]
    except ValueError:
        raise SoundloomError(f"{option} {text}: wanted numbers with commas between, such as 1,2,4,8") from None
    return sorted(set(numbers))


def _load(name: str, levels: str | None) -> scores.CodecUnderTest:
    codec = load_codec(None if name == "shipped" else name)
    if levels is None:
        chosen = [n for n in (1, 2, 4, 8, 16, 32) if n < codec.num_levels] + [codec.num_levels]
    else:
        chosen = _numbers(levels, "--levels")
    if not chosen or not 1 <= chosen[0] <= chosen[-1] <= codec.num_levels:
        raise SoundloomError(f"--levels {levels}: {name} has levels 1 to {codec.num_levels}")
    return scores.CodecUnderTest(Path(name).name if Path(name).exists() else name, codec, chosen)


def _choose_judges(options: argparse.Namespace) -> tuple[dict[str, scores.Judge], Any, dict[str, str]]:
    """The judges by column, the transcriber or None, and what they are; missing packages are told before any work."""
    for package in ("pesq", "pystoi"):
        require(package)
    chosen = scores.standard_judges()
    facts = {"PESQ-WB, STOI": f"at 16 kHz; {judges.package_versions('pesq', 'pystoi')}; PESQ refuses silence"}
    if options.dnsmos:
        dnsmos = judges.Dnsmos()
        chosen["DNSMOS"] = lambda reference, estimate, rate: dnsmos(estimate, rate)
        facts["DNSMOS"] = f"{dnsmos.description}, {judges.package_versions('speechmos', 'onnxruntime')}"
    if options.speaker:
        encoder = judges.SpeakerEncoder()
        chosen["speaker"] = encoder.similarity
        facts["speaker"] = f"cosine to the reference; {encoder.description}, pauses kept"
    transcriber = judges.Transcriber(threads=options.threads) if options.wer else None
    if transcriber is not None:
        facts["transcripts"] = f"{transcriber.description}; {judges.english_normalizer()[1]}"
    return chosen, transcriber, facts


def _facts(options: argparse.Namespace, tested: Sequence[scores.CodecUnderTest]) -> dict[str, str]:
    facts = {
        one.name: f"{one.codec.sample_rate} Hz, {one.codec.frame_rate:g} frames/s, {one.codec.num_levels} levels of "
        f"{one.codec.codebook_size} codes, fingerprint {one.codec.fingerprint[:16]}"
        for one in tested
    }
    facts["recordings"] = f"{options.folder}, each cut to its first {options.seconds:g} s"
    facts["mel distance"] = f"at {tested[0].codec.sample_rate} Hz; {MEL_RECIPE}"
    facts["intervals"] = "95%, percentile bootstrap over recordings, 1,000 draws, seed 0"
    facts["software"] = judges.package_versions("soundloom", "torch", "torchaudio", "soundfile", "transformers")
    return facts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="evaluate_codec.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("codec", help="a folder, a hub name, or `shipped`")
    parser.add_argument("folder", help="recordings; x.txt beside x.wav is its transcript")
    parser.add_argument("-o", "--output", required=True, help="folder for the report")
    parser.add_argument("--levels", help="numbers of levels, such as 1,2,4,8 (default: 1, 2, 4, 8 … and all)")
    parser.add_argument("--limit", type=int, help="recordings, spread over the folder (default: all)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each recording, at most 20 (default: 10)")
    parser.add_argument("--peers", default="", help="other codecs, with commas between")
    parser.add_argument("--opus", default="6,9,12,16,24", help="Opus's target bitrates in kbit/s; '' leaves it out")
    parser.add_argument("--wer", action="store_true", help="word errors by Whisper tiny")
    parser.add_argument("--dnsmos", action="store_true", help="DNSMOS by speechmos")
    parser.add_argument("--speaker", action="store_true", help="speaker similarity by Resemblyzer's network")
    parser.add_argument("--listen", type=int, default=4, help="recordings to hear in the page (default: 4)")
    parser.add_argument("--threads", type=int, default=1, help="threads for the networks (default: 1)")
    options = parser.parse_args(argv)
    if not 0.3 <= options.seconds <= 20 or (options.limit is not None and options.limit < 1):
        raise SoundloomError("--seconds must be 0.3 to 20 (PESQ takes no more) and --limit at least 1")
    torch.set_num_threads(options.threads)
    opus = _numbers(options.opus, "--opus", 1000)
    if opus and not 6_000 <= opus[0] <= opus[-1] <= 256_000:
        raise SoundloomError(f"--opus {options.opus}: Opus takes 6 to 256 kbit/s")
    tested = [_load(options.codec, options.levels)]
    tested += [_load(name.strip(), None) for name in options.peers.split(",") if name.strip()]
    if len({one.name for one in tested}) < len(tested):
        raise SoundloomError("--peers: two codecs of one name; rename a folder")
    chosen, transcriber, judge_facts = _choose_judges(options)
    rate = tested[0].codec.sample_rate
    results = Results(*scores.read_clips(options.folder, rate, options.limit, options.seconds))
    for line in results.unread:
        print(f"left out: {line}", file=sys.stderr)
    measure(tested, results, opus, chosen, transcriber, options.listen)
    report = build_report(tested, results, _facts(options, tested) | judge_facts, list(chosen))
    for path in write_report(options.output, report):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
