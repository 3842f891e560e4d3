"""Open a model that writes music, of our own kind or MusicGen's."""

from __future__ import annotations

import os

import torch

from pipelines.music_model.folder import is_music_folder
from pipelines.music_model.model import load_music
from pipelines.music_model.writer import MusicWriter
from pipelines.musicgen.model import load_musicgen


def open_model(name: str | os.PathLike[str] | None = "shipped", *, device: str | torch.device = "cpu") -> MusicWriter:
    """Open the shipped model, a folder of either kind, or a MusicGen checkpoint by its hub name.

    Raises: SoundloomError that names the file, or says how to get the files where there is no network.
    """
    if name is None or is_music_folder(name):
        return load_music(name, device=device)
    return load_musicgen(name, device=device)
