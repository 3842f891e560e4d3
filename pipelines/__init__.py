"""The programs that people run, and ``load_voice`` and ``load_music``: speech and music in three lines of Python."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.music_model.model import MusicModel, load_music
    from pipelines.voice.voice import Voice, load_voice

__all__ = ["MusicModel", "Voice", "load_music", "load_voice"]
_MODULES = {"MusicModel": "music_model.model", "load_music": "music_model.model"}


def __getattr__(name: str) -> Any:
    # Loaded when asked for: a program's --help must not wait for torch and the models.
    if name in __all__:
        return getattr(importlib.import_module(f"pipelines.{_MODULES.get(name, 'voice.voice')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
