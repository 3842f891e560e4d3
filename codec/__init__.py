"""Waveforms to codes and back: the neural audio codec and its token store."""

from codec.errors import SoundloomError

__all__ = ["SoundloomError"]
