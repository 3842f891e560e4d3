"""Text models in the hub's Llama format as our `Transformer`, in and out: a language model can start from one.

config.json       hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, rope_theta, rms_norm_eps …
model.layers.i.   self_attn.{q,k,v,o}_proj, mlp.{gate,up,down}_proj, input_layernorm, post_attention_layernorm;
                  Qwen3's self_attn.{q,k}_norm, a norm a head, are our qk_norm
model.embed_tokens, model.norm, lm_head (left out where it is the embedding)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from codec.common.checked import read_json
from codec.common.files import atomic_path, write_text
from codec.common.hub import CONFIG_FILE, WEIGHTS_FILE, Table, Weights, resolve, unstack
from codec.errors import SoundloomError
from lm.config import TransformerConfig
from lm.fine_lm import FineLM
from lm.step_lm import StepLM
from lm.transformer import Transformer

#: model_type: whether it norms queries and keys
MODEL_TYPES = {"llama": False, "qwen3": True}
_ARCHITECTURES = {"llama": "Llama", "qwen3": "Qwen3"}
# Theirs: what our transformer has; another value is another network.
_FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "use_sliding_window": False}
_INTEGERS = {
    "dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "ffn_dim": "intermediate_size",
}


@dataclass
class TextModel:
    """A text model's parts: ``embedding`` [V, D], the transformer, ``head`` [V, D] (None: the file has none).

    Tied head and embedding are one tensor.
    """

    embedding: Tensor
    transformer: Transformer
    head: Tensor | None


def find_text_model(name: str | Path) -> Path:
    """Return the folder of a Llama-style checkpoint: itself, or the local copy of a hub name."""
    patterns = [CONFIG_FILE, "model*.safetensors*"]
    return resolve(name, "text model", patterns, "HuggingFaceTB/SmolLM2-135M")


def read_shape(folder: Path) -> TransformerConfig:
    """Return our configuration for a checkpoint's config.json. Raises: `SoundloomError` that names what we lack."""
    path = folder / CONFIG_FILE
    config = read_json(path)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in MODEL_TYPES:
        raise SoundloomError(f'{path}: "model_type" is {kind!r}; expected one of {", ".join(MODEL_TYPES)}')
    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise SoundloomError(f"{path}: {name} is {config[name]!r}, our transformer has {value!r}")
    values: dict[str, Any] = {ours: _number(config, theirs, path, int) for ours, theirs in _INTEGERS.items()}
    head_size = _number(config, "head_dim", path, int)
    if kind == "qwen3" and head_size is None:
        head_size = 128
    if head_size is not None and head_size * (values["num_heads"] or 0) != values["dim"]:
        values["head_size"] = head_size
    values["norm_eps"] = _number(config, "rms_norm_eps", path, float)
    values["rope_theta"] = _rope_theta(config, path)
    given = {name: value for name, value in values.items() if value is not None}
    for name in ("dim", "num_layers", "num_heads", "ffn_dim"):
        if name not in given:
            raise SoundloomError(f"{path}: {_INTEGERS[name]} is missing")
    try:
        return TransformerConfig(**{"norm_eps": 1e-6, **given, "qk_norm": MODEL_TYPES[kind]})
    except SoundloomError as error:
        raise SoundloomError(f"{path}: {error}") from None


def _number(config: Mapping[str, Any], name: str, path: Path, kind: type) -> Any:
    value = config.get(name)
    good = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if value is not None and (not good or isinstance(value, bool) or not 0 < value < math.inf):
        raise SoundloomError(f"{path}: {name} is {value!r}, expected a positive number")
    return value


def _rope_theta(config: Mapping[str, Any], path: Path) -> float | None:
    """Return the base of the rotary positions, which newer files keep in an object; refuse scaled positions."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name) or {}
        if not isinstance(rope, dict):
            raise SoundloomError(f"{path}: {name} is {rope!r}, expected an object")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise SoundloomError(f"{path}: {name} is of type {kind!r}; our rotary positions are not scaled (default)")
        if "rope_theta" in rope:
            return _number(rope, "rope_theta", path, float)
    return _number(config, "rope_theta", path, float)


def layout(c: TransformerConfig, prefix: str) -> Table:
    """Map our transformer's tensors to theirs, each with its shape."""
    q, kv = c.num_heads * c.head_dim, c.kv_heads * c.head_dim
    table: Table = {"norm.weight": [(f"{prefix}norm.weight", [c.dim])]}
    for i in range(c.num_layers):
        theirs = f"{prefix}layers.{i}."
        layer: Table = {
            "attention_norm.weight": [("input_layernorm.weight", [c.dim])],
            "attention.qkv.weight": [
                ("self_attn.q_proj.weight", [q, c.dim]),
                ("self_attn.k_proj.weight", [kv, c.dim]),
                ("self_attn.v_proj.weight", [kv, c.dim]),
            ],
            "attention.out.weight": [("self_attn.o_proj.weight", [c.dim, q])],
            "ffn_norm.weight": [("post_attention_layernorm.weight", [c.dim])],
            "gate_up.weight": [
                ("mlp.gate_proj.weight", [c.ffn_dim, c.dim]),
                ("mlp.up_proj.weight", [c.ffn_dim, c.dim]),
            ],
            "down.weight": [("mlp.down_proj.weight", [c.dim, c.ffn_dim])],
        }
        if c.qk_norm:
            layer["attention.q_norm.weight"] = [("self_attn.q_norm.weight", [c.head_dim])]
            layer["attention.k_norm.weight"] = [("self_attn.k_norm.weight", [c.head_dim])]
        table |= {f"layers.{i}.{ours}": [(theirs + name, s) for name, s in parts] for ours, parts in layer.items()}
    return table


