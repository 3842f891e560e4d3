"""Measure what large corpora cost before any work begins: planning, listing, opening, and the first training batch.

    python pipelines/bench_scale.py -o reports/scale                      1 M utterances, names and rows
    python pipelines/bench_scale.py --utterances 10000000 --names 1000000 --rows 10000000 -o reports/scale

Corpora and stores are made up, and removed at the end. Each piece of work runs in a process of its own: wall and CPU
seconds, and growth of its peak memory over what the imports took. A store of 10 M rows takes 3 GB of disk.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from codec.common.files import write_text
from pipelines.command_line.run import A_LOT, check_numbers, run


def main(argv: list[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(
        prog="bench_scale.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=1_000_000, help="of the plan (default %(default)s)")
    parser.add_argument("--names", type=int, default=1_000_000, help="of the listed folder (default %(default)s)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the store for training (default %(default)s)")
    parser.add_argument("--place", type=Path, default=Path(), help="folder with room on its disk (default: here)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for scale.md")
    options = parser.parse_args(argv)
    check_numbers(options, utterances=(1, A_LOT), names=(2, A_LOT), rows=(1, A_LOT))
    from pipelines.benchmarks.scale import measure
    from pipelines.benchmarks.timing import load_average

    load = load_average()
    lines = ["| what | size | seconds | CPU seconds | memory |", "|---|---:|---:|---:|---:|"]
    for name, size, cost in measure(options.utterances, options.names, options.rows, options.place):
        lines.append(f"| {name} | {size} | {cost.seconds:.1f} | {cost.cpu:.1f} | {cost.memory / 1e6:.0f} MB |")
        print(lines[-1], file=sys.stderr, flush=True)
    if load is not None:
        lines += ["", f"Load average {load:.1f} before the first and {load_average():.1f} after the last."]
    write_text(options.output / "scale.md", "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
