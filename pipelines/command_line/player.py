"""Playing sound: by the sounddevice package, by a program that the system has, or as PCM through a pipe."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from codec.errors import SoundloomError

if TYPE_CHECKING:
    from torch import Tensor

_POWERSHELL = "(New-Object Media.SoundPlayer $args[0]).PlaySync()"
#: players by name, each with the words before the file's name; the first that is there is used
PLAYERS: dict[str, list[str]] = {
    "aplay": ["-q"],
    "afplay": [],
    "paplay": [],
    "ffplay": ["-nodisp", "-autoexit", "-loglevel", "error"],
    "powershell": ["-NoProfile", "-Command", _POWERSHELL],
}


def find_player() -> Callable[[Tensor, int], None]:
    """Return what plays wave float [C, N] at a sample rate, and returns when it has been played.

    Raises: SoundloomError where this machine has no player.
    """
    if importlib.util.find_spec("sounddevice") is not None:
        return _play_by_package
    for name, words in PLAYERS.items():
        program = shutil.which(name)
        if program is not None:
            return lambda wave, rate: _play_by_program([program, *words], wave, rate)
    raise SoundloomError(
        f"--play: no player found; `pip install sounddevice`, or install one of {', '.join(PLAYERS)}; "
        "-o FILE writes a file"
    )


def _play_by_package(wave: Tensor, rate: int) -> None:
    sounddevice = importlib.import_module("sounddevice")  # an extra of the user's own choice
    try:
        sounddevice.play(wave.cpu().t().numpy(), rate)
        sounddevice.wait()
    except sounddevice.PortAudioError as error:
        raise SoundloomError(f"--play: the sound device refused ({error}); -o FILE writes a file") from None


def _play_by_program(command: list[str], wave: Tensor, rate: int) -> None:
    from codec.audio.files import write_audio

    with tempfile.TemporaryDirectory(prefix="soundloom-") as folder:
        path = Path(folder) / "speech.wav"
        write_audio(path, wave, rate)
        try:
            done = subprocess.run([*command, os.fspath(path)], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
        except OSError as error:
            raise SoundloomError(f"--play: {command[0]} cannot be started ({error.strerror or error})") from None
    if done.returncode:
        raise SoundloomError(f"--play: {command[0]} ended with code {done.returncode}; -o FILE writes a file")


def write_pcm(wave: Tensor) -> None:
    """Write wave float [C, n] to standard output as 16-bit little-endian samples, channels interleaved."""
    import torch

    scaled = (wave.cpu().clamp(-1, 1) * 32767).round().to(torch.int16)
    sys.stdout.buffer.write(scaled.t().contiguous().numpy().astype("<i2").tobytes())
    sys.stdout.buffer.flush()
