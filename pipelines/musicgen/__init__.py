"""MusicGen as a whole."""

from pipelines.musicgen.model import Music, MusicGen, load_musicgen

__all__ = ["Music", "MusicGen", "load_musicgen"]
