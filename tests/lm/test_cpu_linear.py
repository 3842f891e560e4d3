"""The packed transformer against the plain one: same numbers, both layouts, never out of date."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from lm_models import CODES, LEVELS, SHAPE, TEXT, batch, delay_lm

from codec.common.packed import pack_linear, packs_in_half, weights_version
from lm.config import TransformerConfig

SHAPES = {
    "shared keys": SHAPE,
    "norms": TransformerConfig(dim=32, num_layers=2, num_heads=4, ffn_dim=40, qk_norm=True),
}


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 9])
def test_packed_product_equals_the_plain_one(half: bool, rows: int) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(24, 40), torch.randn(rows, 40)
    weight = weight.half().float() if half else weight
    assert packs_in_half(weight) == (half and torch.backends.quantized.engine in ("fbgemm", "x86", "onednn"))
    with torch.inference_mode():
        expected = (x.double() @ weight.double().t()).float()
        torch.testing.assert_close(pack_linear(weight)(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(pack_linear(weight)(x.view(rows, 1, 40)), expected[:, None], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_both_products_in_half_precision_are_the_same_to_the_bit(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(70, 33).half().float(), torch.randn(rows, 1, 33)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that one of them is deprecated is no news for a user
        product = pack_linear(weight)
        here = product(x)
    monkeypatch.delattr(torch, "fbgemm_linear_fp16_weight_fp32_activation", raising=False)
    assert torch.equal(pack_linear(weight)(x), here)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("shape", list(SHAPES))
@torch.inference_mode()
def test_steps_score_as_the_training_forward_does(shape: str, half: bool) -> None:
    model = delay_lm(transformer=SHAPES[shape])
    for parameter in model.parameters():
        parameter.copy_(parameter + 0.1 * torch.randn_like(parameter))  # norms that are not all ones
        if half:
            parameter.copy_(parameter.half())
    text, text_lengths, codes, lengths = batch()
    lengths = torch.full_like(lengths, codes.shape[2])
    whole = model(text, text_lengths, codes, lengths).logits  # [B, levels, T + 1, outputs]
    inputs = model.step_inputs(codes, lengths)
    steps = inputs.shape[2]
    state = model.start(text, text_lengths, steps)
    begin = 4  # several steps at once, as after a prompt
    scores = {begin - 1: model.advance(state, inputs[:, :, :begin])}
    scores |= {s: model.advance(state, inputs[:, :, s : s + 1]) for s in range(begin, steps)}
    for s, logits in scores.items():
        for k in range(LEVELS):
            if 0 <= s - k <= codes.shape[2]:
                torch.testing.assert_close(logits[:, k], whole[:, k, s - k], rtol=1e-5, atol=1e-5)


def test_a_snapshot_follows_the_weights() -> None:
    model, text = delay_lm(), torch.arange(6)[None]
    before = model.generate(text, max_frames=8, min_frames=8)
    assert torch.equal(model.generate(text, max_frames=8, min_frames=8), before)
    writer = model._writer
    other = delay_lm(seed=1)
    model.load_state_dict(other.state_dict())
    expected = other.generate(text, max_frames=8, min_frames=8)
    assert not torch.equal(expected, before)
    assert torch.equal(model.generate(text, max_frames=8, min_frames=8), expected)
    assert model._writer is not writer
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    codes = torch.randint(0, CODES, (1, LEVELS, 5))
    model(torch.randint(0, TEXT, (1, 4)), torch.tensor([4]), codes, torch.tensor([5])).logits.square().sum().backward()
    version = model._writer.version
    optimizer.step()
    model.generate(text, max_frames=8, min_frames=8)
    assert model._writer.version != version


def test_a_copy_makes_its_own_snapshot() -> None:
    model, text = delay_lm(), torch.arange(6)[None]
    codes = model.generate(text, max_frames=8)
    copied = copy.deepcopy(model)
    assert copied._writer is None and model._writer is not None
    assert torch.equal(copied.generate(text, max_frames=8), codes)


def test_no_way_to_change_a_weight_leaves_an_old_snapshot() -> None:
    model, text = delay_lm(), torch.arange(6)[None]

    def codes() -> torch.Tensor:
        return model.generate(text, max_frames=8, min_frames=8)

    seen = [codes()]
    other = delay_lm(seed=1)

    def average() -> None:  # as code of moving averages does
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.data.mul_(0.5).add_(theirs.data, alpha=0.5)

    def in_inference_mode() -> None:
        with torch.inference_mode():
            model.heads.data.roll(7, 0)
            model.heads.data.copy_(model.heads.data.roll(7, 0))

    for change in (lambda: model.heads.data.mul_(-1), average, in_inference_mode):
        change()
        fresh = copy.deepcopy(model)
        seen.append(codes())
        assert torch.equal(fresh.generate(text, max_frames=8, min_frames=8), seen[-1])
        assert not torch.equal(seen[-1], seen[-2])


@pytest.mark.parametrize("shape", [(3,), (100, 256), (7, 333)])
def test_the_weights_version_sees_every_small_change(shape: tuple[int, ...]) -> None:
    module = torch.nn.ParameterList([torch.randn(shape)])
    weight = module[0].data
    flat = weight.view(-1)
    seen = {weights_version(module)}

    def nudge(place: int) -> None:
        flat[place] = torch.nextafter(flat[place], torch.tensor(9.0))

    def swap() -> None:
        flat[[0, 2]] = flat[[2, 0]]

    for change in (
        *(lambda place=place: nudge(place) for place in (0, len(flat) // 2, len(flat) - 1)),
        swap,
        weight.neg_,
        lambda: weight.mul_(2),
        lambda: weight.copy_(weight.flip(0)),
        lambda: weight.copy_(weight.roll(1, -1)),
    ):
        change()
        assert weights_version(module) not in seen
        seen.add(weights_version(module))
