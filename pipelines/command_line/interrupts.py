"""Ctrl-C while a program imports its packages: one line and code 130. Programs that import torch import this first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from types import FrameType


def end_at_once(number: int, frame: FrameType | None) -> None:
    """End the process: an exception here could be lost in the C code that imports modules, or become a traceback."""
    os.write(2, b"interrupted\n")
    os._exit(130)


def allow_cleanup() -> None:
    """Turn Ctrl-C into KeyboardInterrupt again, now that there is somebody to catch it."""
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_program() -> bool:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return script is not None and Path(script).resolve().parent == Path(__file__).resolve().parents[1]


# Not in workers, which end with their parent; and where the shell asked to ignore Ctrl-C, it stays ignored.
if (
    _is_program()
    and multiprocessing.parent_process() is None
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, end_at_once)
