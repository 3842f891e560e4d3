"""A small MusicGen with random weights, written by transformers in the published format, tokenizer included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from codec.transformers_codecs import import_transformers

transformers = import_transformers()

WORDS = ("a", "calm", "piano", "piece", "loud", "drums", "with", "and", "slow", "strings")
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
ENCODEC = {
    "num_filters": 2,
    "upsampling_ratios": [4, 3, 2],
    "hidden_size": 6,
    "num_lstm_layers": 1,
    "codebook_size": 32,
    "sampling_rate": 2400,
    "target_bandwidths": [2.0],  # 100 frames a second of 4 levels of 5 bits
    "use_causal_conv": False,
    "use_conv_shortcut": False,
}
DECODER = {"vocab_size": 32, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "ffn_dim": 40}
DECODER |= {"max_position_embeddings": 64, "num_codebooks": 4, "pad_token_id": 32, "bos_token_id": 32}


def write_musicgen(folder: Path, **decoder: Any) -> Any:
    """Save such a model and its tokenizer; returns transformers' model. ``decoder`` changes the decoder's settings."""
    torch.manual_seed(0)
    config = transformers.MusicgenConfig(
        text_encoder=transformers.T5Config(**T5).to_dict(),
        audio_encoder=transformers.EncodecConfig(**ENCODEC).to_dict(),
        decoder=transformers.MusicgenDecoderConfig(**{**DECODER, **decoder}).to_dict(),
    )
    model = transformers.MusicgenForConditionalGeneration(config).eval()
    for name, value in model.named_buffers():
        if name.endswith(".embed"):
            value.normal_()  # transformers starts codebooks at zero, and then any codes agree
    for name, value in model.named_parameters():
        if name.startswith("decoder.") and value.dim() == 2:
            value.data.normal_(std=0.3)  # peaked scores: greedy choices that do not hang on rounding
    special = model.config.decoder.vocab_size
    model.generation_config.update(pad_token_id=special, bos_token_id=special, decoder_start_token_id=special)
    model.generation_config.update(do_sample=True, guidance_scale=3.0)
    model.save_pretrained(folder)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS] + [(letter, -6.0) for letter in "abcdeilmnoprstuw"]
    transformers.T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)
    return model
