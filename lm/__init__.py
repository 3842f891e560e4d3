"""Text and codes to codes: language models over token grids. They never see a waveform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm.checkpoint import LoadedLM, load_lm, save_lm

__all__ = ["LoadedLM", "load_lm", "save_lm"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: `lm.text.tokenizer` alone must not wait for torch and the models.
    if name in __all__:
        import lm.checkpoint

        return getattr(lm.checkpoint, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
