"""Show the progress of a program: a bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
LINE_SECONDS = 30.0  # between two lines where standard error is no terminal


def on_terminal() -> bool:
    """Return whether standard error is a terminal; it may also be closed."""
    return sys.stderr is not None and sys.stderr.isatty()


class Bar:
    """How far a program is: a bar on a terminal, otherwise one line every 30 s.

    ``total`` and what `add` counts are in ``unit``. Use as a context manager; ``shown=False`` prints nothing.
    """

    def __init__(self, total: float, unit: str, what: str = "", shown: bool = True) -> None:
        self._total, self._unit, self._what = total, unit, what
        self._done, self._note = 0.0, ""
        self._began = self._said = time.monotonic()
        shown = shown and sys.stderr is not None
        self._lines = shown and not on_terminal()
        self._bar: Any = None
        if shown and not self._lines:
            form = "{l_bar}{bar}| {n:.3f}/{total:.3f} {unit} [{elapsed}<{remaining}{postfix}]"
            whole = isinstance(total, int)
            self._bar = tqdm(
                total=total,
                unit=unit,
                desc=what or None,
                bar_format=None if whole else form,
                dynamic_ncols=True,
                file=sys.stderr,
            )

    def add(self, amount: float = 1, note: str | None = None) -> None:
        """Count ``amount`` more; ``note`` stands after the figures until there is another."""
        self._done += amount
        self._note = self._note if note is None else note
        if self._bar is not None:
            if note is not None:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif self._lines and time.monotonic() - self._said >= LINE_SECONDS:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        figures = f"{_amount(self._done)} of {_amount(self._total)} {self._unit}s"
        if self._done:
            left = (self._said - self._began) * (self._total - self._done) / self._done
            figures += f", about {_duration(left)} left"
        line = ": ".join(part for part in (self._what, figures) if part)
        print(f"{line}, {self._note}" if self._note else line, file=sys.stderr, flush=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


def track(
    items: Iterable[T], unit: str, what: str = "", total: int | None = None, shown: bool = True
) -> Generator[T, None, None]:
    """Yield the items and show how far it is (`Bar`); ``total`` where they have no length."""
    count = total if total is not None else len(items)  # type: ignore[arg-type]
    with Bar(count, unit, what, shown) as bar:
        for item in items:
            yield item
            bar.add()


def _amount(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress:
    """A bar where stderr is a terminal, otherwise a line each time `show` is called with figures.

    Use as a context manager; ``shown=False`` (other processes than the first) prints nothing at all.
    """

    def __init__(self, steps: int, first: int = 0, shown: bool = True) -> None:
        self.steps = steps
        self.shown = shown
        self._bar: Any = None
        if shown and on_terminal():
            self._bar = tqdm(total=steps, initial=first, unit="step", dynamic_ncols=True)

    def advance(self, step: int) -> None:
        """Move the bar to ``step`` finished steps."""
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
