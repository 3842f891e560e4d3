"""Run the counts behind the promises at their full size and write what was seen.

    python tests/prove.py                                  # all of them: tens of minutes on an idle machine
    python tests/prove.py -k "kills or reads"              # some, by pytest's names
    python tests/prove.py -o docs/promises.md              # write the table there too

The counts are the tests with the marker `proof`; this runs them and makes a table of what they measured. The exit code
is 0 where all passed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


class Collector:
    """Keeps each proof's bar, outcome, time and the figures that it recorded (`record_property`)."""

    def __init__(self) -> None:
        self.bars: dict[str, str] = {}
        self.rows: list[tuple[str, str, str, float]] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            marker = item.get_closest_marker("proof")
            if marker is not None:
                case = item.name.partition("[")[2].rstrip("]")
                self.bars[item.nodeid] = f"{marker.args[0]}{f' ({case})' if case else ''}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid not in self.bars or (report.when != "call" and report.outcome == "passed"):
            return
        figures = "; ".join(f"{key} {value}" for key, value in report.user_properties)
        outcome = {"passed": "pass", "failed": "FAIL", "skipped": "skipped"}[report.outcome]
        self.rows.append((self.bars[report.nodeid], outcome, figures, report.duration))
        print(f"\n{outcome}  {self.rows[-1][0]}: {figures} ({report.duration:.0f} s)", flush=True)


def table(rows: list[tuple[str, str, str, float]]) -> str:
    """A Markdown table; neighbouring cases of one bar that measured nothing by themselves become one row."""
    lines = ["| promise | outcome | measured | seconds |", "|---|---|---|---:|"]
    lines += [f"| {bar} | {outcome} | {figures} | {seconds:.0f} |" for bar, outcome, figures, seconds in rows]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", default="", help="only the proofs that fit this expression of pytest")
    parser.add_argument("-o", "--output", type=Path, help="Markdown file for the table")
    arguments = parser.parse_args(argv)
    collector, began = Collector(), time.time()
    words = [str(ROOT / "tests"), "--rootdir", str(ROOT), "-m", "proof", "-p", "no:cacheprovider", "--durations=0"]
    words += ["-k", arguments.k] if arguments.k else []
    code = int(pytest.main(words, plugins=[collector]))
    result = table(collector.rows)
    print(f"\n{result}")
    if arguments.output is not None:
        chosen = f' -k "{arguments.k}"' if arguments.k else ""
        text = "# What the promises were measured at\n\n"
        text += (
            f"By `python tests/prove.py{chosen}` on {time.strftime('%Y-%m-%d', time.gmtime(began))}: "
            f"{os.cpu_count()} CPU cores"
        )
        text += f" ({platform.machine()}), load {os.getloadavg()[0]:.1f} at the end,"
        text += f"\nPython {platform.python_version()}, torch {torch.__version__}; "
        text += f"{(time.time() - began) / 60:.0f} minutes.\n\n{result}"
        arguments.output.write_text(text, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
