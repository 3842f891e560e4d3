"""Losses that spike: noticed against the steps before, and left behind; a run resumes to the bit across it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_store import write_store
from train_lm_runs import CONFIG, assert_same_end, quick, stop_after  # noqa: F401 - `quick` is a fixture

from codec.errors import SoundloomError
from pipelines import train_lm
from pipelines.training import spikes
from pipelines.training.checkpoints import list_checkpoints, read_checkpoint, save_checkpoint
from pipelines.training.spikes import SpikeGuard


def seen(guard: SpikeGuard, losses: list[float], norm: float = 1.0) -> list[bool]:
    due = []
    for loss in losses:
        guard.see(loss, norm)
        due.append(guard.due)
    return due


def noisy(count: int) -> list[float]:
    return (3 + 0.1 * torch.randn(count, generator=torch.Generator().manual_seed(0))).tolist()


def test_a_spike_needs_patience_and_falling_losses_are_none() -> None:
    guard = SpikeGuard(6.0, 2)
    assert not any(seen(guard, noisy(100)))
    assert seen(guard, [9.0, 3.0, 9.0, 9.0]) == [False, False, False, True]
    assert not any(seen(SpikeGuard(6.0, 1), [3 - 0.01 * step for step in range(200)]))
    assert not any(seen(SpikeGuard(0.0, 1), [*noisy(100), 99.0]))  # off


def test_the_norm_and_what_is_not_finite_count_too() -> None:
    guard = SpikeGuard(6.0, 1)
    seen(guard, noisy(40))
    assert seen(guard, [3.0], norm=50.0) == [True]
    for broken in (float("nan"), float("inf")):
        guard = SpikeGuard(6.0, 1)
        seen(guard, noisy(40))
        assert seen(guard, [broken]) == [True]
    assert not any(seen(SpikeGuard(6.0, 1), [float("nan")] * 50))  # nothing to compare with yet


def test_going_back_again_and_again_is_an_error(tmp_path: Path) -> None:
    guard, nothing = SpikeGuard(6.0, 1), (lambda checkpoint: None, lambda: None)
    guard.in_a_row = 1
    assert not guard.go_back(tmp_path, 5, *nothing)  # no checkpoint yet: training continues
    save_checkpoint(tmp_path, 4, {"x": torch.zeros(1)}, {})
    for times in range(spikes.MOST_REWINDS):
        guard.in_a_row = 1
        assert guard.go_back(tmp_path, 9, *nothing)
        assert guard.skipped == 5 * (times + 1)
    guard.in_a_row = 1
    with pytest.raises(SoundloomError, match="lower the learning rate"):
        guard.go_back(tmp_path, 9, *nothing)


class Poison:
    """Spoils the weights at some places in the data, as no batch alone does, and notes which places were read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, places: range) -> None:
        self.read: list[int] = []
        take = train_lm.train_step

        def step(accelerator: Any, model: Any, batches: Any, plan: Any, numbers: Any, **how: Any) -> Any:
            self.read.append(numbers[0])
            if numbers[0] in places:
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.mul_(3.0)
            return take(accelerator, model, batches, plan, numbers, **how)

        monkeypatch.setattr(train_lm, "train_step", step)


def words(tmp_path: Path, output: str) -> list[str]:
    if not (tmp_path / "store").exists():
        write_store(tmp_path / "store", 30)
        (tmp_path / "lm.yaml").write_text(CONFIG)
    given = [
        "--config",
        str(tmp_path / "lm.yaml"),
        "--store",
        str(tmp_path / "store"),
        "--output",
        f"{tmp_path}/{output}",
    ]
    given += ["--save_every", "8", "--spike_threshold", "6", "--spike_patience", "2", "--steps", "22"]
    return [*given, "--frames_per_batch", "300"]


def test_a_run_goes_back_past_the_data_that_led_to_a_spike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spikes, "LEAST", 8)
    poison = Poison(monkeypatch, range(12, 14))
    assert train_lm.main(words(tmp_path, "run")) == 0
    assert poison.read == list(range(14 + 22 - 8))  # no data twice: from step 8 on again, with what is new
    checkpoint = read_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert checkpoint.step == 22 and checkpoint.facts["spikes"]["skipped"] == 6
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["rewound_from"] for row in log if "rewound_from" in row] == [14]
    steps = [row["step"] for row in log if "loss" in row]
    assert steps == list(range(1, 23)) and all(row["loss"] < 10 for row in log if "loss" in row)


@pytest.mark.parametrize("stopped", [11, 18])
def test_a_run_that_is_stopped_before_or_after_it_went_back_resumes_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    monkeypatch.setattr(spikes, "LEAST", 8)
    Poison(monkeypatch, range(12, 14))
    assert train_lm.main(words(tmp_path, "whole")) == 0
    with monkeypatch.context() as patched:
        stop_after(patched, stopped)  # after step 11, which leaves a checkpoint there, or four steps after it went back
        assert train_lm.main(words(tmp_path, "parts")) == 143
    assert train_lm.main(words(tmp_path, "parts")) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_without_a_threshold_nothing_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spikes, "LEAST", 8)
    poison = Poison(monkeypatch, range(12, 14))
    assert train_lm.main([*words(tmp_path, "run"), "--spike_threshold", "0", "--steps", "16"]) == 0
    assert poison.read == list(range(16))
