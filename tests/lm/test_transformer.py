"""The transformer against transformers' Llama, its cache against itself, its maps against its attention."""

from __future__ import annotations

import pytest
import torch

from codec.audio import resample
from codec.errors import SoundloomError
from lm.transformer import Transformer, TransformerConfig, rotary_tables, rotate


def tiny(**changes: object) -> Transformer:
    torch.manual_seed(0)
    values = dict(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=40)
    return Transformer(TransformerConfig(**{**values, **changes})).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_equals_llama_with_the_same_weights(kv_heads: int) -> None:
    # transformers imports torchaudio, whose extension may not load here; codec.audio knows how to open it first.
    resample(torch.zeros(10), 16000, 8000)
    from transformers import LlamaConfig, LlamaModel

    ours = tiny(num_kv_heads=kv_heads, rope_theta=5000.0)
    config = LlamaConfig(
        vocab_size=7,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    )
    torch.manual_seed(1)
    llama = LlamaModel(config).eval()
    for parameter in llama.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    weights = {"norm.weight": llama.norm.weight}
    for i, layer in enumerate(llama.layers):
        a, m = layer.self_attn, layer.mlp
        weights |= {
            f"layers.{i}.attention_norm.weight": layer.input_layernorm.weight,
            f"layers.{i}.ffn_norm.weight": layer.post_attention_layernorm.weight,
            f"layers.{i}.attention.qkv.weight": torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]),
            f"layers.{i}.attention.out.weight": a.o_proj.weight,
            f"layers.{i}.gate_up.weight": torch.cat([m.gate_proj.weight, m.up_proj.weight]),
            f"layers.{i}.down.weight": m.down_proj.weight,
        }
    ours.load_state_dict(weights)
    x = torch.randn(2, 9, 32)
    with torch.no_grad():
        expected = llama(inputs_embeds=x).last_hidden_state
        torch.testing.assert_close(ours(x, torch.arange(9)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 3, 1], [9]])
def test_cache_equals_the_whole(chunks: list[int], qk_norm: bool) -> None:
    model = tiny(qk_norm=qk_norm)
    x, positions = torch.randn(2, 9, 32), torch.arange(9) * 1.5
    with torch.no_grad():
        whole = model(x, positions)
        cache = model.init_cache(2, 9)
        parts = [
            model(part, where, cache=cache)
            for part, where in zip(x.split(chunks, 1), positions.split(chunks), strict=True)
        ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="cache of 9"):
        model(x[:, :1], positions[:1], cache=cache)


def test_no_gradient_from_the_future() -> None:
    model = tiny()
    x = torch.randn(1, 7, 32, requires_grad=True)
    for t in range(7):
        (gradient,) = torch.autograd.grad(model(x, torch.arange(7))[0, t].square().sum(), x)
        assert gradient[0, t + 1 :].abs().max() == 0 if t < 6 else True
        assert (gradient[0, : t + 1].abs().amax(dim=1) > 0).all()


def test_only_differences_of_positions_count() -> None:
    model = tiny()
    x = torch.randn(1, 6, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x, torch.arange(6) + 3.25), model(x, torch.arange(6.0)), rtol=1e-4, atol=1e-4)
        per_row = model(x.repeat(2, 1, 1), torch.stack([torch.arange(6.0), torch.arange(6.0) * 0.3]))
        torch.testing.assert_close(per_row[1:], model(x, torch.arange(6.0) * 0.3), rtol=1e-5, atol=1e-5)


def test_rotation_keeps_length() -> None:
    x = torch.randn(2, 3, 5, 8)
    cos, sin = rotary_tables(torch.rand(2, 5) * 100, 8, 10000.0)
    torch.testing.assert_close(rotate(x, cos, sin).norm(dim=-1), x.norm(dim=-1))


def test_attention_maps_are_the_attention() -> None:
    model = tiny(num_layers=1)
    x = torch.randn(1, 6, 32)
    mask = (torch.rand(1, 1, 6, 6) < 0.6) | torch.eye(6, dtype=torch.bool)
    maps = model.attention_maps(x, torch.arange(6), mask)
    assert maps.shape == (1, 4, 6, 6)
    torch.testing.assert_close(maps.sum(-1), torch.ones(1, 4, 6))
    assert (maps[0].masked_select(~mask[0].expand(4, 6, 6)) == 0).all()
    layer = model.layers[0]
    with torch.no_grad():
        _, _, v = layer.attention.project(
            layer.attention_norm(x), *rotary_tables(torch.arange(6), 8, model.config.rope_theta)
        )
        mixed = (maps[0] @ v[0].repeat_interleave(2, 0)).transpose(0, 1).reshape(1, 6, 32)
        y = x + layer.attention.out(mixed)
        y = model.norm(y + layer.feed_forward(y))
        torch.testing.assert_close(model(x, torch.arange(6), mask), y, rtol=1e-5, atol=1e-5)


def test_bfloat16_autocast_stays_close() -> None:
    model = tiny()
    x = torch.randn(2, 9, 32)
    with torch.no_grad():
        plain = model(x, torch.arange(9))
        with torch.autocast("cpu", torch.bfloat16):
            low = model(x, torch.arange(9), torch.ones(9, 9, dtype=torch.bool).tril()[None, None])
    assert (low - plain).abs().max() < 0.1


def test_bfloat16_training_has_nearly_the_same_gradient() -> None:
    model = tiny()
    x, target = torch.randn(2, 40, 32), torch.randn(2, 40, 32)
    mask = torch.ones(40, 40, dtype=torch.bool).tril()[None, None]
    gradients = []
    for low in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = model(x, torch.arange(40), mask)
        (y.float() * target).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.999


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 30}, "heads"),
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"num_layers": 0}, "num_layers"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SoundloomError, match=message):
        tiny(**changes)
