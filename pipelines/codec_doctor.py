"""Examine a codec on recordings: what is sick, and what to change.

    python pipelines/codec_doctor.py recordings/                           # the shipped codec
    python pipelines/codec_doctor.py runs/my-codec/best recordings/
    python pipelines/codec_doctor.py runs/my-codec/best recordings/ --log runs/my-codec/log.jsonl --json health.json
    python pipelines/codec_doctor.py facebook/encodec_24khz recordings/    # others': use of codes and gain in sound

Looks at weights, use of the codebooks, what each level adds to the latent and to the sound, the latent's rank, the
gradient through the quantizer, a copy's training on one clip, and (found beside the codec, or by --log) the training's
log. Sick is what does not work; how good a codec sounds is evaluate_codec.py's question.

1,024 codes need tens of thousands of frames before all of them can have been met: the expected use is scaled to the
frames judged, yet a folder with minutes of several speakers tells more than one with seconds of one.
Exit code: 0; 1 where something is sick; 2 for bad input.
"""

from __future__ import annotations

import argparse
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
from codec.pretrained import load_codec
from codec.store.plan import Settings, Utterance
from pipelines.command_line.progress import track
from pipelines.command_line.run import run
from pipelines.corpus.read import open_corpus
from pipelines.training.log import JsonlLog

CLIP_SECONDS = 1.0  # the clip of the two trials
MARKS = {"well": "ok", "sick": "SICK", "not judged": "-"}


class Recordings:
    """Waves [1, C, N] of a folder or manifest, spread over it, each cut to ``seconds``; what cannot be read is told."""

    def __init__(self, corpus: str, codec: Any, files: int, seconds: float) -> None:
        self.corpus = open_corpus(Settings(root="", corpus=corpus))
        items = list(self.corpus.utterances())
        self.name = corpus
        self.items = [items[i * len(items) // files] for i in range(files)] if len(items) > files else items
        self.rate, self.channels, self.seconds = codec.sample_rate, codec.channels, seconds
        self.longest: Tensor | None = None

    def __iter__(self) -> Iterator[Tensor]:
        for item in track(self.items, "file"):
            try:
                wave = self._read(item)
            except SoundloomError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            if self.longest is None or wave.shape[-1] > self.longest.shape[-1]:
                self.longest = wave
            yield wave
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


def examine(codec: Any, recordings: Recordings, decode_files: int, trials: bool) -> tuple[Survey | None, list[Finding]]:
    """Everything but the log. A codec whose weights are not finite is not examined further."""
    own = isinstance(codec, Codec)
    if isinstance(codec, torch.nn.Module):
        weights = judge_weights(codec)
        if weights.status == "sick":
            return None, [weights]
    else:
        weights = Finding("finite weights", "not judged", "needs a network of this project")
    mel = MelLoss(codec.sample_rate)
    found = survey(codec, mel, recordings, range(1, codec.num_levels + 1), decode_files)
    findings = [weights, *judge_survey(found)]
    if own and trials:
        assert recordings.longest is not None
        clip = recordings.longest[..., : int(CLIP_SECONDS * codec.sample_rate)].clone()
        findings += [straight_through(codec, clip), overfit(codec, clip)]
    return found, findings


def table(found: Survey) -> str:
    """One line a level: use, perplexity, what it adds."""
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
    """One line a finding, and below each sick one what to change."""
    lines = []
    for one in findings:
        lines.append(f"{MARKS[one.status]:4}  {one.detector}: {one.measured}")
        lines += [f"      -> {one.advice}"] if one.advice else []
    return "\n".join(lines)


def to_json(name: str, codec: Any, found: Survey | None, findings: list[Finding]) -> str:
    """The examination for programs; what is not finite is null."""
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
    """Rows of the log that was named, or that lies beside the codec's folder; None where there is none."""
    path = Path(log) if log else Path(name).resolve().parent / "log.jsonl"
    if log and not path.is_file():
        raise SoundloomError(f"--log {log}: no such file; a training of train_codec.py writes log.jsonl in its output")
    found = path.is_file() and (log or Path(name).is_dir())
    return JsonlLog(path).read() if found else None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="codec_doctor.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("codec", nargs="?", default="shipped", help="folder, hub name, or `shipped` (default)")
    parser.add_argument("folder", help="recordings of what the codec is made for, speech say; or a manifest")
    parser.add_argument("--log", help="log.jsonl of the training (default: the one beside the codec's folder)")
    parser.add_argument("--json", help="write the examination here, or to stdout (-) in place of the table")
    parser.add_argument("--files", type=int, default=200, help="recordings, spread over the folder (default: 200)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each recording (default: 10)")
    parser.add_argument("--decode", type=int, default=8, help="recordings decoded at each level (default: 8)")
    parser.add_argument("--no-trials", action="store_true", help="leave out the gradient check and the overfit trial")
    parser.add_argument("--threads", type=int, help="threads for the networks (default: torch's own)")
    options = parser.parse_args(argv)
    if options.files < 1 or options.seconds < 0.2 or options.decode < 1:
        raise SoundloomError("--files and --decode must be at least 1, --seconds at least 0.2")
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = _log_of(options.codec, options.log)
    codec = load_codec(None if options.codec == "shipped" else options.codec)
    recordings = Recordings(options.folder, codec, options.files, options.seconds)
    found, findings = examine(codec, recordings, options.decode, not options.no_trials)
    findings += judge_log(rows) if rows is not None else []
    sick = sum(one.status == "sick" for one in findings)
    record = to_json(options.codec, codec, found, findings)
    if options.json == "-":
        print(record, end="")
    else:
        if options.json:
            write_text(options.json, record)
        verdict = f"{sick} of {len(findings)} findings sick" if sick else "nothing sick"
        print(*([table(found), ""] if found else []), describe(findings), "", f"{options.codec}: {verdict}", sep="\n")
    return 1 if sick else 0


if __name__ == "__main__":
    raise SystemExit(run(main))
