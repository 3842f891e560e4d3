"""Choose the judges of a report: one type, one set of options and one choice for codecs and voices. Proxies, all.

They compare our own runs with each other; their figures are not comparable with published ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from codec.common.extras import install_hint
from codec.errors import SoundloomError
from codec.metrics import mel_distance, pesq_wb, require, stoi, visqol
from codec.pretrained import choose_device
from pipelines.evaluation import quality, similarity, words
from pipelines.evaluation.packages import installed, package_versions

# (output [N], reference [N] or None, sample rate) -> score; None where this output cannot be judged.
Judge = Callable[[Tensor, Tensor | None, int], float | None]
Transcribe = Callable[[Tensor, int], str]  # (output [N], sample rate) -> text


@dataclass
class Panel:
    """The judges of a report: scores by column, who transcribes, and what each of them is.

    ``losses``: columns whose difference to the original, pair by pair, is a column of its own.
    """

    judges: dict[str, Judge] = field(default_factory=dict)
    transcribe: Transcribe | None = None
    facts: dict[str, str] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """The columns of a table in order, each loss after its score."""
        return [name for judge in self.judges for name in (judge, *([f"{judge} loss"] if judge in self.losses else []))]

    def add(self, judge: quality.DistillMOS | quality.Dnsmos) -> None:
        """Add a judge that needs no reference, and the loss against the original."""
        self.judges[judge.name] = lambda output, reference, rate: judge(output, rate)
        self.losses.append(judge.name)
        self.facts[judge.name] = f"proxy: {judge.description}"


def add_judge_options(parser: argparse.ArgumentParser, *, wer: bool) -> None:
    """Add the options that both evaluators share. ``wer``: whether word errors are on by default."""
    parser.add_argument(
        "--quality",
        action=argparse.BooleanOptionalAction,
        help="sound quality by DistillMOS, 1 to 5 (default: on where distillmos is installed)",
    )
    parser.add_argument("--wer", action=argparse.BooleanOptionalAction, default=wer, help="word errors, of English")
    parser.add_argument(
        "--recogniser",
        default="tiny",
        help="who transcribes for --wer: Whisper tiny, base, or the folder of a model for faster-whisper "
        "(default: tiny)",
    )
    parser.add_argument("--dnsmos", action="store_true", help="DNSMOS by speechmos, 1 to 5, for background noise")
    parser.add_argument("--speaker", action="store_true", help="speaker similarity to the reference, by Resemblyzer")
    parser.add_argument("--device", default="cpu", help="where the models run: auto, cpu, cuda or mps (default: cpu)")


def choose_judges(options: argparse.Namespace, *, references: bool) -> Panel:
    """Return the judges that the options of `add_judge_options` ask for, the most sensitive first.

    ``references``: every output is a copy of its reference, so that PESQ, STOI, mel distance and ViSQOL mean something.
    Raises: SoundloomError that names a missing package, before any work.
    """
    panel = Panel()
    if options.quality or (options.quality is None and installed("distillmos")):
        panel.add(quality.DistillMOS(choose_device(options.device)))
    elif options.quality is None:
        panel.facts["DistillMOS"] = f"not judged: {install_hint('eval')}"
    if references:
        _add_comparisons(panel)
    if options.dnsmos:
        panel.add(quality.Dnsmos())
    if options.speaker:
        encoder = similarity.SpeakerEncoder()
        panel.judges["speaker"] = lambda output, reference, rate: (
            None if reference is None else encoder.similarity(reference, output, rate)
        )
        panel.facts["speaker"] = f"proxy: cosine to the reference; {encoder.description}, pauses kept"
    if options.wer:
        require("jiwer")
        transcriber = words.Transcriber(options.recogniser, threads=options.threads or 2)
        panel.transcribe = transcriber
        panel.facts["transcripts"] = f"proxy: {transcriber.description}; {words.english_normalizer()[1]}"
    return panel


def _add_comparisons(panel: Panel) -> None:
    """Add what compares an output with its reference, sample by sample."""
    for package in ("pesq", "pystoi"):
        require(package)
    panel.judges |= {"PESQ-WB": _compare(pesq_wb), "STOI": _compare(stoi), "mel distance": _compare(mel_distance)}
    panel.facts["PESQ-WB, STOI"] = f"proxies, at 16 kHz; {package_versions('pesq', 'pystoi')}; PESQ refuses silence"
    try:
        for package in ("visqol", "ai_edge_litert"):
            require(package)
    except SoundloomError as error:
        panel.facts["ViSQOL"] = f"not judged: {error} or pip install 'visqol-python[lattice]'"
        return
    panel.judges["ViSQOL"] = _compare(visqol)
    panel.facts["ViSQOL"] = (
        "proxy: a port to Python of ViSQOL 3, speech mode at 16 kHz, lattice network; "
        f"{package_versions('visqol-python', 'ai-edge-litert')}"
    )


def _compare(metric: Callable[[Tensor, Tensor, int], float | None]) -> Judge:
    return lambda output, reference, rate: None if reference is None else metric(reference, output, rate)
