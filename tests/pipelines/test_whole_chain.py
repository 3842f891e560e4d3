"""From an empty folder to speech, by the programs themselves, with the tiny configurations."""

import importlib
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import pipelines.whole_chain as program
from codec.audio.files import audio_info


def in_this_process(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
    """Run a program's ``main`` here, which saves the seconds that each process needs to import torch."""
    main = importlib.import_module(f"pipelines.{Path(command[1]).stem}").main
    return subprocess.CompletedProcess(command, main(command[2:]))


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_empty_folder_becomes_two_voices_that_speak(
    processes: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not processes:
        monkeypatch.setattr(program, "subprocess", SimpleNamespace(run=in_this_process))
    assert program.main([str(tmp_path / "chain"), "--steps", "30"]) == 0
    for name in ("delay", "pair"):
        info = audio_info(tmp_path / "chain" / f"{name}.wav")
        assert info.sample_rate == 24000 and info.duration > 0.1
        assert (tmp_path / "chain" / name / "voice.json").is_file()
    printed = capfd.readouterr().out
    assert printed.count("python ") >= 10


def test_a_dry_run_only_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([str(tmp_path / "chain"), "--dry-run"]) == 0
    assert "train_codec.py" in capsys.readouterr().out
    assert not (tmp_path / "chain").exists()
