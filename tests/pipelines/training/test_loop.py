"""The training loop: when it saves, and the profile of its steps."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from codec.errors import SoundloomError
from pipelines.training import loop, stopping
from pipelines.training.profiling import SETTLE, StepProfiler
from pipelines.training.run_settings import RunSettings
from pipelines.training.stopping import SaveClock, StopFlag


class Counting:
    """A task that notes the steps after which it was saved."""

    curves = ()

    def __init__(self, settings: RunSettings, seconds: list[float]) -> None:
        self.settings, self.now = settings, seconds
        self.finished = 0
        self.saved: list[int] = []

    def introduction(self) -> list[str]:
        return []

    def batches(self) -> Generator[int, None, None]:
        yield from range(self.settings.steps)

    def step(self, batch: int) -> None:
        torch.ones(3).sum()
        self.finished += 1
        self.now[0] += 10.0

    def figures(self, seconds: float) -> dict[str, Any]:
        return {}

    def evaluate(self) -> None:
        return None

    def remarks(self, rows: Any) -> list[str]:
        return []

    def export(self) -> None: ...

    def save(self) -> None:
        self.saved.append(self.finished)

    def settle(self) -> None: ...

    def rewind(self) -> bool:
        return False

    def result(self) -> list[str]:
        return ["counted"]


@pytest.mark.parametrize(
    ("every", "minutes", "expected"),
    [(4, None, [4, 8, 10]), (0, None, [10]), (0, 0.5, [3, 6, 9, 10]), (4, 0.5, [3, 4, 7, 8, 10])],
)
def test_checkpoints_by_steps_and_by_minutes(
    every: int, minutes: float | None, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(loop, "plot_curves", lambda *_: False)
    settings = RunSettings(output=str(tmp_path), steps=10, save_every=every, save_minutes=minutes)
    task = Counting(settings, now)
    assert loop.run(task, settings, Accelerator(cpu=True), StopFlag()) == 0
    assert task.saved == expected


def test_a_profile_is_written_and_costs_nothing_when_off(tmp_path: Path) -> None:
    with StepProfiler(tmp_path, 2) as profiler:
        for _ in range(SETTLE + 3):
            torch.ones(4).sum()
            profiler.step()
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any(event.get("name") == "aten::sum" for event in events)
    with StepProfiler(tmp_path / "none", 0) as profiler:
        profiler.step()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("change", [{"save_minutes": 0.0}, {"keep_checkpoints": 0}, {"profile_steps": -1}])
def test_settings_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(SoundloomError, match=next(iter(change))):
        RunSettings(output="x", **change)


def test_no_clock_asks_for_nothing() -> None:
    assert not SaveClock(None).due()
