"""Waveforms to codes and back: the neural audio codec and its token store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codec.errors import SoundloomError

if TYPE_CHECKING:
    from codec.model import Codec
    from codec.pretrained import load_codec

__all__ = ["Codec", "SoundloomError", "load_codec"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: lm uses codec's errors and store, and needs no codec's network for them.
    if name == "Codec":
        from codec.model import Codec

        return Codec
    if name == "load_codec":
        from codec.pretrained import load_codec

        return load_codec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
