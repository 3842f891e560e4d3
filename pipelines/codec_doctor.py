"""Examine a codec on recordings: what is sick, and what to change.

    python pipelines/codec_doctor.py recordings/                           # the shipped codec
    python pipelines/codec_doctor.py runs/my-codec/best recordings/
    python pipelines/codec_doctor.py runs/my-codec/best recordings/ --log runs/my-codec/log.jsonl --json health.json
    python pipelines/codec_doctor.py facebook/encodec_24khz recordings/    # other makers': use of codes, gain in sound

Examines weights, use of the codebooks, what each level adds to the latent and to the sound, the latent's rank, the
gradient through the quantizer, a copy's training on one clip, and the training's log (next to the codec, or --log).
Sick means that it does not work; how good a codec sounds is for evaluate_codec.py.

A codebook of 1,024 needs tens of thousands of frames before every code can have occurred. The expected use is scaled to
the frames examined, yet a folder with minutes of several speakers shows more than one with seconds of one speaker.
Exit code: 0; 1 where something is sick; 2 for bad input.
"""

from __future__ import annotations

import pipelines.command_line.interrupts  # noqa: F401 - Ctrl-C while torch is imported ends in one line

# isort: split
import argparse
import copy
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.audio.files import read_audio
from codec.common.files import write_text
from codec.errors import SoundloomError
from codec.health.survey import Finding, Survey, judge_log, judge_survey, judge_weights, survey
from codec.health.trials import overfit, straight_through
from codec.losses import MelLoss
from codec.model import Codec
from codec.pretrained import AudioCodec, choose_device, load_codec
from codec.store.plan import Settings, Utterance
from pipelines.command_line.progress import track
from pipelines.command_line.run import A_LOT, check_numbers, run
from pipelines.corpus.read import open_corpus
from pipelines.training.log import JsonlLog

CLIP_SECONDS = 1.0  # the clip of the two trials
MARKS = {"well": "ok", "sick": "SICK", "not judged": "-"}


