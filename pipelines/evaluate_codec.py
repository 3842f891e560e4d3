"""Judge a codec on a folder of recordings, at several numbers of levels, next to Opus and other codecs.

    python pipelines/evaluate_codec.py shipped recordings/ -o report/
    python pipelines/evaluate_codec.py runs/my-codec/best recordings/ -o report/ --levels 1,2,4,8 --limit 24
    python pipelines/evaluate_codec.py shipped corpora/real -o report/ --split test --dnsmos --wer
    python pipelines/evaluate_codec.py shipped recordings/ -o report/ --beside "without GAN=shipped:without-gan"
    python pipelines/evaluate_codec.py runs/a/best recordings/ -o report/ --beside "before=runs/b/best"
    python pipelines/evaluate_codec.py shipped quiet/ -o report/ --normalize both
    python pipelines/evaluate_codec.py shipped recordings/ -o report/ --peers facebook/encodec_24khz,kyutai/mimi

CODEC is a folder, a hub name, or `shipped`; CODEC:NAME is the codec with another of its decoders. Writes report.json,
report.md and report.html (to listen to). Bitrates are those of whole files: codes packed as .loom, Opus in Ogg. Every
mean has a 95% bootstrap interval over recordings; outputs that a judge refuses are counted, never replaced.
Needs `pip install -e '.[eval]'`; ViSQOL is reported where it is installed.
"""

from __future__ import annotations

import pipelines.command_line.interrupts  # noqa: F401 - Ctrl-C while torch is imported ends in one line

# isort: split
import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from codec.errors import SoundloomError
from codec.loudness import TARGET
from codec.metrics import MEL_RECIPE
from codec.pretrained import load_codec
from pipelines.command_line.progress import track
from pipelines.command_line.run import A_LOT, check_numbers, run
from pipelines.evaluation import codec_scores as scores
from pipelines.evaluation.anchors import numbers, opus_targets
from pipelines.evaluation.codec_report import Results, build_report
from pipelines.evaluation.judges import Panel, add_judge_options, choose_judges
from pipelines.evaluation.packages import package_versions
from pipelines.evaluation.report import headlines, write_report

_RAISED = f"for the codec and those of --beside, quiet recordings are raised towards {TARGET:g} LUFS and lowered again"
_LOUDNESS = {"on": _RAISED, "both": f"{_RAISED}, but for the rows that say so", "off": "as recorded"}
HEADLINES = ("DistillMOS", "DistillMOS loss", "PESQ-WB", "STOI", "kbit/s")


def measure(
    tested: Sequence[scores.CodecUnderTest],
    results: Results,
    opus: Sequence[int],
    panel: Panel,
    listen: int,
) -> None:
    """Send every clip through every system and score it, at the sample rate of the first codec."""
    rate = tested[0].codec.sample_rate
    unjudged = {clip.name for clip in results.clips if not clip.english}
    families = {one.name: [one.label(n) for n in one.levels] for one in tested}
    if opus:
        families["Opus"] = [f"Opus, target {bitrate / 1000:g}" for bitrate in opus]
    results.systems = families
    for i, clip in enumerate(track(results.clips, "clip")):
        outputs = list(scores.anchor_outputs(results.clips, i))
        for one in tested:
            outputs += scores.codec_outputs(one, clip, rate)
        outputs += scores.opus_outputs(opus, clip, rate)
        original: dict[str, float | None] | None = None
        for output in outputs:
            columns = results.table.setdefault(output.system, {})
            found = scores.score(clip, output, rate, panel.judges)
            original = original or dict(found)  # the first output is the recording itself
            for column in panel.losses:
                before, after = original[column], found[column]
                found[f"{column} loss"] = None if before is None or after is None else before - after
            for column, value in found.items():
                columns.setdefault(column, []).append(value)
            if panel.transcribe is not None:
                text = "" if clip.name in unjudged else panel.transcribe(output.wave, rate)
                results.transcripts.setdefault(output.system, []).append(text)
            if i < listen:
                results.waves.setdefault(i, {})[output.system] = output.wave


def _load(name: str, levels: str | Sequence[int] | None, device: str, normalize: bool = False) -> scores.CodecUnderTest:
    """Open ``codec``, ``codec:decoder`` or ``label=codec`` at these numbers of levels (None: 1, 2, 4 … and all)."""
    label, path, decoder = _parts(name)
    codec = load_codec(None if path == "shipped" else path, device=device, decoder=decoder or None)
    if levels is None:
        chosen = [n for n in (1, 2, 4, 8, 16, 32) if n < codec.num_levels] + [codec.num_levels]
    elif isinstance(levels, str):
        chosen = numbers(levels, "--levels")
    else:
        chosen = [n for n in levels if n <= codec.num_levels]
    if not chosen or not 1 <= chosen[0] <= chosen[-1] <= codec.num_levels:
        raise SoundloomError(f"--levels {levels}: {name} has levels 1 to {codec.num_levels}")
    return scores.CodecUnderTest(label, codec, chosen, normalize)


