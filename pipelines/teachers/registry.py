"""Voices that can read texts aloud for a corpus: each a name, its facts and ``speak(text, seed)``."""

from __future__ import annotations

import importlib.metadata
import io
import re
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.audio.files import read_audio
from codec.errors import SoundloomError

Wave = npt.NDArray[np.float32]


class Teacher(ABC):
    """One voice of one speech synthesizer."""

    name: str
    voice: str
    version: str
    licence: str
    sample_rate: int

    @property
    def speaker(self) -> str:
        """How manifests call this voice."""
        return f"{self.name}-{self.voice}"

    @abstractmethod
    def speak(self, text: str, seed: int) -> Wave:
        """Read ``text`` aloud: float32 [N] at `sample_rate`; the same seed gives the same samples."""

    def facts(self) -> dict[str, Any]:
        """What corpus.json tells about the voice."""
        keys = ("name", "version", "licence", "sample_rate")
        return {key: getattr(self, key) for key in keys}


class Hibari(Teacher):
    """hibari-tts: a small network in a wheel, American English, 24 kHz (voice ``heart``; others are downloaded)."""

    name, licence = "hibari", "Apache-2.0"

    def __init__(self, voice: str = "") -> None:
        try:
            from hibari import Hibari as Model
            from hibari import __version__
            from hibari.voices import VOICES
        except ImportError as error:
            raise SoundloomError('the teacher hibari is not installed: pip install "soundloom[corpus]"') from error
        self.voice = voice or "heart"
        if self.voice not in VOICES:
            raise SoundloomError(f"hibari has no voice {self.voice!r}; it has {', '.join(VOICES)}")
        try:
            self._model = Model(voice=self.voice, threads=1)
        except RuntimeError as error:
            raise SoundloomError(f"hibari's voice {self.voice!r} cannot be opened: {error}") from error
        self.version, self.sample_rate = __version__, Model.sample_rate

    def speak(self, text: str, seed: int) -> Wave:
        return np.asarray(self._model(text, seed=seed), np.float32)


class Program(Teacher):
    """A command-line synthesizer, from a text file to a WAV file; it draws nothing, so seeds do not matter."""

    program: str
    default_voice: str

    def __init__(self, voice: str = "") -> None:
        found = shutil.which(self.program)
        if found is None:
            raise SoundloomError(f"{self.program} is not installed (Debian: apt install {self.program})")
        self._command = found
        self.voice = voice or self.default_voice
        if not re.fullmatch(r"[A-Za-z0-9_+-]+", self.voice) or self.voice.startswith("-"):
            raise SoundloomError(f"{self.program}: {self.voice!r} is not the name of a voice")
        self.version = self._version()
        self.sample_rate = self._render("test")[1]

    @abstractmethod
    def _arguments(self, text_file: str, wave_file: str) -> list[str]: ...

    @abstractmethod
    def _version(self) -> str: ...

    def _render(self, text: str) -> tuple[Wave, int]:
        with tempfile.TemporaryDirectory(prefix="soundloom-") as folder:
            source, target = Path(folder, "text.txt"), Path(folder, "speech.wav")
            source.write_text(text + "\n", encoding="utf-8")
            command = [self._command, *self._arguments(str(source), str(target))]
            try:
                done = subprocess.run(command, capture_output=True, timeout=60, check=False)
            except subprocess.TimeoutExpired as error:
                raise SoundloomError(f"{self.program} took more than 60 s") from error
            if done.returncode or not target.exists():
                told = done.stderr.decode("utf-8", "replace").strip()[-200:]
                raise SoundloomError(f"{self.program} -voice {self.voice} failed: {told or done.returncode}")
            data = io.BytesIO(target.read_bytes())
        rate = int.from_bytes(data.getvalue()[24:28], "little")
        return read_audio(data, sample_rate=None)[0].numpy(), rate

    def speak(self, text: str, seed: int) -> Wave:
        return self._render(text)[0]


class Flite(Program):
    """flite's voices: kal16, awb, rms, slt and others; robust, plainly synthetic."""

    name = program = "flite"
    default_voice, licence = "slt", "BSD-like (flite)"

    def _arguments(self, text_file: str, wave_file: str) -> list[str]:
        return ["-voice", self.voice, "-f", text_file, "-o", wave_file]

    def _version(self) -> str:
        listed = subprocess.run([self._command, "-lv"], capture_output=True, text=True, check=False).stdout
        voices = listed.rpartition(":")[2].split()
        # flite takes an unknown voice for its default one without a word.
        if voices and self.voice not in voices:
            raise SoundloomError(f"flite has no voice {self.voice!r}; it has {', '.join(sorted(voices))}")
        told = subprocess.run([self._command, "--version"], capture_output=True, text=True, check=False).stdout
        match = re.search(r"version:?\s*(\S+)", told)
        return match[1] if match else "unknown"


class Espeak(Program):
    """espeak-ng's formant voices, such as en-us, en-gb, en-us+f3, en-us+m5."""

    name = program = "espeak-ng"
    default_voice, licence = "en-us", "GPL-3.0 program; its output is free"

    def _arguments(self, text_file: str, wave_file: str) -> list[str]:
        return ["-v", self.voice, "-f", text_file, "-w", wave_file]

    def _version(self) -> str:
        told = subprocess.run([self._command, "--version"], capture_output=True, text=True, check=False).stdout
        match = re.search(r"(\d+\.\d+\S*)", told)
        return match[1] if match else "unknown"


def _kokoro(voice: str, styles: str | None = None) -> Teacher:
    from pipelines.teachers.kokoro import Kokoro

    return Kokoro(voice, styles)


TEACHERS: dict[str, Callable[..., Teacher]] = {
    "hibari": Hibari,
    "flite": Flite,
    "espeak-ng": Espeak,
    "kokoro": _kokoro,
}


def open_teacher(name: str, voice: str = "", styles: str | None = None) -> Teacher:
    """A teacher by name, with its default voice where ``voice`` is empty; ``styles``: a folder of more Kokoro voices.

    Raises: SoundloomError where it is unknown or not installed, or has no such voice.
    """
    if name not in TEACHERS:
        raise SoundloomError(f"unknown teacher {name!r}; expected one of {', '.join(TEACHERS)}")
    if styles is not None and name != "kokoro":
        raise SoundloomError(f"styles are voices of the teacher kokoro, not of {name}")
    return TEACHERS[name](voice) if styles is None else TEACHERS[name](voice, styles)


def installed_version(package: str) -> str:
    """Version of an installed package, "unknown" where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
