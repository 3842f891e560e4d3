"""Teach with hibari-tts: a small network in a wheel, American English, 24 kHz."""

from __future__ import annotations

import numpy as np

from codec.common.extras import install_hint
from codec.errors import SoundloomError
from pipelines.teachers.base import Teacher, Wave


class Hibari(Teacher):
    """Voice ``heart``, which comes with the wheel; the other voices are downloaded by hibari."""

    name, licence = "hibari", "Apache-2.0"

    def __init__(self, voice: str = "") -> None:
        try:
            from hibari import Hibari as Model
            from hibari import __version__
            from hibari.voices import VOICES
        except ImportError as error:
            raise SoundloomError(f"the teacher hibari is not installed: {install_hint('corpus')}") from error
        self.voice = voice or "heart"
        if self.voice not in VOICES:
            raise SoundloomError(f"hibari has no voice {self.voice!r}; it has {', '.join(VOICES)}")
        try:
            self._model = Model(voice=self.voice, threads=1)
        except RuntimeError as error:
            raise SoundloomError(f"hibari's voice {self.voice!r} cannot be opened: {error}") from error
        self.version, self.sample_rate = __version__, Model.sample_rate

    def speak(self, text: str, seed: int) -> Wave:
        """Read ``text`` aloud: float32 [N]."""
        return np.asarray(self._model(text, seed=seed), np.float32)
