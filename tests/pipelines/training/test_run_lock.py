"""One output folder, one training: a second stops at once, and a killed one blocks nobody."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from codec.errors import SoundloomError
from pipelines.command_line.run import run
from pipelines.train_lm import main as train_lm
from pipelines.training.run_lock import lock_output


def holder(folder: Path) -> int:
    """Fork a process that holds the lock of ``folder`` until it is killed."""
    ready, says = os.pipe()
    child = os.fork()
    if child == 0:
        with lock_output(folder):
            os.write(says, b"!")
            signal.pause()
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    os.close(says)
    return child


def test_a_second_training_stops_at_once_and_a_killed_one_blocks_nobody(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "one"
    child = holder(folder)
    try:
        # The data is missing too: it is not even looked at.
        assert run(lambda: train_lm(["--output", str(folder), "--store", str(tmp_path / "none")])) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert f"error: {folder}: another training ('process {child} on " in line and "choose another output" in line
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (folder / ".lock").exists()
    with lock_output(folder):
        pass
    assert list(folder.iterdir()) == []


def test_what_fails_before_it_writes_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), lock_output(tmp_path / "new"):
        assert (tmp_path / "new" / ".lock").exists()
        raise RuntimeError
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SoundloomError, match="choose another output"), lock_output(tmp_path / "file"):
        pass


def test_the_other_processes_of_a_run_leave_the_lock_to_the_first(tmp_path: Path) -> None:
    with lock_output(tmp_path / "new", is_main=False):
        assert not (tmp_path / "new").exists()
