"""Compare our speed with that of peers: same weights, machine and threads, in one run, as ratios with their spread.

    python pipelines/bench.py -o reports/speed
    python pipelines/bench.py --only codec lm --threads 2 --repeats 9 -o reports/speed
    python pipelines/bench.py --device cuda -o reports/gpu     # ours and the peers on a GPU
    python pipelines/bench.py --quick -o reports/quick         # tiny sizes, seconds: does it run?

Calls take turns (ours, peer, ours, peer …), so that the machine's other work falls on both. Next to the times is the
roofline: the bytes and operations that a call needs, over what this machine was measured to give.
"""

from __future__ import annotations

import pipelines.command_line.interrupts  # noqa: F401 - Ctrl-C while torch is imported ends in one line

# isort: split
import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from codec.common.devices import full_precision
from codec.common.files import write_text
from codec.errors import SoundloomError
from codec.pretrained import choose_device
from pipelines.benchmarks.cases import CASES
from pipelines.benchmarks.size import Size
from pipelines.benchmarks.timing import describe_machine, load_average, measure_machine
from pipelines.command_line.run import A_LOT, check_numbers, run

_TINY_ENCODEC = (("num_filters", 4), ("hidden_size", 16), ("codebook_size", 64), ("target_bandwidths", [1.8]))
QUICK = Size(0.4, (0.8,), 4, (1, 2), 2, _TINY_ENCODEC, (2, 64, 6), 0.2)


def measure(names: list[str], size: Size, quick: bool) -> dict[str, Any]:
    """Return all entries of these groups with the machine, as plain values."""
    before = load_average()
    with full_precision(torch.device(size.device)):
        machine = measure_machine(quick, size.device)
    print(f"memory {machine.bandwidth / 1e9:.1f} GB/s, products {machine.peak / 1e9:.0f} GFLOP/s", file=sys.stderr)
    entries = []
    for name in names:
        for entry in CASES[name](size):
            record = entry.record(machine)
            entries.append(record)
            print(line(record), file=sys.stderr)
    facts = describe_machine(torch.get_num_threads(), size.device)
    facts |= {"bandwidth": machine.bandwidth, "peak": machine.peak}
    facts |= {"load_before": before, "load_after": load_average()}
    return {"machine": facts, "repeats": size.repeats, "entries": entries}


def line(record: dict[str, Any]) -> str:
    """Return one entry in words."""
    text = f"{record['name']}: {record['rate']['ours']:.4g} {record['unit']} a second"
    if "ratio" in record:
        r = record["ratio"]
        text += f", {r['median']:.2f} times {record['peer']} [{r['low']:.2f}, {r['high']:.2f}]"
    if "roofline" in record:
        text += f", {record['roofline']['share']:.0%} of the roofline"
    return text + "".join(f", {check}" for check in _checks(record))


def _checks(record: dict[str, Any]) -> list[str]:
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in record["checks"].items()}
    return [f"{name}: {value}" for name, value in shown.items()]


def to_markdown(result: dict[str, Any], command: str) -> str:
    """Return the text of bench.md."""
    m = result["machine"]
    load = "unknown" if m["load_before"] is None else f"{m['load_before']:.1f} before, {m['load_after']:.1f} after"
    place = "" if m["device"] == "cpu" else f"{m['device']} in a machine with "
    lines = [
        "# Speed",
        "",
        f"`{command}` on {place}{m['processor']}, {m['cores']} cores, {m['threads']} threads, {m['system']}, Python "
        f"{m['python']}, torch {m['torch']}; load average {load}. Measured: {m['bandwidth'] / 1e9:.1f} GB/s read from "
        f"memory, {m['peak'] / 1e9:.0f} GFLOP/s in float32 products. Medians of {result['repeats']} calls that took "
        "turns with the peer's (of codecs, the second of two in a row); ratio = the peer's time over ours, median "
        "[range].",
        "",
        "| what | a second | peer | peer, a second | ratio | share of roofline | checks |",
        "|---|---:|---|---:|---:|---:|---|",
    ]
    for e in result["entries"]:
        r = e.get("ratio")
        cells = [
            e["name"],
            f"{e['rate']['ours']:.4g} {e['unit']}",
            e["peer"],
            f"{e['rate']['peer']:.4g}" if r else "",
            f"{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" if r else "",
            f"{e['roofline']['share']:.0%}" if "roofline" in e else "",
            "; ".join(_checks(e)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(path: Path, result: dict[str, Any]) -> None:
    """Draw the ratios as bars on a logarithmic axis, with their range."""
    from pipelines.evaluation import plots

    entries = [e for e in result["entries"] if "ratio" in e][::-1]
    figure = plots.new_figure(9, 1.2 + 0.35 * len(entries))
    axes = figure.subplots()
    middle = [e["ratio"]["median"] for e in entries]
    below = [e["ratio"]["median"] - e["ratio"]["low"] for e in entries]
    above = [e["ratio"]["high"] - e["ratio"]["median"] for e in entries]
    names = [f"{e['name']} / {e['peer']}" for e in entries]
    widths = [value - 1 for value in middle]  # from 1, as fast as the peer, to the left or to the right
    colours = ["#1f6f8b" if width > 0 else "#b5564b" for width in widths]
    axes.barh(names, widths, left=1, xerr=[below, above], color=colours, capsize=3)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 4], ["0.1", "0.2", "0.5", "1", "2", "4"], minor=False)
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast as the peer (log; median and range)")
    plots.save_figure(path, figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), help="groups (default: all)")
    parser.add_argument("--threads", type=int, default=2, help="threads for all networks, peers included (default: 2)")
    parser.add_argument("--repeats", type=int, help="calls of each (default: 5)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs, not for figures")
    parser.add_argument("--music", help="layers,width,frames of MusicGen's decoder (default: 24,1024,50)")
    parser.add_argument("--device", default="cpu", help="where all run: auto, cpu, cuda or mps (default: cpu)")
    parser.add_argument("-o", "--output", required=True, help="folder for bench.json, bench.md, bench.png")
    options = parser.parse_args(argv)
    check_numbers(options, repeats=(1, A_LOT))
    size = QUICK if options.quick else Size()
    changes: dict[str, Any] = {} if options.repeats is None else {"repeats": options.repeats}
    if options.music is not None:
        try:
            layers, width, frames = (int(part) for part in options.music.split(","))
        except ValueError:
            raise SoundloomError(f"--music {options.music}: wanted three numbers, such as 24,1024,50") from None
        if min(layers, width, frames) < 1 or width % 64:
            raise SoundloomError(f"--music {options.music}: wanted at least 1 each, the width a multiple of 64")
        changes["music"] = (layers, width, frames)
    changes["device"] = str(choose_device(options.device))
    size = Size(**{**vars(size), **changes})
    torch.set_num_threads(options.threads)
    with torch.random.fork_rng():
        result = measure(options.only, size, options.quick)
    given = sys.argv[1:] if argv is None else argv
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "bench.json", json.dumps(result, indent=2) + "\n")
    write_text(folder / "bench.md", to_markdown(result, " ".join(["python pipelines/bench.py", *given])))
    draw(folder / "bench.png", result)
    for name in ("bench.json", "bench.md", "bench.png"):
        print(folder / name)
    for entry in result["entries"]:
        print(line(entry))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
