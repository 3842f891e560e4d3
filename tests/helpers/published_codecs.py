"""Tiny codecs with random weights: checkpoints as transformers writes them, and our own networks."""

import torch

from codec.model import Codec, CodecConfig
from codec.quantize import QuantizerConfig
from codec.seanet import SEANetConfig
from codec.spectral import SpectralConfig
from codec.transformers_codecs import import_transformers

transformers = import_transformers()

ENCODEC = {
    "num_filters": 2,
    "upsampling_ratios": [4, 3, 2],
    "hidden_size": 6,
    "num_lstm_layers": 1,
    "codebook_size": 16,
    "sampling_rate": 2400,
    "target_bandwidths": [0.4, 1.2, 2.4],  # 100 frames a second of 4 bits: 1, 3 and 6 levels
}
ENCODEC_48 = {
    **ENCODEC,
    "audio_channels": 2,
    "normalize": True,
    "chunk_length_s": 0.2,
    "overlap": 0.01,
    "norm_type": "time_group_norm",
    "use_causal_conv": False,
    "codebook_size": 64,
    "target_bandwidths": [1.2, 3.6],  # 2 and 6 levels of 6 bits
}
DAC = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "downsampling_ratios": [2, 4, 5], "n_codebooks": 3}
DAC |= {"codebook_size": 16, "codebook_dim": 4, "sampling_rate": 16000}
MIMI = {
    "num_filters": 2,
    "upsampling_ratios": [4, 3, 2],
    "hidden_size": 16,
    "sampling_rate": 2400,
    "codebook_size": 16,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "num_quantizers": 4,
    "upsample_groups": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 5,
}


def write(folder, kind, settings, seed=0):
    """Save a model of transformers with random weights and codebooks, and return it."""
    torch.manual_seed(seed)
    config_class, model_class = (getattr(transformers, kind + part) for part in ("Config", "Model"))
    model = model_class(config_class(**settings)).eval()
    for name, value in model.named_buffers():
        if name.endswith((".embed", ".embed_sum")):
            value.normal_()  # transformers starts these at zero, and then any codes agree
    model.save_pretrained(folder)
    return model


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def our_codec(network: str, causal: bool = True) -> Codec:
    torch.manual_seed(0)
    sizes = {"latent_dim": 8, "encoder_dim": 16, "encoder_blocks": 1, "bottleneck_dim": 16, "bottleneck_blocks": 1}
    spectral = SpectralConfig(window=96, hop=24, decoder_window=96, lookahead=72, decoder_dim=16, **sizes)
    seanet = SEANetConfig(filters=2, ratios=(4, 3, 2, 2), latent_dim=8, causal=causal, weight_norm=False)
    quantizer = QuantizerConfig(num_levels=3, codebook_size=16)
    return Codec(CodecConfig(2400, network, spectral, seanet, quantizer)).eval()  # type: ignore[arg-type]
