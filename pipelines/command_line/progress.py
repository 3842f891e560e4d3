"""Show the progress of a program: a bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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
