"""MusicGen checkpoints in transformers' format, in and out: their ``decoder`` as a `MusicGenLM`.

config.json                 "decoder": {…} and "text_encoder": {"d_model": …}
decoder.model.decoder.…     embed_tokens.k, layers.i.{self_attn, encoder_attn, fc1, fc2, …}, layer_norm
decoder.lm_heads.k          the heads;   enc_to_dec_proj: from the text encoder's width to the decoder's
text_encoder.*, audio_encoder.*   T5 and EnCodec: not read here, carried over when a checkpoint is written
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from codec.common.checked import read_json
from codec.common.files import atomic_path, write_text
from codec.common.hub import CONFIG_FILE, WEIGHTS_FILE, Table, Weights, resolve, unstack
from codec.errors import SoundloomError
from lm.musicgen.network import MusicGenLM, MusicGenLMConfig

MODEL_TYPE = "musicgen"
_BODY = "decoder.model.decoder."
_CARRIED = ("text_encoder.", "audio_encoder.")
# Older files hold this table, which follows from its size.
_COMPUTED = f"{_BODY}embed_positions.weights"
#: other files that a checkpoint's folder may hold and a written one needs: the text's tokenizer, the audio's settings
EXTRA_FILES = (
    *("generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "spiece.model"),
)
# Ours: theirs, with the value that theirs has where config.json leaves it out.
_SHAPE: dict[str, tuple[str, Any]] = {
    "num_levels": ("num_codebooks", 4),
    "codebook_size": ("vocab_size", 2048),
    "dim": ("hidden_size", 1024),
    "num_layers": ("num_hidden_layers", 24),
    "num_heads": ("num_attention_heads", 16),
    "ffn_dim": ("ffn_dim", 4096),
    "channels": ("audio_channels", 1),
    "max_steps": ("max_position_embeddings", 2048),
    "activation": ("activation_function", "gelu"),
}
# Ours: theirs, in a layer; several of theirs are stacked.
_LAYER = {
    "self_norm.weight": ("self_attn_layer_norm.weight",),
    "self_norm.bias": ("self_attn_layer_norm.bias",),
    "qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "self_out.weight": ("self_attn.out_proj.weight",),
    "text_norm.weight": ("encoder_attn_layer_norm.weight",),
    "text_norm.bias": ("encoder_attn_layer_norm.bias",),
    "text_q.weight": ("encoder_attn.q_proj.weight",),
    "text_kv.weight": ("encoder_attn.k_proj.weight", "encoder_attn.v_proj.weight"),
    "text_out.weight": ("encoder_attn.out_proj.weight",),
    "ffn_norm.weight": ("final_layer_norm.weight",),
    "ffn_norm.bias": ("final_layer_norm.bias",),
    "up.weight": ("fc1.weight",),
    "down.weight": ("fc2.weight",),
}


def find_musicgen(name: str | Path) -> Path:
    """Return the folder of a MusicGen checkpoint: itself, or the local copy of a hub name."""
    patterns = [CONFIG_FILE, "model*.safetensors*", *EXTRA_FILES]
    return resolve(name, "MusicGen checkpoint", patterns, "facebook/musicgen-small")


def read_config(folder: Path) -> dict[str, Any]:
    """Read a MusicGen folder's config.json; check its kind and its parts. Raises: `SoundloomError`."""
    path = folder / CONFIG_FILE
    config = read_json(path)
    if config.get("model_type") == "musicgen_melody":
        raise SoundloomError(
            f"{path}: a MusicGen that follows a melody's chroma (musicgen_melody) is another network, which is not "
            "supported; use musicgen-small, -medium, -large or their stereo kinds, and give a melody as audio prompt"
        )
    if config.get("model_type") != MODEL_TYPE:
        raise SoundloomError(f'{path}: "model_type" is {config.get("model_type")!r}; expected {MODEL_TYPE!r}')
    for part in ("text_encoder", "audio_encoder", "decoder"):
        if not isinstance(config.get(part), dict):
            raise SoundloomError(f"{path}: {part} is {config.get(part)!r}, expected an object")
    return config


def decoder_config(config: Mapping[str, Any], where: str) -> MusicGenLMConfig:
    """Return our configuration for a MusicGen's; errors name ``where``."""
    theirs = config["decoder"]
    values = {ours: theirs.get(name, default) for ours, (name, default) in _SHAPE.items()}
    values["text_dim"] = config["text_encoder"].get("d_model", 512)
    for name, value in values.items():
        kind = str if name == "activation" else int
        if not isinstance(value, kind) or isinstance(value, bool):
            field = f"decoder.{_SHAPE[name][0]}" if name in _SHAPE else "text_encoder.d_model"
            raise SoundloomError(f"{where}: {field} is {value!r}, expected {kind.__name__}")
    if theirs.get("cross_attention_hidden_size") not in (None, values["dim"]):
        raise SoundloomError(f"{where}: decoder.cross_attention_hidden_size must be null or hidden_size")
    special = theirs.get("pad_token_id", values["codebook_size"])
    if special != values["codebook_size"]:
        raise SoundloomError(f"{where}: decoder.pad_token_id is {special}, expected {values['codebook_size']}")
    try:
        return MusicGenLMConfig(**values)
    except SoundloomError as error:
        raise SoundloomError(f"{where}: decoder: {error}") from None


