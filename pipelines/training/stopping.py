"""Stop a training in good order: signals, time limits, and agreement between processes."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Any

import torch

from codec.common.distributed import sum_over_processes

#: exit codes after a signal; a time limit and the last step exit with 0
EXIT_CODES = {"SIGTERM": 143, "SIGINT": 130}
REASONS = (*EXIT_CODES, "time limit")


class StopFlag:
    """Turn SIGTERM, Ctrl-C and a time limit into a request to stop after the current step.

    Use it as a context manager, in the main thread. ``reason`` is None, ``"SIGTERM"``, ``"SIGINT"`` or
    ``"time limit"``. A second Ctrl-C interrupts at once.
    """

    def __init__(self, time_limit_minutes: float | None = None) -> None:
        self._signal: str | None = None
        self._deadline = None if time_limit_minutes is None else time.monotonic() + 60 * time_limit_minutes
        self._before: dict[int, Any] = {}

    @property
    def reason(self) -> str | None:
        if self._signal is None and self._deadline is not None and time.monotonic() >= self._deadline:
            return "time limit"
        return self._signal

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal == "SIGINT":
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name

    def __enter__(self) -> StopFlag:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class SaveClock:
    """Say every ``minutes`` that a checkpoint is due, in all processes at the same step; never where it is None."""

    def __init__(self, minutes: float | None) -> None:
        self._minutes = minutes
        self.saved()

    def saved(self) -> None:
        """Begin to count anew."""
        self._begin = time.monotonic()

    def due(self, device: torch.device | str = "cpu") -> bool:
        """Return whether a checkpoint is due; every process must call it."""
        if self._minutes is None:
            return False
        return sum_over_processes([time.monotonic() - self._begin >= 60 * self._minutes], device)[0] > 0


def agree_to_stop(stop: StopFlag, device: torch.device | str = "cpu") -> str | None:
    """Return why to stop, the same in every process, although a signal reaches them at different steps."""
    votes = sum_over_processes([stop.reason == reason for reason in REASONS], device)
    return next((reason for reason, vote in zip(REASONS, votes, strict=True) if vote), None)
