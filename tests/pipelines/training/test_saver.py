"""Checkpoints written by a thread: those that would have been written at once, and errors that do not get lost."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_store import write_store
from train_lm_runs import CONFIG, assert_same_end, quick, stop_after  # noqa: F401 - `quick` is a fixture

from codec.errors import SoundloomError
from pipelines import train_lm
from pipelines.training import saver
from pipelines.training.checkpoints import read_checkpoint
from pipelines.training.saver import Saver


def test_a_checkpoint_holds_the_tensors_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, write = threading.Event(), saver.save_checkpoint

    def later(*arguments: Any) -> Path:
        go.wait(10)
        return write(*arguments)

    monkeypatch.setattr(saver, "save_checkpoint", later)
    weights, keeps = torch.zeros(3), Saver(background=True)
    keeps.save(tmp_path, 1, {"w": weights}, {"a": 1})
    weights.add_(1)  # training continues before anything is written
    assert not (tmp_path / "step-00000001").exists()
    go.set()
    keeps.wait()
    checkpoint = read_checkpoint(tmp_path / "step-00000001")
    assert torch.equal(checkpoint.tensors["w"], torch.zeros(3)) and checkpoint.facts == {"a": 1}


def test_what_fails_in_the_thread_is_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for then in (lambda keeps: keeps.wait(), lambda keeps: keeps.save(tmp_path, 2, {}, {})):
        keeps = Saver(background=True)
        keeps.save(tmp_path / "file", 1, {"w": torch.zeros(1)}, {})
        with pytest.raises(SoundloomError, match="could not write the checkpoint"):
            then(keeps)


def test_a_run_that_saves_in_the_background_resumes_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_store(tmp_path / "store", 30)
    (tmp_path / "lm.yaml").write_text(CONFIG)
    words = ["--config", str(tmp_path / "lm.yaml"), "--store", str(store), "--steps", "8", "--save_every", "3"]
    assert train_lm.main([*words, "--output", str(tmp_path / "whole")]) == 0
    parts = [*words, "--output", str(tmp_path / "parts"), "--save_in_background", "true"]
    with monkeypatch.context() as patched:
        stop_after(patched, 5)
        assert train_lm.main(parts) == 143
    assert train_lm.main(parts) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
