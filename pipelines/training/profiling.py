"""A profile of some steps of a training, for chrome://tracing and Perfetto: which operation took how long."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import torch

SETTLE = 3  # steps of a start that show nothing: memory is allocated, kernels are chosen


class StepProfiler:
    """Profile ``steps`` steps after the first three and write ``trace.json``; does nothing with 0 steps.

    Use it as a context manager, and call `step` after each step. A run that ends earlier writes what it has.
    """

    def __init__(self, folder: str | Path, steps: int) -> None:
        self._path = Path(folder) / "trace.json"
        self._steps = steps
        self._profile: Any = None
        self.left = SETTLE + steps if steps else 0

    def __enter__(self) -> StepProfiler:
        if self._steps:
            schedule = torch.profiler.schedule(wait=SETTLE - 1, warmup=1, active=self._steps, repeat=1)
            self._profile = torch.profiler.profile(schedule=schedule, on_trace_ready=self._write).__enter__()
        return self

    def step(self) -> None:
        """Note that a step has ended."""
        if self.left:
            self._profile.step()
            self.left -= 1

    def _write(self, profile: Any) -> None:
        profile.export_chrome_trace(str(self._path))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._profile is not None:
            self._profile.__exit__(kind, error, tb)
