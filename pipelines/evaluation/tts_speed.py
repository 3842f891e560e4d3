"""Time a voice: real-time factor, first sound in a warm process and from a cold start."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codec.errors import SoundloomError
from pipelines.voice.voice import Voice


def real_time_factors(voice: Voice, texts: Sequence[str], settings: dict[str, Any], count: int) -> list[float]:
    """Return wall time over seconds of sound of sentences spoken whole, one by one, once each.

    One more sentence, spoken first, warms up and is not counted.
    """
    factors = []
    for index in range(count + 1):
        began = time.perf_counter()
        speech = voice.speak(texts[index % len(texts)], seed=index, **{**settings, "retries": 0})
        factors.append((time.perf_counter() - began) / speech.seconds)
    return factors[1:]


def first_sound(voice: Voice, texts: Sequence[str], settings: dict[str, Any], count: int) -> list[float]:
    """Return the seconds from a request to its first samples, in a warm process; the first request is not counted."""
    waits = []
    for index in range(count + 1):
        began = time.perf_counter()
        stream = voice.stream(texts[index % len(texts)], seed=index, **settings)
        next(stream)
        waits.append(time.perf_counter() - began)
    return waits[1:]


def cold_starts(name: str | None, text: str, count: int) -> list[float]:
    """Return the seconds from starting tts.py to its first byte of sound, in a new process each time."""
    script = str(Path(__file__).parents[1] / "tts.py")
    command = [sys.executable, script, text, "--stream", *(["--voice", name] if name else [])]
    waits = []
    for _ in range(count):
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            first = process.stdout.read(1)
            waited = time.perf_counter() - began
            process.stdout.read()
        if not first:
            raise SoundloomError(f"tts.py gave no sound for {text!r} with the voice {name or 'shipped'}")
        waits.append(waited)
    return waits
