"""The programs that people run, and ``load_voice``: text to speech in three lines of Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.voice.voice import Voice, load_voice

__all__ = ["Voice", "load_voice"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: a program's --help must not wait for torch and the models.
    if name in __all__:
        import pipelines.voice.voice

        return getattr(pipelines.voice.voice, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