class Recordings:
    """Iterate over waves [1, C, N] of a folder or manifest, spread over it, each cut to ``seconds``.

    Unreadable files are reported on stderr and left out.
    """

    def __init__(
        self, corpus: str, codec: AudioCodec, files: int, seconds: float, device: str | torch.device = "cpu"
    ) -> None:
        self.corpus = open_corpus(Settings(root="", corpus=corpus))
        items = list(self.corpus.utterances())
        self.name = corpus
        self.items = [items[i * len(items) // files] for i in range(files)] if len(items) > files else items
        self.rate, self.channels, self.seconds = codec.sample_rate, codec.channels, seconds
        self.device = device
        self.longest: Tensor | None = None

    def __iter__(self) -> Iterator[Tensor]:
        for item in track(self.items, "file", "survey"):
            try:
                wave = self._read(item)
            except SoundloomError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            if self.longest is None or wave.shape[-1] > self.longest.shape[-1]:
                self.longest = wave
            yield wave.to(self.device)
        if self.longest is None:
            raise SoundloomError(f"{self.name}: no recording could be read")

    def _read(self, item: Utterance) -> Tensor:
        if item.problem:
            raise SoundloomError(f"{item.source}: {item.problem}")
        with self.corpus.fetch(item) as path:
            length = min(self.seconds, item.duration or self.seconds)
            wave = read_audio(path, self.rate, self.channels, item.start, length)[None]
        if wave.shape[-1] < 0.2 * self.rate:
            raise SoundloomError(f"{item.source}: shorter than 0.2 s")
        return wave


def examine(
    codec: AudioCodec, recordings: Recordings, decode_files: int, trials: bool
) -> tuple[Survey | None, list[Finding]]:
    """Return the survey and all findings but those of the log; weights that are not finite end the examination."""
    if isinstance(codec, torch.nn.Module):
        weights = judge_weights(codec)
        if weights.status == "sick":
            return None, [weights]
    else:
        weights = Finding("finite weights", "not judged", "needs a network of this project")
    mel = MelLoss(codec.sample_rate).to(recordings.device)
    found = survey(codec, mel, recordings, range(1, codec.num_levels + 1), decode_files)
    findings = [weights, *judge_survey(found)]
    if isinstance(codec, Codec) and trials:
        assert recordings.longest is not None
        clip = recordings.longest[..., : int(CLIP_SECONDS * codec.sample_rate)].clone()
        patient = copy.deepcopy(codec).to("cpu")  # the trials are short
        findings += [trial(patient, clip) for trial in track((straight_through, overfit), "trial", "on one clip")]
    return found, findings


def table(found: Survey) -> str:
    """Return one line for each level: use, perplexity, gain."""
    lines = ["level    used  expected    dead  perplexity  energy left   gain dB  mel distance"]
    for k, used in enumerate(found.usage):
        own = bool(found.energy)
        cells = [f"{k:5}", f"{used:7.1%}", f"{found.expected_usage[k]:8.1%}", f"{found.dead[k]:7}"]
        cells += [f"{found.perplexity[k]:10.1f}", f"{found.energy[k]:11.1%}" if own else f"{'-':>11}"]
        cells += [f"{found.gain_decibels[k]:8.2f}" if own else f"{'-':>8}"]
        cells += [f"{found.mel_by_levels[k + 1]:12.4f}" if k + 1 in found.mel_by_levels else f"{'-':>12}"]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def describe(findings: list[Finding]) -> str:
    """Return one line for each finding, and below a sick one what to change."""
    lines = []
    for one in findings:
        lines.append(f"{MARKS[one.status]:4}  {one.detector}: {one.measured}")
        lines += [f"      -> {one.advice}"] if one.advice else []
    return "\n".join(lines)


def to_json(name: str, codec: AudioCodec, found: Survey | None, findings: list[Finding]) -> str:
    """Return the examination as JSON; values that are not finite are null."""
    record: dict[str, Any] = {"codec": name, "fingerprint": codec.fingerprint}
    record["sick"] = [one.detector for one in findings if one.status == "sick"]
    record["findings"] = [dataclasses.asdict(one) for one in findings]
    if found is not None:
        record["survey"] = dataclasses.asdict(found) | {
            "dead": found.dead,
            "expected_usage": found.expected_usage,
            "gain_decibels": found.gain_decibels,
        }
    return json.dumps(_finite(record), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _log_of(name: str, log: str | None) -> list[dict[str, Any]] | None:
    """Return rows of the named log, or of the log next to the codec's folder; None where there is none."""
    path = Path(log) if log else Path(name).resolve().parent / "log.jsonl"
    if log and not path.is_file():
        raise SoundloomError(f"--log {log}: no such file; a training of train_codec.py writes log.jsonl in its output")
    found = path.is_file() and (log or Path(name).is_dir())
    return JsonlLog(path).read() if found else None


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(
        prog="codec_doctor.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("codec", nargs="?", default="shipped", help="folder, hub name, or `shipped` (default)")
    p.add_argument("folder", help="recordings of the kind that the codec is for, such as speech; or a manifest")
    p.add_argument("--log", help="log.jsonl of the training (default: the one next to the codec's folder)")
    p.add_argument("--json", help="write the examination here, or to stdout (-) in place of the table")
    p.add_argument("--files", type=int, default=200, help="recordings, spread over the folder (default: 200)")
    p.add_argument("--seconds", type=float, default=10.0, help="of each recording (default: 10)")
    p.add_argument("--decode", type=int, default=8, help="recordings decoded at each level (default: 8)")
    p.add_argument("--no-trials", action="store_true", help="leave out the gradient check and the overfit trial")
    p.add_argument("--threads", type=int, help="threads for the networks (default: torch's own)")
    p.add_argument("--device", default="cpu", help="where the survey runs: auto, cpu, cuda or mps (default: cpu)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Examine a codec; return 1 where something is sick."""
    options = parser().parse_args(argv)
    check_numbers(options, files=(1, A_LOT), seconds=(0.2, 3600), decode=(1, A_LOT))
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = _log_of(options.codec, options.log)
    device = choose_device(options.device)
    codec = load_codec(None if options.codec == "shipped" else options.codec, device=device)
    recordings = Recordings(options.folder, codec, options.files, options.seconds, device)
    found, findings = examine(codec, recordings, options.decode, not options.no_trials)
    findings += judge_log(rows) if rows is not None else []
    record = to_json(options.codec, codec, found, findings)
    if options.json == "-":
        print(record, end="")
    else:
        if options.json:
            write_text(options.json, record)
        print(*([table(found), ""] if found else []), describe(findings), "", *result(options, findings), sep="\n")
    return 1 if any(one.status == "sick" for one in findings) else 0


def result(options: argparse.Namespace, findings: list[Finding]) -> list[str]:
    """Return the line with the result, and what to do next."""
    sick = [one.detector for one in findings if one.status == "sick"]
    if sick:
        verdict = f"{len(sick)} of {len(findings)} findings sick ({', '.join(sick)})"
        return [f"{options.codec}: {verdict}", "next: make the changes after ->, train on, and examine it again"]
    command = f"python pipelines/evaluate_codec.py {options.codec} {options.folder} -o report/"
    return [f"{options.codec}: nothing sick", f"next: {command}   # how good does it sound?"]


if __name__ == "__main__":
    raise SystemExit(run(main))
