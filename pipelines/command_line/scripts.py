"""Entry points of the console commands: ``soundloom-tts`` calls ``scripts.tts``, and so on for every program."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from pipelines.command_line.run import run


def __getattr__(name: str) -> Callable[[], int]:
    """Return the program ``name`` of pipelines/ as a function without arguments that returns its exit code.

    A program is imported when its command runs: no command waits for the modules of another.
    """
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def main() -> int:
        # Imported inside `run`, so that Ctrl-C while torch loads ends in one line, too.
        return int(importlib.import_module(f"pipelines.{name}").main())

    return lambda: run(main)
