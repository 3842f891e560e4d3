"""Codecs that transformers runs, opened by load_codec, compared with transformers itself."""

import math
import shutil
import warnings

import pytest
import torch
from published_codecs import DAC, ENCODEC_48, noise, transformers, write
from safetensors.torch import load_file, save_file

from codec import SoundloomError
from codec.mimi import MimiAdapter
from codec.model import Codec
from codec.pretrained import load_codec
from codec.transformers_codecs import ADAPTERS, EncodecAdapter, TransformersCodec

pytestmark = pytest.mark.filterwarnings("ignore:this EnCodec's chunks overlap")


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("samples", [1, 25, 240, 1000])
@torch.no_grad()
def test_encodec_equals_transformers_at_every_bandwidth(encodec, native, samples):
    folder, reference = encodec
    codec = load_codec(folder, native=native)
    assert isinstance(codec, Codec if native else EncodecAdapter)
    wave = noise(2, 1, samples)
    codes = codec.encode(wave)
    assert codes.shape == (2, 6, -(-samples // 24)) and codes.dtype == torch.long
    assert len(codes.unique()) > 1
    for levels, bandwidth in [(1, 0.4), (3, 1.2), (6, 2.4)]:
        expected = reference.encode(wave, bandwidth=bandwidth)
        torch.testing.assert_close(codes[:, :levels], expected.audio_codes[0], rtol=0, atol=0)
        decoded = reference.decode(expected.audio_codes, [None]).audio_values
        torch.testing.assert_close(codec.decode(codes[:, :levels]), decoded, rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [10, 480, 500, 1400])
@torch.no_grad()
def test_stereo_chunked_encodec_equals_transformers_chunk_by_chunk(encodec_48, samples):
    folder, reference = encodec_48
    codec = load_codec(folder)
    assert isinstance(codec, EncodecAdapter)
    assert (codec.channels, codec.num_levels, codec.codebook_size) == (2, 7, 64)
    wave = 0.3 * noise(2, 2, samples)
    wave[..., samples // 2 :] *= 0.01
    codes = codec.encode(wave)
    assert codes.shape == (2, 7, -(-samples // 24))
    reference.config.overlap = 0.0
    expected = reference.encode(wave, bandwidth=3.6)
    grid = expected.audio_codes.permute(1, 2, 0, 3).flatten(2)[..., : codes.shape[-1]]
    assert torch.equal(codes[:, 1:], grid)
    # The scales agree to half a step (64 codes over 14.2 nepers); beyond that, compare the sound with ours in both.
    scales = [codec._loudness(codes[:, 0, i * 20]) for i in range(len(expected.audio_scales))]
    for ours, theirs in zip(scales, expected.audio_scales, strict=True):
        assert (ours.log() - theirs[:, 0].log()).abs().max() < 0.5 * 14.3 / 63
    for levels in (2, 4):
        decoded = reference.decode(
            expected.audio_codes[:, :, :levels], scales, last_frame_pad_length=expected.last_frame_pad_length
        )
        torch.testing.assert_close(codec.decode(codes[:, : levels + 1]), decoded.audio_values, rtol=0, atol=1e-4)
    assert not codec.decode(codes[:, :1]).any()


@pytest.mark.parametrize("ratios", [[2, 4, 5], [2, 4, 8]])
@torch.no_grad()
def test_dac_equals_transformers(tmp_path, ratios):
    reference = write(tmp_path, "Dac", {**DAC, "downsampling_ratios": ratios})
    codec = load_codec(tmp_path)
    hop = codec.hop_length
    for samples in (1, hop, 5 * hop + 1):
        wave = noise(2, 1, samples)
        codes = codec.encode(wave)
        frames = -(-samples // hop)
        assert codes.shape == (2, 3, frames) and codec.decode(codes).shape == (2, 1, frames * hop)
        padded = torch.nn.functional.pad(wave, (0, frames * hop - samples))
        assert torch.equal(codes, reference.encode(padded).audio_codes)
        for levels in (1, 3):
            decoded = reference.decode(audio_codes=codes[:, :levels]).audio_values[:, None]
            ours = codec.decode(codes[:, :levels])[..., : decoded.shape[-1]]
            torch.testing.assert_close(ours, decoded, rtol=0, atol=1e-4)
    assert codec.frame_rate == 16000 / hop


@torch.no_grad()
def test_mimi_equals_transformers(mimi):
    folder, reference = mimi
    codec = load_codec(folder)
    assert isinstance(codec, MimiAdapter)
    assert (codec.hop_length, codec.frame_rate, codec.num_levels) == (48, 50, 4)
    for samples in (1, 48, 500, 960):
        wave = noise(2, 1, samples)
        codes = codec.encode(wave)
        assert codes.shape == (2, 4, -(-samples // 48))
        assert torch.equal(codes, reference.encode(wave).audio_codes)
        for levels in (1, 2, 4):
            decoded = reference.decode(codes[:, :levels]).audio_values
            assert decoded.shape[-1] == codes.shape[-1] * 48
            torch.testing.assert_close(codec.decode(codes[:, :levels]), decoded, rtol=0, atol=1e-4)


def tiny_xcodec(**settings):
    acoustic = {"model_type": "dac", "encoder_hidden_size": 4, "decoder_hidden_size": 32, "codebook_dim": 4}
    acoustic |= {"downsampling_ratios": [8, 5, 4, 2], "n_codebooks": 2}
    semantic = {"model_type": "hubert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    semantic |= {"intermediate_size": 16, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 8}
    semantic |= {"num_conv_pos_embedding_groups": 2}
    return {
        "acoustic_model_config": acoustic,
        "semantic_model_config": semantic,
        "codebook_size": 16,
        "target_bandwidths": [0.2, 0.8],  # 50 frames a second of 4 bits: 1 and 4 levels
        **settings,
    }


@pytest.mark.parametrize(
    ("kind", "rate", "ratios"),
    [("Xcodec", 16000, [8, 5, 4, 2]), ("HiggsAudioV2Tokenizer", 24000, [8, 5, 4, 2, 3])],
)
@torch.no_grad()
def test_xcodec_and_higgs_audio_equal_transformers(tmp_path, kind, rate, ratios):
    if not hasattr(transformers, kind + "Model"):
        pytest.skip(f"this transformers has no {kind}")
    settings = tiny_xcodec(target_bandwidths=[0.2, 0.8] if rate == 16000 else [0.1, 0.4])
    settings["acoustic_model_config"] |= {"downsampling_ratios": ratios, "upsampling_ratios": ratios}
    reference = write(tmp_path, kind, settings)
    codec = load_codec(tmp_path)
    hop = codec.hop_length
    assert (codec.sample_rate, hop, codec.num_levels) == (rate, math.prod(ratios), 4)
    for samples in (10 * hop, 10 * hop - 100, 300):
        wave = noise(1, 1, samples)
        codes = codec.encode(wave)
        frames = -(-samples // hop)
        assert codes.shape == (1, 4, frames)
        padded = torch.nn.functional.pad(wave, (0, frames * hop - samples))
        assert torch.equal(codes, reference.encode(padded).audio_codes)
        decoded = reference.decode(codes[:, :2]).audio_values
        assert decoded.shape[-1] == frames * hop
        torch.testing.assert_close(codec.decode(codes[:, :2]), decoded, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["encodec", "encodec_48", "mimi"])
def test_fingerprint_follows_the_encoder_not_the_decoder(kind, request, tmp_path):
    folder, _ = request.getfixturevalue(kind)
    shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    before = load_codec(folder, native=False).fingerprint
    for part, same in (("decoder.", True), ("encoder.", False), ("quantizer.", False)):
        name = next(n for n, v in tensors.items() if n.startswith(part) and v.dim() > 1)
        save_file(
            {**tensors, name: tensors[name] + 1}, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"}
        )
        assert (load_codec(tmp_path / "copy", native=False).fingerprint == before) is same


def test_an_adapter_saves_what_it_read(mimi, tmp_path):
    codec = load_codec(mimi[0])
    codec.save_pretrained(tmp_path / "copy")
    again = load_codec(tmp_path / "copy")
    assert again.fingerprint == codec.fingerprint
    assert torch.equal(again.encode(noise(1, 1, 500)), codec.encode(noise(1, 1, 500)))


def test_wrong_inputs_are_refused(encodec_48):
    codec = load_codec(encodec_48[0])
    for wave in (torch.zeros(1, 1, 100), torch.zeros(2, 100)):
        with pytest.raises(SoundloomError, match=r"\[B, 2, N\]"):
            codec.encode(wave)
    for codes in (torch.zeros(1, 8, 3), torch.zeros(1, 0, 3)):
        with pytest.raises(SoundloomError, match="n from 1 to 7"):
            codec.decode(codes.long())
    with pytest.raises(SoundloomError, match="0 to 63"):
        codec.decode(torch.full((1, 7, 3), 64))
    with pytest.raises(SoundloomError, match="does not stream"):
        codec.init_state()


def test_every_adapter_names_a_model_of_transformers():
    for model_type, adapter in ADAPTERS.items():
        assert issubclass(adapter, TransformersCodec)
        if not hasattr(transformers, adapter.model_class):
            continue
        assert getattr(transformers, adapter.model_class).config_class.model_type == model_type


def test_overlapping_chunks_are_warned_about(encodec_48, tmp_path):
    with pytest.warns(UserWarning, match="its codes differ from the published model's after the first chunk"):
        load_codec(encodec_48[0])
    write(tmp_path, "Encodec", {**ENCODEC_48, "overlap": 0.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_codec(tmp_path)
