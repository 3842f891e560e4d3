"""The spectral networks on packed weights: the layers' numbers, for short chunks only, never out of date."""

from __future__ import annotations

import copy

import pytest
import torch
from published_codecs import our_codec
from torch import Tensor

from codec.model import Codec
from codec.spectral_steps import PackedDecoder


def streamed(codec: Codec, latent: Tensor, size: int) -> tuple[Tensor, object]:
    """Return latents decoded in chunks of ``size`` frames, and what the stream's decoder packed."""
    state = codec.init_state(len(latent))
    parts = [codec.decode_latent_chunk(part, state) for part in latent.split(size, -1)]
    return torch.cat([*parts, codec.decode_latent_chunk(latent[..., :0], state, last=True)], -1), state.decoder.packed


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("size", [1, 4, 7])
def test_packed_layers_equal_the_layers(half: bool, rows: int, size: int) -> None:
    codec = our_codec("spectral")
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # norms and scales that are not all the same
            parameter.copy_(parameter.half() if half else parameter)
        wave = torch.randn(rows, 1, 48 * 21)
        latent = codec.encoder(wave)
        state, parts = codec.encoder.init_state(rows), []
        for part in wave.split(48 * size, -1):
            parts.append(codec.encoder(part, state))
    assert state.packed is not None
    torch.testing.assert_close(torch.cat(parts, -1), latent, rtol=1e-4, atol=1e-5)
    wave, packed = streamed(codec, latent, size)
    assert packed is not None
    torch.testing.assert_close(wave, codec.decode_latent(latent), rtol=1e-4, atol=1e-5)


def test_a_long_chunk_and_a_gradient_take_the_layers_themselves() -> None:
    codec = our_codec("spectral")
    latent = torch.randn(1, codec.quantizer.dim, 200)
    assert streamed(codec, latent, 200)[1] is None
    state = codec.decoder.init_state(1)
    codec.decoder(latent[..., :4].requires_grad_(), state).sum().backward()
    assert state.packed is None and next(codec.decoder.parameters()).grad is not None


def test_the_packed_copy_follows_the_weights_and_is_never_copied() -> None:
    codec = our_codec("spectral")
    latent = torch.randn(1, codec.quantizer.dim, 6)
    first, packed = streamed(codec, latent, 2)
    assert streamed(codec, latent, 2)[1] is packed
    copied = copy.deepcopy(codec)
    assert copied.decoder._packed is None and torch.equal(streamed(copied, latent, 2)[0], first)
    other = codec.with_decoder({"upsample.weight": 2 * codec.decoder.upsample.weight.detach()})
    assert not torch.allclose(streamed(other, latent, 2)[0], first)
    codec.decoder.upsample.weight.data.mul_(2)  # a write that no version counter sees
    assert torch.equal(streamed(codec, latent, 2)[0], streamed(other, latent, 2)[0])


@pytest.mark.parametrize("half", [True, False])
def test_streams_decoded_together_equal_streams_decoded_alone(half: bool) -> None:
    codec = our_codec("spectral")
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            parameter.copy_(parameter.half() if half else parameter)
    calls = [(3, 0, 20, 1), (0, 5, 70, 90), (8, 8, 8, 8), (0, 0, 0, 2)]  # frames that each stream gets
    alone, together = ([codec.init_state(1) for _ in calls[0]] for _ in range(2))
    for number, sizes in enumerate(calls):
        latents = [torch.randn(codec.quantizer.dim, size) for size in sizes]
        ends = [number == len(calls) - 1] * len(sizes)
        waves = codec.decode_chunks(latents, together, ends)
        for latent, state, end, wave in zip(latents, alone, ends, waves, strict=True):
            torch.testing.assert_close(wave, codec.decode_latent_chunk(latent[None], state, end)[0])


def test_streams_decoded_together_run_the_layers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = our_codec("spectral")
    states = [codec.init_state(1) for _ in range(3)]
    codes = codec.encode(torch.randn(3, 1, 48 * 4))
    codec.decode_chunks(list(codes), states)
    runs: list[int] = []
    run = PackedDecoder.together
    monkeypatch.setattr(PackedDecoder, "together", lambda self, x, past: [runs.append(len(x)), run(self, x, past)][1])
    monkeypatch.setattr(codec.decoder, "forward", None)
    codec.decode_chunks(list(codes), states)
    assert runs == [3]
