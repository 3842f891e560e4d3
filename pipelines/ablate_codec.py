"""Train variants of one codec on the same budget and put them into one table.

    python pipelines/ablate_codec.py configs/codec/ablations.yaml -o runs/ablations
    python pipelines/ablate_codec.py configs/codec/ablations.yaml -o runs/ablations --only full,no-restarts
    python pipelines/ablate_codec.py my-choices.yaml -o runs/choices --speech recordings/ --limit 16

The file names a base configuration of train_codec.py, settings that all variants share (their number of steps, say),
the recordings that judge, and by name what each variant changes:

    base: configs/codec/speech_24khz.yaml
    speech: corpora/judges
    common: {steps: 600}
    variants:
      full: {}
      no-restarts: {codec: {quantizer: {restart_threshold: 0.0}}}

Every variant is trained by train_codec.py in a process of its own (if it is cut off, the same command resumes),
then all are judged in one run of evaluate_codec.py. Writes OUT/ablation.md, ablation.json and rate-quality.png.
"""

from __future__ import annotations

import pipelines.command_line.interrupts  # noqa: F401 - Ctrl-C while torch is imported ends in one line

# isort: split
import argparse
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from codec.common.files import write_bytes
from codec.errors import SoundloomError, quoted
from codec.metrics import Summary, summarize
from pipelines.command_line.run import check_numbers, run
from pipelines.command_line.strict_yaml import read_yaml
from pipelines.evaluation import plots
from pipelines.training.log import JsonlLog

COLUMNS = ("PESQ-WB", "STOI", "mel distance")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class Plan:
    """What is compared: base configuration, recordings that judge, settings of all, and each variant's own by name."""

    base: str
    speech: str
    common: dict[str, Any]
    variants: dict[str, dict[str, Any]]


def read_plan(path: Path) -> Plan:
    """Read the file of variants.

    Raises:
        SoundloomError: the file is unreadable or holds something else; the message names the key.
    """
    raw: dict[str, Any] = {"common": {}} | read_yaml(path)
    kinds: dict[str, type] = {"base": str, "speech": str, "common": dict, "variants": dict}
    if set(raw) - set(kinds):
        raise SoundloomError(f"{path}: expected a mapping with {', '.join(kinds)}, and nothing else")
    for key, kind in kinds.items():
        if not isinstance(raw.get(key), kind) or (key != "common" and not raw[key]):
            expected = "a mapping" if kind is dict else "a path"
            raise SoundloomError(f"{path}: {key}: expected {expected}, not {quoted(raw.get(key))}")
    for name, changes in raw["variants"].items():
        if not _NAME.fullmatch(str(name)) or not isinstance(changes, dict):
            raise SoundloomError(
                f"{path}: variants.{name}: expected a name of lower-case letters, digits and -, with a mapping"
            )
    return Plan(**raw)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both mappings as one; where both have a value, that of ``above``."""
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else value
    return out


def train(plan: Plan, name: str, out: Path) -> Path:
    """Train one variant, or what is left of it; returns its codec's folder."""
    folder, codec = out / "runs" / name, out / "codecs" / name
    settings = merged(plan.common, plan.variants[name]) | {"output": str(folder)}
    config = out / "runs" / f"{name}.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(config, yaml.safe_dump(settings).encode())
    _call("train_codec.py", "--config", plan.base, "--config", str(config))
    if not (folder / "best").is_dir():
        raise SoundloomError(f"{folder}: the training left no codec; are its steps more than quantizer_start?")
    shutil.rmtree(codec, ignore_errors=True)
    return Path(shutil.copytree(folder / "best", codec))  # the report calls a codec by its folder's name


def _call(script: str, *words: str) -> None:
    command = [sys.executable, str(Path(__file__).with_name(script)), *words]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise SoundloomError(f"{' '.join([script, *words])} ended with code {code}; the same command resumes there")


