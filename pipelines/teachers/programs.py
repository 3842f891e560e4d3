"""Teach with command-line synthesizers: flite and espeak-ng, robust and plainly synthetic."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tempfile
from abc import abstractmethod
from pathlib import Path

from codec.audio.files import read_audio
from codec.errors import SoundloomError
from pipelines.teachers.base import Teacher, Wave


class Program(Teacher):
    """A command-line synthesizer, from a text file to a WAV file; it samples nothing, so seeds do not matter."""

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

    def _match_version(self, pattern: str) -> str:
        output = subprocess.run([self._command, "--version"], capture_output=True, text=True, check=False).stdout
        match = re.search(pattern, output)
        return match[1] if match else "unknown"

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
                message = done.stderr.decode("utf-8", "replace").strip()[-200:]
                raise SoundloomError(f"{self.program} -voice {self.voice} failed: {message or done.returncode}")
            data = io.BytesIO(target.read_bytes())
        rate = int.from_bytes(data.getvalue()[24:28], "little")
        return read_audio(data, sample_rate=None)[0].numpy(), rate

    def speak(self, text: str, seed: int) -> Wave:
        """Read ``text`` aloud: float32 [N]."""
        return self._render(text)[0]


class Flite(Program):
    """flite's voices: kal16, awb, rms, slt and others."""

    name = program = "flite"
    default_voice, licence = "slt", "BSD-like (flite)"

    def _arguments(self, text_file: str, wave_file: str) -> list[str]:
        return ["-voice", self.voice, "-f", text_file, "-o", wave_file]

    def _version(self) -> str:
        listed = subprocess.run([self._command, "-lv"], capture_output=True, text=True, check=False).stdout
        voices = listed.rpartition(":")[2].split()
        # flite replaces an unknown voice by its default one and reports nothing
        if voices and self.voice not in voices:
            raise SoundloomError(f"flite has no voice {self.voice!r}; it has {', '.join(sorted(voices))}")
        return self._match_version(r"version:?\s*(\S+)")


class Espeak(Program):
    """espeak-ng's formant voices, such as en-us, en-gb, en-us+f3, en-us+m5."""

    name = program = "espeak-ng"
    default_voice, licence = "en-us", "GPL-3.0 program; its output is free"

    def _arguments(self, text_file: str, wave_file: str) -> list[str]:
        return ["-v", self.voice, "-f", text_file, "-w", wave_file]

    def _version(self) -> str:
        return self._match_version(r"(\d+\.\d+\S*)")
