"""Ctrl-C in the middle of work, a disk that is full, and two writers: one line, the right code, and no half file."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from store_helpers import write_corpus

from codec.errors import SoundloomError
from codec.store.reader import verify_store
from pipelines.training.checkpoints import load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
LONG = "This is one sentence of a long story that goes on and on without an end. " * 40


def program(name: str) -> list[str]:
    return [sys.executable, str(ROOT / "pipelines" / f"{name}.py")]


def sound(path: Path, seconds: float) -> Path:
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, round(seconds * 24_000))
    soundfile.write(path, noise, 24_000)
    return path


def words(name: str, folder: Path) -> list[str]:
    """A command that works for a long while, into ``folder``/out*."""
    if name == "tts":
        return [*program("tts"), LONG, "-o", str(folder / "out.wav"), "--threads", "1"]
    if name == "reconstruct":
        return [*program("reconstruct"), str(sound(folder / "in.wav", 600)), "-o", str(folder / "out.wav")]
    (folder / "wavs").mkdir()
    for number in range(20):
        sound(folder / "wavs" / f"{number}.wav", 25)
    return [*program("tokenize_corpus"), str(folder / "wavs"), str(folder / "out"), "--shards", "20"]


@pytest.mark.slow
@pytest.mark.proof("Ctrl-C in the middle of work ends with code 130, one line and no half file")
@pytest.mark.parametrize("name", ["tts", "reconstruct", "tokenize_corpus"])
@pytest.mark.parametrize("seconds", [0.3, 5.0, 9.0])
def test_ctrl_c(tmp_path: Path, name: str, seconds: float) -> None:
    command = words(name, tmp_path)
    running = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    time.sleep(seconds)
    assert running.poll() is None, running.communicate()
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in err and "interrupted" in err.splitlines()[-1]
    assert not list(tmp_path.glob("out.wav")) and not list(tmp_path.glob(".*"))
    if name == "tokenize_corpus" and (tmp_path / "out").exists():
        assert not list((tmp_path / "out").glob(".data-*"))


# Files may not grow past this many bytes: what the system refuses is EFBIG, which takes the way of ENOSPC.
FULL = "import resource, signal, runpy, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
FULL += "resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); sys.argv = sys.argv[1:]; "
FULL += "runpy.run_path(sys.argv[0], run_name='__main__')"


def with_little_room(command: list[str], size: int) -> subprocess.CompletedProcess[str]:
    python = [command[0], "-c", FULL.format(size=size), *command[1:]]
    return subprocess.run(python, env=ENVIRONMENT, capture_output=True, text=True, timeout=250, check=False)


@pytest.mark.slow
@pytest.mark.proof("a full disk is one line, code 2 and no half file")
@pytest.mark.parametrize("name", ["tts", "reconstruct", "tokenize_corpus", "make_voice"])
def test_a_full_disk(tmp_path: Path, name: str) -> None:
    heart = ROOT / "pipelines" / "voice" / "shipped" / "heart"
    commands = {
        "tts": [*program("tts"), "hello world", "-o", str(tmp_path / "out.wav")],
        "reconstruct": [*program("reconstruct"), str(sound(tmp_path / "in.wav", 3)), "-o", str(tmp_path / "out.wav")],
        "tokenize_corpus": [*program("tokenize_corpus"), str(tmp_path), str(tmp_path / "out")],
        "make_voice": [*program("make_voice"), str(tmp_path / "out"), "--lm", str(heart / "lm")],
    }
    if name == "tokenize_corpus":
        sound(tmp_path / "in.wav", 20)
    done = with_little_room(commands[name], 5000)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4 and "error: " in done.stderr.splitlines()[-1]
    left = [path.name for path in tmp_path.iterdir() if path.name not in ("in.wav", "out")]
    assert not left
    if name == "make_voice":
        assert not (tmp_path / "out").exists()
    if name == "tokenize_corpus":
        assert not list((tmp_path / "out").glob("data-*")) and not list((tmp_path / "out").glob(".data-*"))
        again = subprocess.run(
            commands[name], env=ENVIRONMENT, capture_output=True, text=True, timeout=250, check=False
        )
        assert again.returncode == 0 and verify_store(tmp_path / "out") == []


@pytest.mark.slow
@pytest.mark.proof("two writers of one output leave one whole result")
@pytest.mark.parametrize("name", ["tts", "tokenize_corpus", "make_voice"])
def test_two_writers(tmp_path: Path, name: str) -> None:
    heart = ROOT / "pipelines" / "voice" / "shipped" / "heart"
    commands = {
        "tts": [*program("tts"), "hello world", "-o", str(tmp_path / "out.wav")],
        "tokenize_corpus": [*program("tokenize_corpus"), str(write_corpus(tmp_path / "c", 4)), str(tmp_path / "out")],
        "make_voice": [*program("make_voice"), str(tmp_path / "out"), "--lm", str(heart / "lm")],
    }
    both = [
        subprocess.Popen(commands[name], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [running.communicate(timeout=250)[1] for running in both]
    codes = [running.returncode for running in both]
    assert 0 in codes and set(codes) <= {0, 2} and not any("Traceback" in end for end in ends), ends
    if name == "tts":
        assert soundfile.info(tmp_path / "out.wav").frames > 10_000
    elif name == "tokenize_corpus":
        assert verify_store(tmp_path / "out") == []
    else:
        from pipelines.voice.folder import read_voice

        read_voice(tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if path.name not in ("c", "out", "out.wav")]


def test_a_checkpoint_that_does_not_fit_leaves_the_earlier_ones(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"weight": torch.zeros(10)}, {"best": None})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(SoundloomError, match="could not write the checkpoint"):
            save_checkpoint(tmp_path, 2, {"weight": torch.zeros(10_000)}, {"best": None})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 1