def training_facts(folder: Path) -> dict[str, Any]:
    """What the log of a training says at its end: steps, minutes, rank of the latent, least use of a codebook."""
    rows = [row for row in JsonlLog(folder / "log.jsonl").read() if "seconds" in row]
    if not rows:
        raise SoundloomError(f"{folder}: its log has no validation")
    last = rows[-1]
    return {
        "steps": last["step"],
        "minutes": round(last["seconds"] / 60, 1),
        "rank": last.get("effective_rank"),
        "use": min(last.get("usage", [float("nan")])),
    }


def collect(report: dict[str, Any], names: list[str], out: Path) -> dict[str, dict[str, Any]]:
    """By variant: the facts of its training, and by number of levels the scores (`Summary`) at their bitrate."""
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        points: dict[int, dict[str, Summary]] = {}
        for system, columns in report["scores"].items():
            match = re.fullmatch(re.escape(name) + r", (\d+) levels?", system)
            if match:
                wanted = {column: summarize(columns[column]) for column in (*COLUMNS, "kbit/s")}
                points[int(match[1])] = wanted
        if not points:
            raise SoundloomError(f"{out}: the report has no scores of {name}")
        found[name] = training_facts(out / "runs" / name) | {"levels": points}
    return found


def table(found: dict[str, dict[str, Any]], clips: int) -> str:
    """The comparison as Markdown: every variant at all of its levels."""
    head = [
        "variant",
        "steps",
        "minutes",
        "levels",
        "kbit/s",
        *COLUMNS,
        "least use of a codebook",
        "rank of the latent",
    ]
    lines = [" | ".join(["", *head, ""]).strip(), "|" + "---|" * len(head)]
    for name, facts in found.items():
        levels = max(facts["levels"])
        scores = facts["levels"][levels]
        means = [f"{scores[c].mean:.3f} [{scores[c].low:.3f}, {scores[c].high:.3f}]" for c in COLUMNS]
        cells = [name, facts["steps"], facts["minutes"], levels, f"{scores['kbit/s'].mean:.2f}", *means]
        rank = "" if facts["rank"] is None else f"{facts['rank']:.1f}"
        lines.append("| " + " | ".join(map(str, [*cells, f"{facts['use']:.0%}", rank])) + " |")
    note = f"{clips} recordings; mean [95% bootstrap interval over recordings]; kbit/s of whole files."
    return "\n".join([*lines, "", note, ""])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="ablate_codec.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", type=Path, help="YAML file with base, speech, common and variants")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for runs, table and picture")
    parser.add_argument("--only", default="", help="these variants only, with commas between")
    parser.add_argument("--speech", help="recordings that judge, instead of the file's")
    parser.add_argument("--limit", type=int, default=24, help="recordings, spread over the folder (default: 24)")
    options = parser.parse_args(argv)
    check_numbers(options)
    plan = read_plan(options.plan)
    names = [name for name in options.only.split(",") if name] or list(plan.variants)
    unknown = [name for name in names if name not in plan.variants]
    if unknown:
        raise SoundloomError(f"--only {unknown[0]}: {options.plan} has {', '.join(plan.variants)}")
    out: Path = options.output
    codecs = [str(train(plan, name, out)) for name in names]
    words = [codecs[0], options.speech or plan.speech, "-o", str(out / "report"), "--opus", ""]
    words += ["--limit", str(options.limit), "--listen", "1"]
    _call("evaluate_codec.py", *words, *(["--peers", ",".join(codecs[1:])] if codecs[1:] else []))
    report = json.loads((out / "report" / "report.json").read_text(encoding="utf-8"))
    found = collect(report, names, out)
    text = table(found, len(report["clips"]))
    write_bytes(out / "ablation.md", text.encode())
    plain = {
        name: facts | {"levels": {n: {c: vars(s) for c, s in scores.items()} for n, scores in facts["levels"].items()}}
        for name, facts in found.items()
    }
    write_bytes(out / "ablation.json", json.dumps(plain, indent=1).encode())
    lines = {
        name: [(scores["kbit/s"].mean, scores["mel distance"]) for scores in facts["levels"].values()]
        for name, facts in found.items()
    }
    plots.save_figure(out / "rate-quality.png", plots.curve_figure(lines, "kbit/s of the file", "mel distance", {}))
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
