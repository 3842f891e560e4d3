"""Read a published EnCodec checkpoint (transformers' format) as our own `Codec`: to fine-tune, stream or run faster.

config.json          SEANetConfig and QuantizerConfig
encoder.*, decoder.*                   the same names       (weight_g, weight_v: weight norm, folded)
quantizer.layers.k.codebook.embed      quantizer.levels.k.codebook
…                      .cluster_size   quantizer.levels.k.usage       how often training chose each code
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.common.checked import read_json
from codec.common.hub import Weights
from codec.conv import apply_weight_norm
from codec.errors import SoundloomError
from codec.folder import check_tensor
from codec.model import Codec, CodecConfig
from codec.quantize import QuantizerConfig
from codec.seanet import SEANetConfig, SEANetDecoder, SEANetEncoder

# Ours: theirs. Where config.json leaves one out, its default is the same on both sides.
_SHAPE = {
    "channels": "audio_channels",
    "filters": "num_filters",
    "ratios": "upsampling_ratios",
    "latent_dim": "hidden_size",
    "residual_layers": "num_residual_layers",
    "kernel_size": "kernel_size",
    "last_kernel_size": "last_kernel_size",
    "residual_kernel_size": "residual_kernel_size",
    "dilation_growth": "dilation_growth_rate",
    "compress": "compress",
    "lstm_layers": "num_lstm_layers",
    "conv_shortcut": "use_conv_shortcut",
    "causal": "use_causal_conv",
}


def why_not_native(config: dict[str, Any]) -> str | None:
    """Return what in an EnCodec ``config.json`` our networks do not have, or None where they fit.

    They fit 24 kHz mono and MusicGen's 32 kHz; 48 kHz stereo normalises over time, which cannot stream.
    """
    required = {
        "norm_type": "weight_norm",
        "pad_mode": "reflect",
        "normalize": False,
        "chunk_length_s": None,
        "trim_right_ratio": 1.0,
    }
    for key, value in required.items():
        if config.get(key, value) != value:
            return f"{key} is {config[key]!r}, our network has {value!r}"
    if config.get("codebook_dim") not in (None, config.get("hidden_size", 128)):
        return "codebook_dim is not hidden_size"
    return None


def convert_encodec(folder: Path, weight_norm: bool = False, part: str = "") -> Codec:
    """Read an EnCodec checkpoint folder (config.json, model.safetensors) into our `Codec`, with the same codes.

    ``weight_norm=True`` restores weight norm, for fine-tuning. ``part`` is the field of config.json, and the prefix of
    the weights, under which a larger model (MusicGen: "audio_encoder") holds its codec.
    Raises: `SoundloomError` where our network cannot be that one (`why_not_native`) or the weights do not fit it.
    """
    try:
        config: Any = read_json(folder / "config.json")
        if part:
            config = config.get(part)
            if not isinstance(config, dict) or config.get("model_type") != "encodec":
                raise SoundloomError(f'config.json has no {part} with the "model_type" encodec')
        reason = why_not_native(config)
        if reason is not None:
            raise SoundloomError(reason)
        shape = codec_config(config)
        tensors = _translate(Weights(folder).part(f"{part}." if part else ""))
        # Numbers of layers, each with tensors of its own: checked first, because even empty layers take time.
        layers = max(shape.seanet.residual_layers, shape.seanet.lstm_layers, shape.quantizer.num_levels)
        if max(layers, len(shape.seanet.ratios)) > len(tensors):
            raise SoundloomError(f"config.json describes {layers} layers of a kind, for {len(tensors)} tensors")
        codec = _assemble(shape, tensors)
        if weight_norm:
            seanet = dataclasses.replace(shape.seanet, weight_norm=True)
            codec.config = dataclasses.replace(shape, seanet=seanet)
            for network in (codec.encoder, codec.decoder):
                assert isinstance(network, SEANetEncoder | SEANetDecoder)
                network.config = seanet
                apply_weight_norm(network)
        return codec.eval()
    except Exception as error:
        raise SoundloomError(f"{folder} does not convert to our EnCodec network: {error}") from None


def codec_config(config: dict[str, Any]) -> CodecConfig:
    """Return our configuration for an EnCodec ``config.json``: all levels of its highest bandwidth."""
    shape = {ours: config[theirs] for ours, theirs in _SHAPE.items() if theirs in config}
    seanet = SEANetConfig(**shape, pad_mode="reflect", weight_norm=False)
    sample_rate, codebook_size = config.get("sampling_rate", 24000), config.get("codebook_size", 1024)
    bandwidth = config.get("target_bandwidths", [24.0])[-1]
    per_level = math.ceil(sample_rate / seanet.hop_length) * math.ceil(math.log2(codebook_size))
    quantizer = QuantizerConfig(num_levels=int(1000 * bandwidth // per_level), codebook_size=codebook_size)
    return CodecConfig(sample_rate=sample_rate, network="seanet", seanet=seanet, quantizer=quantizer)


def _translate(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {"quantizer.active": torch.tensor(True)}
    for published, value in theirs.items():
        if value.numel() > 1:
            check_tensor(value, torch.float32, published)
        # Weight norm has its older names in the published files, and newer ones in those that transformers saves now.
        name = published.replace(".parametrizations.weight.original0", ".weight_g")
        name = name.replace(".parametrizations.weight.original1", ".weight_v")
        if name.endswith(".weight_g"):
            direction = published.replace("weight_g", "weight_v").replace("original0", "original1")
            # The function that torch's parametrization itself calls: the same weights to the bit, hence the same codes.
            ours[name.removesuffix("_g")] = torch._weight_norm(theirs[direction].float(), value.float(), 0)
        elif not name.startswith("quantizer."):
            if not name.endswith(".weight_v"):
                ours[name] = value.float()
        elif name.endswith(".codebook.embed"):
            level = name.replace("quantizer.layers.", "quantizer.levels.").removesuffix(".codebook.embed")
            size = theirs.get(name.removesuffix("embed") + "cluster_size", torch.ones(len(value))).float()
            # At least 1: a code that training seldom chose must not restart at the first step.
            usage = size.clamp(min=1)
            ours[f"{level}.codebook"] = value.float()
            ours[f"{level}.usage"] = usage
            ours[f"{level}.total"] = value.float() * usage[:, None]
    return ours


def _assemble(config: CodecConfig, tensors: dict[str, Tensor]) -> Codec:
    # On the meta device nothing is allocated: a config.json that describes terabytes fails at the weights. Weight norm
    # must not be made there: torch would import its compiler, which takes seconds.
    with torch.device("meta"):
        codec = Codec(config)
    codec.load_state_dict(tensors, assign=True)
    return codec.requires_grad_(True)
