"""Fuzz the parsers with coverage as the guide: atheris, that is, libFuzzer for Python (`pip install atheris`).

    python tests/fuzz.py --minutes 5                       # all parsers, 5 minutes together
    python tests/fuzz.py --minutes 2 --only ".loom|voice"  # some, by a regular expression
    python tests/fuzz.py --list

Whatever a file holds, it is read or one `SoundloomError` says what is wrong. Anything else that is raised, 5 seconds
for one input, or 3 GB of memory is a finding: the input is kept in --output, and the exit code is 1.
Targets and readers are those of tests/test_parsers.py, and the headers of audio files.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RARE = ("AVR", "MPC2K", "MAT4", "MAT5")
EXTRA = (
    "codes: .ecdc",
    *(f"header: {kind}" for kind in ("RF64", "W64", "AU", "CAF", "VOC", "NIST", "AIFF", "FLAC", "OGG", *RARE)),
)
DEFAULT = (
    r"\.loom|\.ecdc|store\.json|plan: its header|commit record|voice\.json|config\.json|text\.json|lexicon: TSV|"
    r"settings|manifest|training log|audio|header|music|Whisper|book"
)


def names() -> list[str]:
    """Return every target, in the order of tests/test_parsers.py."""
    text = (ROOT / "tests" / "test_parsers.py").read_text(encoding="utf-8")
    return [*re.findall(r'^    "([^"]+)": (?:lambda|\w+_target)', text, re.MULTILINE), *EXTRA]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="for all targets together (default: 5)")
    parser.add_argument("--only", default=DEFAULT, help="regular expression for names of targets")
    parser.add_argument("--list", action="store_true", help="list the targets")
    parser.add_argument("-o", "--output", type=Path, default=Path("fuzz-findings"), help="folder for findings")
    parser.add_argument("--target", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.list:
        print(*names(), sep="\n")
        return 0
    if options.target:
        fuzz(options.target, round(options.minutes * 60), options.output)
        return 0
    chosen = [name for name in names() if re.search(options.only, name)]
    if not chosen or not 0 < options.minutes < 10_000:
        parser.error("no target, or no time")
    return run(chosen, options.minutes / len(chosen), options.output)


def run(chosen: list[str], minutes: float, output: Path) -> int:
    """Fuzz each target in a process of its own; print a line each and return 1 if anything was found."""
    output.mkdir(parents=True, exist_ok=True)
    found, runs, began = 0, 0, time.monotonic()
    print(f"{'target':<36} {'inputs':>9} {'edges':>6}  outcome", flush=True)
    for name in chosen:
        words = [sys.executable, __file__, "--target", name, "--minutes", str(max(minutes, 1 / 60)), "-o", str(output)]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        log = done.stderr + done.stdout
        count = int(
            (re.findall(r"number_of_executed_units: (\d+)|^#(\d+)", log, re.MULTILINE) or [("0", "")])[-1][0] or 0
        )
        edges = (re.findall(r"cov: (\d+)", log) or ["0"])[-1]
        runs, bad = runs + count, done.returncode != 0
        found += bad
        if bad:
            (output / f"{_file(name)}.log").write_text(log, encoding="utf-8")
        print(
            f"{name:<36} {count:>9,} {edges:>6}  {'FOUND, see ' + _file(name) + '.log' if bad else 'held'}", flush=True
        )
    print(f"{len(chosen)} targets, {runs:,} inputs, {(time.monotonic() - began) / 60:.1f} minutes, {found} findings")
    return int(bool(found))


def _file(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-")


def fuzz(name: str, seconds: int, output: Path) -> None:
    """Fuzz one target; libFuzzer ends the process."""
    import atheris

    for folder in (ROOT, ROOT / "tests", ROOT / "tests" / "helpers"):
        sys.path.insert(0, str(folder))
    include = ["codec", "lm.text", "lm.config", "lm.checkpoint", "pipelines.voice", "pipelines.command_line"]
    with atheris.instrument_imports(include=[*include, "pipelines.corpus", "pipelines.training"]):
        import test_parsers

        from codec.errors import SoundloomError

        read, example = header(name) if name in EXTRA else target(test_parsers.TARGETS[name]())

    def once(data: bytes) -> None:
        try:
            read(data)
        except SoundloomError as error:
            assert str(error).isprintable() and len(str(error)) < 4000

    with tempfile.TemporaryDirectory() as corpus:
        (Path(corpus) / "example").write_bytes(example)
        limits = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=3000", f"-max_len={4 * len(example) + 64}"]
        atheris.Setup(
            [name, *limits, "-print_final_stats=1", f"-artifact_prefix={output}/{_file(name)}-", corpus], once
        )
        atheris.Fuzz()


def target(one: Any) -> tuple[Callable[[bytes], Any], bytes]:
    """Return how a target of tests/test_parsers.py reads some bytes, and a good example."""
    example = one.file.read_bytes()

    def read(data: bytes) -> None:
        one.file.write_bytes(data)
        try:
            if one.seal is not None:
                one.seal()
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError, IndexError):
            return  # too damaged for its hashes to be made right again
        one.read()

    return read, example


def header(name: str) -> tuple[Callable[[bytes], Any], bytes]:
    """Return how .ecdc files and the headers of audio files are read, and a good example."""
    import io
    import json
    import struct

    import numpy as np
    import soundfile

    from codec.audio.headers import check_whole
    from codec.ecdc import unpack_ecdc

    kind = name.partition(": ")[2]
    if kind == ".ecdc":
        facts = json.dumps({"m": "encodec_24khz", "al": 3200, "nc": 8, "lm": False}).encode()
        return lambda data: unpack_ecdc(data, "x"), struct.pack("!4sBI", b"ECDC", 0, len(facts)) + facts + bytes(100)
    stream = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 600)
    soundfile.write(stream, noise, 24_000, format=kind, subtype="VORBIS" if kind == "OGG" else "PCM_16")
    return lambda data: check_whole(io.BytesIO(data), len(data), "x"), stream.getvalue()


if __name__ == "__main__":
    sys.exit(main())