def layout(c: MusicGenLMConfig) -> Table:
    """Map our tensors to theirs, each with its shape; several are stacked along the first axis."""
    table: Table = {
        "code_embedding": [(f"{_BODY}embed_tokens.{k}.weight", [c.num_inputs, c.dim]) for k in range(c.num_levels)],
        "heads": [(f"decoder.lm_heads.{k}.weight", [c.codebook_size, c.dim]) for k in range(c.num_levels)],
        "norm.weight": [(f"{_BODY}layer_norm.weight", [c.dim])],
        "norm.bias": [(f"{_BODY}layer_norm.bias", [c.dim])],
    }
    if c.text_dim != c.dim:
        table["text_projection.weight"] = [("enc_to_dec_proj.weight", [c.dim, c.text_dim])]
        table["text_projection.bias"] = [("enc_to_dec_proj.bias", [c.dim])]
    shapes = {"up.weight": [c.ffn_dim, c.dim], "down.weight": [c.dim, c.ffn_dim]}
    for i in range(c.num_layers):
        for ours, theirs in _LAYER.items():
            shape = shapes.get(ours, [c.dim] if "norm" in ours else [c.dim, c.dim])
            table[f"layers.{i}.{ours}"] = [(f"{_BODY}layers.{i}.{name}", shape) for name in theirs]
    return table


def load_decoder(name: str | Path) -> MusicGenLM:
    """Load the decoder of a MusicGen checkpoint (a folder, or a hub name), in float32, for evaluation.

    Raises: `SoundloomError` that names the file and the tensor, for anything missing, unknown, damaged or misshapen.
    """
    folder = find_musicgen(name)
    config = decoder_config(read_config(folder), str(folder / CONFIG_FILE))
    weights = Weights(folder)
    if max(config.num_layers, config.num_levels) > len(weights):
        claimed = f"{config.num_layers} layers and {config.num_levels} levels"
        raise SoundloomError(f"{folder / CONFIG_FILE}: {claimed}, for {len(weights)} tensors")
    tensors = weights.read(layout(config), ignored=[_COMPUTED], elsewhere=_CARRIED)
    with torch.device("meta"):
        model = MusicGenLM(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def save_musicgen(folder: str | Path, model: nn.Module, source: str | Path) -> None:
    """Write a checkpoint that transformers opens as `MusicgenForConditionalGeneration`, in float32.

    The decoder is ``model``; text encoder, codec and tokenizer are those of the MusicGen folder ``source``.
    Raises: `SoundloomError` for a model that is no `MusicGenLM` or does not fit the source's text encoder and codec.
    """
    if not isinstance(model, MusicGenLM):
        raise SoundloomError(
            f"a {type(model).__name__} is no MusicGen: that has sinusoidal positions, LayerNorm, GELU and "
            "cross-attention to a T5 (MusicGenLM); save_lm writes our other models"
        )
    source, folder, c = Path(source), Path(folder), model.config
    if folder.resolve() == source.resolve():
        raise SoundloomError(f"{folder}: is the folder that the text encoder and the codec come from; choose another")
    config = read_config(source)
    if c.text_dim != config["text_encoder"].get("d_model", 512):
        raise SoundloomError(f"the model reads text states of {c.text_dim}, {source} has another text encoder")
    if c.codebook_size != config["audio_encoder"].get("codebook_size", 1024):
        raise SoundloomError(f"the model's codebooks hold {c.codebook_size} codes, {source} has another codec")
    tensors = unstack(model.state_dict(), layout(c))
    weights = Weights(source)
    tensors |= {name: weights.tensor(name) for prefix in _CARRIED for name in weights.names(prefix)}
    config["decoder"] |= {theirs: getattr(c, ours) for ours, (theirs, _) in _SHAPE.items()}
    config["decoder"] |= dict.fromkeys(("pad_token_id", "bos_token_id"), c.empty_id)
    for part in (config, *(config[name] for name in ("text_encoder", "audio_encoder", "decoder"))):
        for name in {"dtype", "torch_dtype"} & set(part):
            part[name] = "float32"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    for name in EXTRA_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