def _parts(name: str) -> tuple[str, str, str]:
    """Split ``label=codec:decoder`` into label, codec and decoder; a path that exists is never split."""
    label, _, path = ("", "", name) if Path(name).exists() else name.rpartition("=")
    decoder = ""
    if ":" in path and not Path(path).exists():
        path, _, decoder = path.rpartition(":")
    own = Path(path).resolve().name if Path(path).exists() else path
    return label or " ".join(part for part in (own, decoder) if part), path, decoder


def _load_all(options: argparse.Namespace) -> tuple[list[scores.CodecUnderTest], list[str]]:
    """Open the codec, those of --beside and the peers; return them, and the names of those of --beside."""
    normalize = options.normalize != "off"
    tested = [_load(options.codec, options.levels, options.device, normalize)]
    variants = [_load(name, tested[0].levels, options.device, normalize) for name in options.beside]
    if options.normalize == "both":
        variants = [replace(tested[0], name=f"{tested[0].name}, not normalised", normalize=False), *variants]
    peers = [_load(name.strip(), None, options.device) for name in options.peers.split(",") if name.strip()]
    tested += variants + peers
    if len({one.name for one in tested}) < len(tested):
        raise SoundloomError("--beside, --peers: two codecs of one name; give it another one, such as NAME=FOLDER")
    return tested, [one.name for one in variants]


def _facts(options: argparse.Namespace, tested: Sequence[scores.CodecUnderTest]) -> dict[str, str]:
    facts = {
        one.name: f"{one.codec.sample_rate} Hz, {one.codec.frame_rate:g} frames/s, {one.codec.num_levels} levels of "
        f"{one.codec.codebook_size} codes, fingerprint {one.codec.fingerprint[:16]}"
        for one in tested
    }
    facts["recordings"] = f"{options.folder}, each cut to its first {options.seconds:g} s"
    facts["loudness"] = _LOUDNESS[options.normalize]
    facts["mel distance"] = f"at {tested[0].codec.sample_rate} Hz; {MEL_RECIPE}"
    facts["intervals"] = "95%, percentile bootstrap over recordings, 1,000 draws, seed 0"
    facts["software"] = package_versions("soundloom", "torch", "torchaudio", "soundfile", "transformers")
    return facts


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(
        prog="evaluate_codec.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("codec", help="a folder, a hub name, or `shipped`; with :NAME, another decoder of it")
    p.add_argument("folder", help="recordings, with x.txt next to x.wav where known; or a corpus' manifest")
    p.add_argument("--split", default="", help="rows of a manifest, such as test (default: all)")
    p.add_argument("--language", default="", help="of the recordings, such as fr, where no manifest has it")
    p.add_argument("-o", "--output", required=True, help="folder for the report")
    p.add_argument("--levels", help="numbers of levels, such as 1,2,4,8 (default: 1, 2, 4, 8 … and all)")
    p.add_argument("--limit", type=int, help="recordings, spread over the folder (default: all)")
    p.add_argument("--seconds", type=float, default=10.0, help="of each recording, at most 20 (default: 10)")
    p.add_argument(
        "--use-minutes",
        type=float,
        default=20.0,
        help="of recordings to count the use of codes on (default: 20)",
    )
    p.add_argument(
        "--beside", action="append", default=[], metavar="[NAME=]CODEC[:DECODER]",
        help="a codec to compare in curves and spectrograms, the same without GAN for example; may be repeated",
    )  # fmt: skip
    p.add_argument(
        "--normalize",
        choices=("on", "off", "both"),
        default="on",
        help="raise quiet recordings before they are encoded, as reconstruct.py does; both: compare (default: on). "
        "Peers take them as recorded",
    )
    p.add_argument("--peers", default="", help="other codecs, with commas between")
    p.add_argument("--opus", default="6,9,12,16,24", help="target bitrates of Opus in kbit/s; '' for none")
    p.add_argument("--listen", type=int, default=4, help="recordings to hear in the page (default: 4)")
    p.add_argument("--threads", type=int, default=1, help="threads for the networks (default: 1)")
    add_judge_options(p, wer=False)
    return p


def main(argv: list[str] | None = None) -> int:
    """Judge a codec and write the report."""
    options = parser().parse_args(argv)
    # PESQ takes no more than 20 s
    check_numbers(options, seconds=(0.3, 20), use_minutes=(0.001, A_LOT), listen=(0, A_LOT))
    torch.set_num_threads(options.threads)
    opus = opus_targets(options.opus)
    tested, variants = _load_all(options)
    panel = choose_judges(options, references=True)
    rate = tested[0].codec.sample_rate
    clips = scores.read_clips(options.folder, rate, options.limit, options.seconds, options.split, options.language)
    results = Results(*clips)
    results.variants = variants
    for line in results.unread:
        print(f"left out: {line}", file=sys.stderr)
    measure(tested, results, opus, panel, options.listen)
    used = scores.use_of_codes(tested, options.folder, options.use_minutes, options.split)
    results.counts, results.counted_minutes = used
    report = build_report(tested, results, _facts(options, tested) | panel.facts, panel.columns)
    for path in write_report(options.output, report):
        print(path)
    shown = ["reference itself", *(results.systems[one.name][-1] for one in tested), *results.systems.get("Opus", [])]
    print(*headlines(report, shown, HEADLINES), sep="\n")
    print(f"next: listen to {Path(options.output) / 'report.html'} in a browser")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
