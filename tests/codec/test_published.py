"""Real checkpoints from the Hugging Face hub against transformers: pytest -m network tests/codec/test_published.py"""

import math

import pytest
import torch
import torch.nn.functional as F

from codec.model import Codec
from codec.pretrained import load_codec
from codec.transformers_codecs import import_transformers

pytestmark = pytest.mark.network

MONO = ["facebook/encodec_24khz", "descript/dac_16khz", "descript/dac_24khz", "descript/dac_44khz", "kyutai/mimi"]


def sound(channels, sample_rate, seconds=2.0):
    """A rising tone with harmonics that comes and goes, and a little noise: [1, C, N]."""
    time = torch.arange(int(seconds * sample_rate)) / sample_rate
    phase = 2 * math.pi * (120 * time + 100 * time**2)
    tone = sum(torch.sin(k * phase) / k for k in range(1, 9))
    noise = torch.randn(channels, len(time), generator=torch.Generator().manual_seed(0))
    gains = torch.linspace(0.2, 0.1, channels)[:, None]
    return (gains * tone * torch.sin(2 * math.pi * 1.5 * time) ** 2 + 0.005 * noise)[None]


def reference(name):
    return import_transformers().AutoModel.from_pretrained(name, use_safetensors=True).eval()


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", MONO)
@torch.no_grad()
def test_mono(name, native):
    codec, model = load_codec(name, native=native), reference(name)
    assert isinstance(codec, Codec) is (native and "encodec" in name)
    wave = F.pad(sound(1, codec.sample_rate), (0, 123))
    codes = codec.encode(wave)
    whole = F.pad(wave, (0, -wave.shape[-1] % codec.hop_length)) if "dac" in name else wave
    kwargs = {"bandwidth": 24.0} if "encodec" in name else {}
    expected = model.encode(whole, **kwargs).audio_codes
    expected = expected[0] if "encodec" in name else expected
    assert torch.equal(codes, expected)
    for levels in (1, 4, codec.num_levels):
        if "encodec" in name:
            decoded = model.decode(codes[None, :, :levels], [None]).audio_values
        else:
            decoded = model.decode(audio_codes=codes[:, :levels]).audio_values
        decoded = decoded.reshape(1, 1, -1)
        torch.testing.assert_close(
            codec.decode(codes[:, :levels])[..., : decoded.shape[-1]], decoded, rtol=0, atol=1e-4
        )
    heard = codec.decode(codes)[..., : wave.shape[-1]]
    assert F.cosine_similarity(heard, wave, dim=-1).item() > (0.6 if "mimi" in name else 0.9)


@torch.no_grad()
def test_stereo_encodec_in_chunks():
    codec, model = load_codec("facebook/encodec_48khz"), reference("facebook/encodec_48khz")
    wave = sound(2, 48000, seconds=2.5)
    codes = codec.encode(wave)
    assert codes.shape == (1, 17, 375)
    model.config.overlap = 0.0
    expected = model.encode(wave, bandwidth=24.0)
    assert torch.equal(codes[:, 1:], expected.audio_codes.permute(1, 2, 0, 3).flatten(2)[..., :375])
    decoded = model.decode(
        expected.audio_codes, expected.audio_scales, last_frame_pad_length=expected.last_frame_pad_length
    ).audio_values
    heard = codec.decode(codes)
    # Half a step of the loudness level is 0.06 dB: 0.7% of a sample.
    torch.testing.assert_close(heard, decoded, rtol=0.008, atol=1e-4)
    assert F.cosine_similarity(heard.flatten(1), wave.flatten(1)).item() > 0.9


def test_native_encodec_streams():
    codec = load_codec("facebook/encodec_24khz")
    wave = sound(1, 24000)
    state = codec.init_state()
    codes = [codec.encode_chunk(chunk, state) for chunk in wave.split(3200, dim=-1)]
    codes = torch.cat([*codes, codec.encode_chunk(wave[..., :0], state, last=True)], dim=-1)
    whole = codec.encode(wave)
    assert (codes[:, :8] == whole[:, :8]).float().mean() > 0.999
    played = [codec.decode_chunk(chunk, state) for chunk in whole.split(5, dim=-1)]
    played.append(codec.decode_chunk(whole[..., :0], state, last=True))
    torch.testing.assert_close(torch.cat(played, dim=-1), codec.decode(whole), rtol=0, atol=1e-4)
