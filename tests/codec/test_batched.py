"""Waves of different lengths in one batch: the codes that each has alone."""

from __future__ import annotations

import pytest
import torch
from emulated_device import emulated

from codec import load_codec
from codec.batched import encode_rows, side_by_side
from codec.config import CodecConfig
from codec.model import Codec
from codec.quantize import QuantizerConfig
from codec.seanet import SEANetConfig


def seanet(pad_mode: str, **changes: object) -> Codec:
    """With an LSTM, and codebooks of the latent's own size."""
    torch.manual_seed(0)
    shape = SEANetConfig(filters=4, ratios=(5, 3, 2), latent_dim=8, lstm_layers=1, pad_mode=pad_mode, **changes)
    codec = Codec(CodecConfig(network="seanet", seanet=shape, quantizer=QuantizerConfig(3, 64))).eval()
    with torch.no_grad():
        latent = codec.encoder(torch.randn(1, 1, 3000))[0].T
        for level in codec.quantizer.levels:
            level.codebook.copy_(latent[torch.randperm(len(latent))[:64]])
    return codec


def waves(hop: int, frames: tuple[float, ...]) -> list[torch.Tensor]:
    """Noise that is loudest at its end, where padding would be noticed."""
    made = []
    for number, count in enumerate(frames):
        noise = torch.randn(1, max(1, round(count * hop)), generator=torch.Generator().manual_seed(number))
        made.append(noise * torch.linspace(0.1, 1, noise.shape[-1]))
    return made


LENGTHS = (30.1, 12, 0.05, 41.97, 3.5, 22.5, 17.03, 9.99)


@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@pytest.mark.parametrize("device", ["cpu", "emu"])
def test_a_row_has_the_codes_that_it_has_alone(pad_mode: str, device: str) -> None:
    codec = seanet(pad_mode)
    sounds = waves(codec.hop_length, LENGTHS)
    alone = [codec.encode(sound[None])[0] for sound in sounds]
    with emulated():
        together = codec.to(device).encode_rows(sounds)
        assert all(codes.device.type == device for codes in together)
        together = [codes.cpu() for codes in together]
    assert [tuple(codes.shape) for codes in together] == [
        (3, -(-sound.shape[1] // codec.hop_length)) for sound in sounds
    ]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(together, alone, strict=True))


def test_silence_in_place_of_a_reflection_would_change_codes() -> None:
    codec = seanet("reflect")
    sounds = waves(codec.hop_length, LENGTHS)
    plain = codec.encode(side_by_side(sounds, codec.hop_length))
    changed = [
        bool((plain[row, :, : -(-sound.shape[1] // codec.hop_length)] != codec.encode(sound[None])[0]).any())
        for row, sound in enumerate(sounds)
    ]
    assert sum(changed) >= 4


def test_the_shipped_codec_encodes_rows_together() -> None:
    codec = load_codec()
    assert isinstance(codec, Codec)
    sounds = [0.2 * sound for sound in waves(codec.hop_length, (20.3, 7, 55.5, 0.1))]
    together = encode_rows(codec, sounds)
    assert all(torch.equal(codes, codec.encode(sound[None])[0]) for codes, sound in zip(together, sounds, strict=True))


def test_a_network_that_looks_ahead_takes_one_row_at_a_time() -> None:
    codec = seanet("reflect", causal=False)
    sounds = waves(codec.hop_length, LENGTHS)
    assert all(
        torch.equal(codes, codec.encode(sound[None])[0])
        for codes, sound in zip(codec.encode_rows(sounds), sounds, strict=True)
    )


def test_batches_have_few_shapes() -> None:
    shapes = {side_by_side([torch.zeros(1, count)], 1).shape[-1] for count in range(512, 1025)}
    assert shapes == {512, 576, 640, 704, 768, 832, 896, 960, 1024}
    assert [side_by_side([torch.zeros(1, count)], 1).shape[-1] for count in (1, 5, 8, 15, 17)] == [1, 5, 8, 15, 18]
