"""What a training shows: a bar on a terminal, plain lines in a log file, a picture of its learning curves."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm


class Progress:
    """A bar where stderr is a terminal, otherwise a line each time `show` is called with figures.

    Use as a context manager; ``shown=False`` (other processes than the first) prints nothing at all.
    """

    def __init__(self, steps: int, first: int = 0, shown: bool = True) -> None:
        self.steps = steps
        self.shown = shown
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm(total=steps, initial=first, unit="step", dynamic_ncols=True)

    def advance(self, step: int) -> None:
        """Tell that ``step`` steps are done."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def show(self, step: int, figures: Mapping[str, float | str]) -> None:
        """Show figures of ``step``, rounded to four digits."""
        text = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif self.shown:
            print(f"step {step}/{self.steps}  {text}", file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        """Print a line of its own, without tearing the bar."""
        if self._bar is not None:
            self._bar.write(message, file=sys.stderr)
        elif self.shown:
            print(message, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


def plot_curves(rows: Sequence[Mapping[str, Any]], path: str | Path, keys: Sequence[str]) -> bool:
    """Draw each of ``keys`` over ``step`` from a log's rows into the picture ``path``, one panel a key.

    A row may hold a number or a list of numbers (one line each: levels). Keys that no row holds are left out.
    Returns False, and draws nothing, where matplotlib is not installed or there is nothing to draw.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    series = {key: [(row["step"], row[key]) for row in rows if row.get(key) is not None] for key in keys}
    series = {key: points for key, points in series.items() if points}
    if not series:
        return False
    figure = Figure(figsize=(8, 2.6 * len(series)), layout="constrained")
    panels = figure.subplots(len(series), squeeze=False)[:, 0]
    for panel, (key, points) in zip(panels, series.items(), strict=True):
        steps = [step for step, _ in points]
        many = isinstance(points[0][1], list)
        lines = zip(*(value for _, value in points), strict=True) if many else [[value for _, value in points]]
        for i, line in enumerate(lines):
            panel.plot(steps, line, linewidth=1, marker="." if len(steps) < 60 else "", label=str(i))
        if many:
            panel.legend(title="level", fontsize="x-small", ncols=4)
        panel.set_ylabel(key)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("step")
    figure.savefig(path, dpi=110)
    return True
