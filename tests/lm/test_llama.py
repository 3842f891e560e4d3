"""Text models that transformers writes, opened as our transformer and held against transformers; and the way back."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_
from hypothesis import strategies as st
from lm_models import settings
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.errors import SoundloomError
from codec.transformers_codecs import import_transformers
from lm.config import LMConfig, TransformerConfig
from lm.fine_lm import FineLM
from lm.llama import TextModel, load_text_model, read_shape, save_text_model, start_from
from lm.step_lm import DelayLM, DelayLMConfig
from lm.transformer import Transformer

torch.set_num_threads(1)
transformers = import_transformers()
SHAPE = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
KINDS = {
    "llama": ("Llama", {"rms_norm_eps": 3e-5}),
    "no groups": ("Llama", {"num_key_value_heads": 4}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "theta": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "qwen3": ("Qwen3", {"head_dim": 6}),
    "wide heads": ("Qwen3", {"head_dim": 10, "tie_word_embeddings": True}),
}
KEY = "model.layers.1.self_attn.k_proj.weight"


def write(folder: Path, kind: str = "llama", sharded: bool = False) -> Any:
    name, changes = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SHAPE, **changes})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(mean=float(parameter.dim() == 1), std=0.2)  # norms' weights differ from 1 too
    model.save_pretrained(folder, **({"max_shard_size": "8KB"} if sharded else {}))
    return model


def run(model: TextModel, ids: Tensor) -> Tensor:
    x = F.embedding(ids, model.embedding)
    return model.transformer(x, torch.arange(ids.shape[1]).float())


def some_ids() -> Tensor:
    return torch.randint(0, 50, (2, 11), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_equal_to_transformers_and_back(kind: str, tmp_path: Path) -> None:
    reference = write(tmp_path / "theirs", kind)
    ids = some_ids()
    state = torch.get_rng_state()
    ours = load_text_model(tmp_path / "theirs")
    assert torch.equal(torch.get_rng_state(), state)
    expected = reference(ids, output_hidden_states=True)
    hidden = run(ours, ids)
    torch.testing.assert_close(hidden, expected.hidden_states[-1], rtol=0, atol=1e-4)
    assert ours.head is not None and (ours.head is ours.embedding) is reference.config.tie_word_embeddings
    torch.testing.assert_close(F.linear(hidden, ours.head), expected.logits, rtol=0, atol=1e-4)
    save_text_model(tmp_path / "ours", ours)
    again, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(again) is type(reference)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    torch.testing.assert_close(again.eval()(ids).logits, expected.logits, rtol=0, atol=1e-6)
    assert read_shape(tmp_path / "ours") == ours.transformer.config


@torch.no_grad()
def test_shards_and_older_settings_open_as_well(tmp_path: Path) -> None:
    reference = write(tmp_path, "theta", sharded=True)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"], config["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_theta": 500.0, "rope_scaling": None}))
    ids = some_ids()
    expected = reference(ids, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(run(load_text_model(tmp_path), ids), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_body_without_head_is_a_base_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = TransformerConfig(dim=24, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=40, qk_norm=True)
    model = TextModel(torch.randn(50, 24), Transformer(shape).eval(), None)
    save_text_model(tmp_path, model)
    reference = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert type(reference).__name__ == "Qwen3Model"
    ids = some_ids()
    torch.testing.assert_close(reference(ids).last_hidden_state, run(model, ids), rtol=0, atol=1e-4)
    again = load_text_model(tmp_path)
    assert again.head is None
    torch.testing.assert_close(run(again, ids), run(model, ids), rtol=0, atol=0)
    both_ways = Transformer(TransformerConfig(dim=8, num_layers=1, num_heads=2, ffn_dim=8, causal=False))
    with pytest.raises(SoundloomError, match="looks both ways"):
        save_text_model(tmp_path, TextModel(torch.zeros(3, 8), both_ways, None))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "gpt2"}, "'gpt2'; expected one of llama, qwen3"),
        ({"model_type": ["llama"]}, "expected one of llama, qwen3"),
        ({"rms_norm_eps": float("nan")}, "NaN is not JSON"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "'llama3'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        ({"hidden_size": "24"}, "hidden_size is '24'"),
        ({"num_hidden_layers": 10**9}, "layers, for"),
        ({"num_hidden_layers": 3}, "lacks tensor 'model.layers.2"),
        ({"num_hidden_layers": 1}, "model.layers.1.* is unknown"),
        ({"num_key_value_heads": 4}, "k_proj.weight has shape"),
        ({"intermediate_size": None}, "intermediate_size is missing"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    write(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SoundloomError, match=told) as error:
        load_text_model(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("value", [None, torch.zeros(3, 3), torch.full((12, 24), float("inf"))])
def test_broken_weights_are_named(tmp_path: Path, value: Tensor | None) -> None:
    write(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(KEY)
    save_file(tensors if value is None else tensors | {KEY: value}, path)
    with pytest.raises(SoundloomError, match=f"model.safetensors: .*{KEY}"):
        load_text_model(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SoundloomError, match="not readable"):
        load_text_model(tmp_path)


@pytest.mark.parametrize("kind", [DelayLM, FineLM])
def test_a_language_model_starts_from_one(tmp_path: Path, kind: Any) -> None:
    write(tmp_path)
    text = load_text_model(tmp_path)
    config_class = DelayLMConfig if kind is DelayLM else LMConfig
    shape = replace(text.transformer.config, causal=kind is DelayLM, dropout=0.1)
    model = kind(config_class(**settings(transformer=shape)))
    heads, random = model.heads.clone(), model.code_embedding.clone()
    start_from(model, tmp_path)
    body = text.transformer.state_dict()
    assert all(torch.equal(value, body[name]) for name, value in model.transformer.state_dict().items())
    assert torch.equal(model.heads, heads) and model.transformer.config == shape
    torch.testing.assert_close(model.prefix.embedding.weight.std(), text.embedding.std())
    torch.testing.assert_close(F.cosine_similarity(model.code_embedding, random), torch.ones(len(random)))
    other = kind(config_class(**settings(transformer=replace(shape, num_kv_heads=4))))
    with pytest.raises(SoundloomError, match=r"num_kv_heads 2 \(here 4\)"):
        start_from(other, tmp_path)


@settings_(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.binary(min_size=0, max_size=6), st.integers(0, 8))
def test_a_mutated_config_parses_or_raises_our_error(tmp_path: Path, at: int, new: bytes, cut: int) -> None:
    if not (tmp_path / "original.json").exists():
        write(tmp_path)
        shutil.copy(tmp_path / "config.json", tmp_path / "original.json")
    content = (tmp_path / "original.json").read_bytes()
    at %= len(content)
    (tmp_path / "config.json").write_bytes(content[:at] + new + content[at + cut :])
    with contextlib.suppress(SoundloomError):
        load_text_model(tmp_path)
