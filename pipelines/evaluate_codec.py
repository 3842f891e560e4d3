"""Judge a codec on a folder of recordings, at several numbers of levels, beside Opus and other codecs.

    python pipelines/evaluate_codec.py shipped recordings/ -o report/
    python pipelines/evaluate_codec.py runs/my-codec recordings/ -o report/ --levels 1,2,4,8 --limit 24
    python pipelines/evaluate_codec.py shipped corpora/real -o report/ --split test --dnsmos --wer
    python pipelines/evaluate_codec.py runs/gan/codec recordings/ -o report/ --beside "without GAN=runs/plain/codec"
    python pipelines/evaluate_codec.py shipped recordings/ -o report/ --peers facebook/encodec_24khz,kyutai/mimi

CODEC is a folder, a hub name, or `shipped`. Writes report.json, report.md and report.html (to listen to). Bitrates are
those of whole files: codes packed as .loom, Opus in Ogg. Every mean has a 95% bootstrap interval over recordings; what
a judge refuses is counted, never replaced. Needs `pip install 'soundloom[eval]'`; ViSQOL is told where it is installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from codec.errors import SoundloomError
from codec.metrics import MEL_RECIPE, require, visqol
from codec.pretrained import load_codec
from pipelines.command_line.run import run
from pipelines.evaluation import codec_scores as scores
from pipelines.evaluation import judges
from pipelines.evaluation.codec_report import Results, build_report
from pipelines.evaluation.report import write_report


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
    unheard = {clip.name for clip in results.clips if not clip.english}
    families = {one.name: [one.label(n) for n in one.levels] for one in tested}
    if opus:
        families["Opus"] = [f"Opus, target {bitrate / 1000:g}" for bitrate in opus]
    results.systems = families
    for i, clip in enumerate(tqdm(results.clips, unit="clip", disable=not sys.stderr.isatty())):
        outputs = list(scores.anchor_outputs(results.clips, i))
        for one in tested:
            outputs += scores.codec_outputs(one, clip, rate)
        outputs += scores.opus_outputs(opus, clip, rate)
        original: float | None = None
        for output in outputs:
            columns = results.table.setdefault(output.system, {})
            found = scores.score(clip, output, rate, judges_by_name)
            if "DNSMOS" in found:
                original = found["DNSMOS"] if output is outputs[0] else original  # the first is the recording itself
                pair = (original, found["DNSMOS"])
                found["DNSMOS loss"] = None if pair[0] is None or pair[1] is None else pair[0] - pair[1]
            for column, value in found.items():
                columns.setdefault(column, []).append(value)
            if transcribe is not None:
                text = "" if clip.name in unheard else transcribe(output.wave, rate)
                results.transcripts.setdefault(output.system, []).append(text)
            if i < listen:
                results.heard.setdefault(i, {})[output.system] = output.wave


def _numbers(text: str, option: str, scale: float = 1) -> list[int]:
    try:
        numbers = [round(float(part) * scale) for part in text.split(",") if part.strip()]
    except ValueError:
        raise SoundloomError(f"{option} {text}: wanted numbers with commas between, such as 1,2,4,8") from None
    return sorted(set(numbers))


def _load(name: str, levels: str | Sequence[int] | None) -> scores.CodecUnderTest:
    """The codec of ``name`` or ``label=name``, at these numbers of levels (None: 1, 2, 4 … and all)."""
    label, _, path = ("", "", name) if Path(name).exists() else name.rpartition("=")
    codec = load_codec(None if path == "shipped" else path)
    if levels is None:
        chosen = [n for n in (1, 2, 4, 8, 16, 32) if n < codec.num_levels] + [codec.num_levels]
    else:
        chosen = (
            _numbers(levels, "--levels") if isinstance(levels, str) else [n for n in levels if n <= codec.num_levels]
        )
    if not chosen or not 1 <= chosen[0] <= chosen[-1] <= codec.num_levels:
        raise SoundloomError(f"--levels {levels}: {name} has levels 1 to {codec.num_levels}")
    return scores.CodecUnderTest(label or (Path(path).name if Path(path).exists() else path), codec, chosen)


def _load_all(options: argparse.Namespace) -> tuple[list[scores.CodecUnderTest], list[str]]:
    """The codec, those beside it, the peers; and the names of those beside it."""
    tested = [_load(options.codec, options.levels)]
    beside = [_load(name, tested[0].levels) for name in options.beside]
    peers = [_load(name.strip(), None) for name in options.peers.split(",") if name.strip()]
    tested += beside + peers
    if len({one.name for one in tested}) < len(tested):
        raise SoundloomError("--beside, --peers: two codecs of one name; give it another one, such as NAME=FOLDER")
    return tested, [one.name for one in beside]


def _choose_judges(options: argparse.Namespace) -> tuple[dict[str, scores.Judge], Any, dict[str, str]]:
    """The judges by column, the transcriber or None, and what they are; missing packages are told before any work."""
    for package in ("pesq", "pystoi"):
        require(package)
    chosen = scores.standard_judges()
    facts = {"PESQ-WB, STOI": f"proxies, at 16 kHz; {judges.package_versions('pesq', 'pystoi')}; PESQ refuses silence"}
    try:
        for package in ("visqol", "ai_edge_litert"):
            require(package)
        chosen["ViSQOL"] = visqol
        version = judges.package_versions("visqol-python", "ai-edge-litert")
        facts["ViSQOL"] = f"proxy: a port to Python of ViSQOL 3, speech mode at 16 kHz, lattice network; {version}"
    except SoundloomError as error:
        facts["ViSQOL"] = f"not judged: {error} or pip install 'visqol-python[lattice]'"
    if options.dnsmos:
        dnsmos = judges.Dnsmos()
        chosen["DNSMOS"] = lambda reference, estimate, rate: dnsmos(estimate, rate)
        facts["DNSMOS"] = (
            f"proxy: {dnsmos.description}, {judges.package_versions('speechmos', 'onnxruntime')}; the loss "
        )
        facts["DNSMOS"] += "is that of the recording minus that of the output, pair by pair"
    if options.speaker:
        encoder = judges.SpeakerEncoder()
        chosen["speaker"] = encoder.similarity
        facts["speaker"] = f"proxy: cosine to the reference; {encoder.description}, pauses kept"
    transcriber = judges.Transcriber(threads=options.threads) if options.wer else None
    if transcriber is not None:
        facts["transcripts"] = f"proxy: {transcriber.description}; {judges.english_normalizer()[1]}"
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
    parser.add_argument("folder", help="recordings, with x.txt beside x.wav where known; or a corpus' manifest")
    parser.add_argument("--split", default="", help="of a corpus with a manifest, such as test (default: all)")
    parser.add_argument("--language", default="", help="of the recordings, such as fr, where no manifest has it")
    parser.add_argument("-o", "--output", required=True, help="folder for the report")
    parser.add_argument("--levels", help="numbers of levels, such as 1,2,4,8 (default: 1, 2, 4, 8 … and all)")
    parser.add_argument("--limit", type=int, help="recordings, spread over the folder (default: all)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each recording, at most 20 (default: 10)")
    parser.add_argument(
        "--use-minutes", type=float, default=20.0, help="of all recordings, to count the use of codes on (default: 20)"
    )
    parser.add_argument("--peers", default="", help="other codecs, with commas between")
    parser.add_argument(
        "--beside", action="append", default=[], metavar="[NAME=]CODEC",
        help="a codec to stand beside this one in curves and spectrograms, the same without GAN say",
    )  # fmt: skip
    parser.add_argument("--opus", default="6,9,12,16,24", help="Opus's target bitrates in kbit/s; '' leaves it out")
    parser.add_argument("--wer", action="store_true", help="word errors by Whisper tiny, of English")
    parser.add_argument("--dnsmos", action="store_true", help="DNSMOS by speechmos, and its loss")
    parser.add_argument("--speaker", action="store_true", help="speaker similarity by Resemblyzer's network")
    parser.add_argument("--listen", type=int, default=4, help="recordings to hear in the page (default: 4)")
    parser.add_argument("--threads", type=int, default=1, help="threads for the networks (default: 1)")
    options = parser.parse_args(argv)
    if not 0.3 <= options.seconds <= 20 or (options.limit is not None and options.limit < 1):
        raise SoundloomError("--seconds must be 0.3 to 20 (PESQ takes no more) and --limit at least 1")
    if not 0 < options.use_minutes < float("inf"):
        raise SoundloomError("--use-minutes must be a number over 0")
    torch.set_num_threads(options.threads)
    opus = _numbers(options.opus, "--opus", 1000)
    if opus and not 6_000 <= opus[0] <= opus[-1] <= 256_000:
        raise SoundloomError(f"--opus {options.opus}: Opus takes 6 to 256 kbit/s")
    tested, beside = _load_all(options)
    chosen, transcriber, judge_facts = _choose_judges(options)
    rate = tested[0].codec.sample_rate
    clips = scores.read_clips(options.folder, rate, options.limit, options.seconds, options.split, options.language)
    results = Results(*clips)
    results.beside = beside
    for line in results.unread:
        print(f"left out: {line}", file=sys.stderr)
    measure(tested, results, opus, chosen, transcriber, options.listen)
    used = scores.use_of_codes(tested, options.folder, options.use_minutes, options.split)
    results.counts, results.counted_minutes = used
    columns = [*chosen, *(["DNSMOS loss"] if options.dnsmos else [])]
    report = build_report(tested, results, _facts(options, tested) | judge_facts, columns)
    for path in write_report(options.output, report):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
