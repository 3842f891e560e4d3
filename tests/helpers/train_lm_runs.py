"""A tiny language-model training, stopped and compared."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import train_lm
from pipelines.training import loop
from pipelines.training.checkpoints import list_checkpoints, read_checkpoint
from pipelines.training.log import JsonlLog

CONFIG = """
model: {kind: delay, dim: 16, num_layers: 1, num_heads: 2, ffn_dim: 32, dropout: 0.1, audio_drop: 0.1, code_noise: 0.1}
text: {spell_probability: 0.3}
optimizer: {lr: 3e-3, warmup_steps: 3}
steps: 20
frames_per_batch: 600
ema_decay: 0.9
validate_every: 5
validate_batches: 2
save_every: 100
log_every: 1
threads: 1
bf16: false
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(loop, "plot_curves", lambda *_: False)  # a second each; the helpers' tests draw one


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Send this process a SIGTERM while it takes step number ``steps`` (counted from now)."""
    take_step = train_lm.LMTask.step
    taken = [0]

    def counted(*args: Any) -> Any:
        taken[0] += 1
        if taken[0] == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(*args)

    monkeypatch.setattr(train_lm.LMTask, "step", counted)


def history(output: Path) -> list[dict[str, Any]]:
    """The log without what a clock decides."""
    rows = JsonlLog(output / "log.jsonl").read()
    return [{k: v for k, v in row.items() if "second" not in k and "dev" not in k and k != "best"} for row in rows]


def assert_same_end(whole: Path, parts: Path) -> None:
    a, b = (read_checkpoint(list_checkpoints(output / "checkpoints")[-1]) for output in (whole, parts))
    assert a.step == b.step and a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor, b.tensors[name]), name
    assert history(whole) == history(parts)
