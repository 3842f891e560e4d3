from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parametrize

from codec import SoundloomError
from codec.conv import (
    Conv1d,
    ConvTranspose1d,
    apply_weight_norm,
    fold_weight_norm,
    folded_state,
    join,
    pad1d,
)

torch.set_num_threads(1)


def in_chunks(layer, x, sizes, flush=True):
    """Feed x in chunks of the given sizes (the rest as one more) and join what comes out."""
    state = layer.init_state(x.shape[0])
    pieces = list(torch.split(x, [*sizes, x.shape[-1] - sum(sizes)], dim=-1))
    if isinstance(layer, ConvTranspose1d):
        return torch.cat([layer(piece, state) for piece in pieces], dim=-1)
    out = [layer(piece, state) for piece in pieces]
    if flush:
        out.append(layer(x[..., :0], state, last=True))
    return torch.cat(out, dim=-1)


chunk_sizes = st.lists(st.integers(0, 9), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 40),
    sizes=chunk_sizes,
    stride=st.sampled_from([1, 2, 5]),
    dilation=st.sampled_from([1, 3]),
    mode=st.sampled_from(["constant", "reflect"]),
    elu=st.booleans(),
)
@torch.no_grad()
def test_conv_in_any_chunks_equals_the_whole(length, sizes, stride, dilation, mode, elu):
    torch.manual_seed(0)
    kernel, dilation = (2 * stride, 1) if stride > 1 else (7, dilation)
    layer = Conv1d(2, 3, kernel, stride, dilation, pad_mode=mode, elu=elu)
    x = torch.randn(2, 2, length + sum(sizes))
    whole = layer(x)
    assert whole.shape == (2, 3, -(-x.shape[-1] // stride))
    torch.testing.assert_close(in_chunks(layer, x, sizes), whole, rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 12),
    sizes=chunk_sizes,
    stride=st.sampled_from([1, 2, 5]),
    factor=st.sampled_from([1, 2, 3]),
    elu=st.booleans(),
)
@torch.no_grad()
def test_transposed_conv_in_any_chunks_equals_the_whole(length, sizes, stride, factor, elu):
    torch.manual_seed(0)
    layer = ConvTranspose1d(2, 3, factor * stride, stride, elu=elu)
    x = torch.randn(2, 2, length + sum(sizes))
    whole = layer(x)
    assert whole.shape == (2, 3, x.shape[-1] * stride)
    torch.testing.assert_close(in_chunks(layer, x, sizes), whole, rtol=0, atol=1e-6)


def test_conv_is_a_plain_convolution_of_the_left_padded_input():
    torch.manual_seed(0)
    layer = Conv1d(2, 3, 4, 2)
    x = torch.randn(1, 2, 8)
    expected = F.conv1d(F.pad(x, (2, 0)), layer.conv.weight, layer.conv.bias, stride=2)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("steps", [2, 200])
@pytest.mark.parametrize(
    "make", [partial(Conv1d, 8, 6, 4, 2), partial(Conv1d, 8, 6, 3), partial(ConvTranspose1d, 8, 6, 4, 2)]
)
def test_steps_first_or_channels_first_the_result_is_the_same(make, steps, rows, dtype):
    torch.manual_seed(0)
    layer = make(elu=True).to(dtype)
    x = torch.randn(rows, 8, steps).to(dtype)
    expected = layer(x)
    with torch.no_grad():
        for given_x in (x, x.transpose(1, 2).contiguous().transpose(1, 2)):
            result = layer(given_x)
            torch.testing.assert_close(result, expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 0.02)
            assert result.stride(1) == 1


def test_joining_activates_what_it_is_told_to():
    torch.manual_seed(0)
    past, x = torch.randn(2, 3, 4), torch.randn(2, 3, 5)
    expected = torch.cat([past, F.elu(x)], dim=-1)
    assert torch.equal(join([past, x], [False, True]), expected)
    with torch.no_grad():
        torch.testing.assert_close(join([past, x[..., :0], x], [False, True, True]), expected)
        assert join([past[..., :0], x]).data_ptr() == x.data_ptr()
        assert join([past[..., :0], x[..., :0]], [True, True]).shape == (2, 3, 0)


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_no_output_reads_the_future(stride):
    torch.manual_seed(0)
    down, up = Conv1d(1, 1, 2 * stride if stride > 1 else 7, stride), ConvTranspose1d(1, 1, 2 * stride, stride)
    for step in range(4):
        x = torch.randn(1, 1, 6 * stride, requires_grad=True)
        (gradient,) = torch.autograd.grad(down(x)[0, 0, step], x)
        assert gradient[..., : (step + 1) * stride].any()
        assert not gradient[..., (step + 1) * stride :].any()
        x = torch.randn(1, 1, 6, requires_grad=True)
        (gradient,) = torch.autograd.grad(up(x)[0, 0, step], x)
        assert not gradient[..., step // stride + 1 :].any()


@torch.no_grad()
def test_not_causal_is_centred_and_refuses_chunks():
    torch.manual_seed(0)
    layer = Conv1d(1, 1, 7, causal=False)
    x = torch.randn(1, 1, 20)
    torch.testing.assert_close(layer(x), F.conv1d(F.pad(x, (3, 3)), layer.conv.weight, layer.conv.bias))
    assert ConvTranspose1d(1, 1, 6, 3, causal=False)(x).shape[-1] == 60
    with pytest.raises(SoundloomError, match="not causal"):
        layer.init_state()


@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_reflection_of_short_inputs(length):
    x = torch.arange(1.0, length + 1).view(1, 1, -1)
    padded = pad1d(x, 3, 1, "reflect")
    assert padded.shape[-1] == length + 4
    torch.testing.assert_close(padded[..., 3 : 3 + length], x)
    mirrored = F.pad(x, (0, 5))[..., 1:4].flip(-1)
    torch.testing.assert_close(padded[..., :3], mirrored)
    if length > 3:
        torch.testing.assert_close(padded, F.pad(x, (3, 1), mode="reflect"))


@torch.no_grad()
def test_weight_norm_folds_away_and_comes_back_with_the_same_output():
    torch.manual_seed(0)
    net = torch.nn.Sequential(Conv1d(2, 4, 7), ConvTranspose1d(4, 2, 4, 2))
    x = torch.randn(1, 2, 11)
    plain = net(x)
    apply_weight_norm(net)
    apply_weight_norm(net)
    assert all(parametrize.is_parametrized(layer.conv) for layer in net)
    torch.testing.assert_close(net(x), plain, rtol=0, atol=1e-6)
    net[0].conv.parametrizations.weight.original0.mul_(2)
    scaled = net(x)
    state = folded_state(net)
    assert parametrize.is_parametrized(net[0].conv)
    fold_weight_norm(net)
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(parametrize.is_parametrized(layer.conv) for layer in net)
    assert set(net.state_dict()) == {"0.conv.weight", "0.conv.bias", "1.conv.weight", "1.conv.bias"}
    torch.testing.assert_close(net(x), scaled, rtol=0, atol=0)


def test_impossible_shapes_are_refused():
    with pytest.raises(SoundloomError, match="kernel 3"):
        Conv1d(1, 1, 3, 2)
    with pytest.raises(SoundloomError, match="kernel 1"):
        ConvTranspose1d(1, 1, 1, 2)
