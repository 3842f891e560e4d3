"""Tiny music models with random weights for the tests of what makes music."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from voice_helpers import LEVELS, SHAPE, tiny_codec

from codec.model import Codec
from codec.store.reader import StoreFacts
from lm.checkpoint import LoadedLM, save_lm
from lm.step_lm import DelayLM, DelayLMConfig
from lm.text.tokenizer import TextTokenizer
from pipelines.music_model.config import MusicConfig
from pipelines.music_model.folder import MusicParts
from pipelines.music_model.model import MusicModel

CAPTIONS = ["slow solo piano in A minor", "jazz, saxophone and piano, G dorian, 120 beats per minute"]
WRITTEN = LEVELS - 1  # the language model writes the first levels only


def music_lm(codec: Codec, folder: Path, levels: int = WRITTEN, seed: int = 0) -> LoadedLM:
    """A delay model of the codec's first levels; ``folder`` takes the tokenizer."""
    tokenizer = TextTokenizer.train(CAPTIONS, folder, lexicon=None)
    settings: dict[str, Any] = {"text_vocab_size": tokenizer.vocab_size, "num_levels": levels, "codebook_size": 16}
    settings |= {"frame_rate": codec.frame_rate, "frames_per_text_unit": 20.0, "transformer": SHAPE}
    torch.manual_seed(seed)
    return LoadedLM(DelayLM(DelayLMConfig(**settings)).eval(), tokenizer, StoreFacts.of(codec, levels))


def tiny_music(folder: Path, codec: Codec | None = None, **settings: Any) -> MusicModel:
    """A music model in memory with windows of 2 s; ``folder`` takes the tokenizer."""
    codec = codec or tiny_codec()
    settings = {"window_seconds": 2.0, "stride_seconds": 1.0, "levels": WRITTEN, **settings}
    config = MusicConfig("tiny", codec.sample_rate, "codec", codec.fingerprint, **settings)
    return MusicModel(MusicParts(config, codec, music_lm(codec, folder), card="# tiny\n"))


def write_parts(folder: Path) -> None:
    """Write a codec and a language model that fit, as folders ``codec`` and ``lm``."""
    codec = tiny_codec()
    codec.save_pretrained(folder / "codec")
    lm = music_lm(codec, folder / "text")
    save_lm(folder / "lm", lm.model, lm.tokenizer, lm.codec_facts)
