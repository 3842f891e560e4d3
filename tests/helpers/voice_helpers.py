"""Tiny voices with random weights for the tests of the programs that speak."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from codec.model import Codec, CodecConfig
from codec.quantize import QuantizerConfig
from codec.spectral import SpectralConfig
from codec.store.reader import StoreFacts
from lm.checkpoint import LoadedLM, save_lm
from lm.config import LMConfig, TransformerConfig
from lm.fine_lm import FineLM
from lm.step_lm import CoarseLM, DelayLM, DelayLMConfig
from lm.text.tokenizer import TextTokenizer
from pipelines.voice.folder import VoiceConfig
from pipelines.voice.voice import Voice

SIZES = {"latent_dim": 8, "encoder_dim": 16, "encoder_blocks": 1, "bottleneck_dim": 16, "bottleneck_blocks": 1}
SHAPE = TransformerConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=40)
LEVELS = 3


def tiny_codec(seed: int = 0) -> Codec:
    """3 levels of 16 codes at 50 Hz, 24 kHz; loud enough to be no silence."""
    torch.manual_seed(seed)
    config = CodecConfig(
        spectral=SpectralConfig(**SIZES, decoder_dim=16, decoder_blocks=1),
        quantizer=QuantizerConfig(num_levels=LEVELS, codebook_size=16),
    )
    codec = Codec(config).eval()
    with torch.no_grad():
        codec.decoder.magnitude.bias += 3  # type: ignore[union-attr,operator]
        for level in codec.quantizer.levels:
            level.codebook.normal_()
    return codec


@cache
def tiny_tokenizer(folder: Path) -> TextTokenizer:
    return TextTokenizer.train(["Hello world, how are you?"], folder, lexicon=None)


def tiny_lms(codec: Codec, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Models by kind, for the codec and the tokenizer in ``folder``."""
    tokenizer = tiny_tokenizer(folder)
    settings: dict[str, Any] = {"text_vocab_size": tokenizer.vocab_size, "num_levels": LEVELS, "codebook_size": 16}
    settings |= {"frame_rate": codec.frame_rate, "frames_per_text_unit": 2.0, "cfg_drop": 0.0, "transformer": SHAPE}
    torch.manual_seed(seed)
    return {
        "delay": DelayLM(DelayLMConfig(**settings)).eval(),
        "coarse": CoarseLM(LMConfig(**settings)).eval(),
        "fine": FineLM(LMConfig(**settings)).eval(),
    }


def save_lms(folder: Path, codec: Codec) -> dict[str, Path]:
    """Write the models under ``folder``: kind -> folder."""
    tokenizer = tiny_tokenizer(folder / "text")
    for kind, model in tiny_lms(codec, folder / "text").items():
        save_lm(folder / kind, model, tokenizer, StoreFacts.of(codec))
    return {kind: folder / kind for kind in ("delay", "coarse", "fine")}


def tiny_voice(folder: Path, **settings: Any) -> Voice:
    """A delay voice in memory; ``folder`` takes the tokenizer."""
    codec = tiny_codec()
    lm = LoadedLM(tiny_lms(codec, folder)["delay"], tiny_tokenizer(folder), StoreFacts.of(codec))
    config = VoiceConfig("tiny", codec.sample_rate, "codec", codec.fingerprint, **settings)
    return Voice(config, codec, lm, "# tiny\n")