def load_text_model(name: str | Path) -> TextModel:
    """Open a Llama or Qwen3 checkpoint (a folder, or a hub name; safetensors, sharded too) in float32, for evaluation.

    Raises: `SoundloomError` that names the file and the tensor or setting.
    """
    folder = find_text_model(name)
    shape, config = read_shape(folder), read_json(folder / CONFIG_FILE)
    weights = Weights(folder)
    if shape.num_layers > len(weights):
        raise SoundloomError(f"{folder / CONFIG_FILE}: {shape.num_layers} layers, for {len(weights)} tensors")
    prefix = "" if "norm.weight" in weights else "model."
    embedded = f"{prefix}embed_tokens.weight"
    size = [weights.shape(embedded)[0], shape.dim]
    table = layout(shape, prefix) | {"embedding": [(embedded, size)]}
    tied = bool(config.get("tie_word_embeddings", False))
    if "lm_head.weight" in weights and not tied:
        table["head"] = [("lm_head.weight", size)]
    elif prefix and not tied:
        raise SoundloomError(f"{weights.place('lm_head.weight')}: lacks tensor 'lm_head.weight', which is not tied")
    # Older files hold the rotary frequencies; a tied head may stand there as well.
    ignored = ["lm_head.weight"] if tied else []
    ignored += [name for name in weights.names() if name.endswith("rotary_emb.inv_freq")]
    tensors = weights.read(table, ignored)
    embedding = tensors.pop("embedding")
    head = tensors.pop("head", embedding if tied else None)
    with torch.device("meta"):
        transformer = Transformer(shape)
    transformer.load_state_dict(tensors, assign=True)
    return TextModel(embedding, transformer.eval(), head)


def save_text_model(folder: str | Path, model: TextModel, max_positions: int = 4096) -> None:
    """Write a checkpoint that transformers opens: Llama, or with qk_norm Qwen3; without a head, its base model.

    ``max_positions`` is for other programs. Raises: `SoundloomError` for a transformer that is not causal.
    """
    folder, c = Path(folder), model.transformer.config
    if not c.causal:
        raise SoundloomError("a transformer that looks both ways is no Llama; expected a causal one")
    kind = next(name for name, normed in MODEL_TYPES.items() if normed == c.qk_norm)
    tied = model.head is not None and model.head.data_ptr() == model.embedding.data_ptr()
    prefix = "" if model.head is None else "model."
    state = model.transformer.state_dict() | {"embedding": model.embedding}
    table = layout(c, prefix) | {"embedding": [(f"{prefix}embed_tokens.weight", list(model.embedding.shape))]}
    if model.head is not None and not tied:
        state["head"] = model.head
        table["head"] = [("lm_head.weight", list(model.head.shape))]
    config = {
        "architectures": [_ARCHITECTURES[kind] + ("Model" if model.head is None else "ForCausalLM")],
        "model_type": kind,
        "vocab_size": len(model.embedding),
        **{theirs: getattr(c, ours) for ours, theirs in _INTEGERS.items()},
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "rms_norm_eps": c.norm_eps,
        # Older and newer releases look for it in different places.
        "rope_theta": c.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "max_position_embeddings": max_positions,
        "tie_word_embeddings": tied,
        "dtype": "float32",
        **{name: value for name, value in _FIXED.items() if name != "use_sliding_window"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(unstack(state, table), temporary, metadata={"format": "pt"})
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def start_from(model: StepLM | FineLM, name: str | Path) -> None:
    """Copy a text model's transformer into a language model of ours, whose dropout and causality stay.

    Its own embeddings keep their random directions and take the scale of the text model's, so that the layers get
    a residual stream like the one that they were trained on. Heads stay as they are.

    Raises: SoundloomError where the shapes differ, field by field.
    """
    found = load_text_model(name)
    ours, theirs = model.transformer.config, found.transformer.config
    wanted = replace(theirs, dropout=ours.dropout, causal=ours.causal)
    if wanted != ours:
        names = [n for n in vars(ours) if getattr(ours, n) != getattr(wanted, n)]
        differences = ", ".join(f"{n} {getattr(wanted, n)} (here {getattr(ours, n)})" for n in names)
        raise SoundloomError(f"{name}: the text model has {differences}")
    model.transformer.load_state_dict(found.transformer.state_dict())
    factor = found.embedding.std() / model.prefix.embedding.weight.std().cpu()
    for own, parameter in model.named_parameters():
        if not own.startswith(("transformer.", "heads")):
            parameter.mul_(float(factor))
