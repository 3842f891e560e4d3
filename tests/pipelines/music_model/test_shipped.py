"""The shipped music model: it opens without a network, follows its seed, and makes sound."""

from pathlib import Path

import torch

import codec
import pipelines
from codec import load_codec
from pipelines.music_model.model import load_music

MOST_BYTES = 95e6  # of all weights that the repository holds


def test_it_writes_sound_that_follows_the_seed() -> None:
    model = load_music()
    assert model.codec.fingerprint == load_codec("music").fingerprint
    piece, again, other = (model.write("slow solo piano in A minor", 1.0, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(piece.codes, again.codes) and not torch.equal(piece.codes, other.codes)
    assert piece.waveform.shape == (1, 24_000)
    assert 0.01 < float(piece.waveform.abs().max()) <= 1.0


def test_the_shipped_weights_stay_small() -> None:
    places = [Path(package.__path__[0]) for package in (codec, pipelines)]
    assert sum(file.stat().st_size for place in places for file in place.rglob("*.safetensors")) <= MOST_BYTES
