"""Define a teacher: one voice of a speech synthesizer that reads texts aloud for a corpus."""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Wave = npt.NDArray[np.float32]


class Teacher(ABC):
    """One voice of one synthesizer. A subclass in a file of its own and a row in `registry.TEACHERS` add a teacher."""

    options: ClassVar[Mapping[str, str]] = {}  # name of an option -> what it is; all values are text

    name: str
    voice: str
    version: str
    licence: str
    sample_rate: int

    @abstractmethod
    def __init__(self, voice: str = "", **options: str) -> None:
        """Open a voice, the default one where ``voice`` is empty; ``options`` by the names in `options`.

        Raises: SoundloomError where the synthesizer is not installed or has no such voice.
        """

    @property
    def speaker(self) -> str:
        """Return the name of this voice in manifests."""
        return f"{self.name}-{self.voice}"

    @abstractmethod
    def speak(self, text: str, seed: int) -> Wave:
        """Read ``text`` aloud: float32 [N] at `sample_rate`; the same seed gives the same samples."""

    def facts(self) -> dict[str, Any]:
        """Return what corpus.json records about the voice."""
        keys = ("name", "version", "licence", "sample_rate")
        return {key: getattr(self, key) for key in keys}


def installed_version(package: str) -> str:
    """Return the version of an installed package, "unknown" where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
