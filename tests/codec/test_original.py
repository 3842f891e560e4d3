"""The original packages of EnCodec and DAC, where they are installed, against load_codec on the same random weights.

    pip install encodec descript-audio-codec

Their networks' weights are written in transformers' published format, as transformers' own converters do.
"""

import importlib
import re

import pytest
import torch
from safetensors.torch import save_file

from codec.pretrained import load_codec
from codec.transformers_codecs import import_transformers

pytestmark = pytest.mark.slow
torch.set_num_threads(1)
transformers = import_transformers()


def original(name):
    """A package, or a skip: these bring many others with them, and not all install everywhere."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever goes wrong inside another project's import
        pytest.skip(f"{name} does not import: {error}")


def rename(name, pairs):
    for old, new in pairs:
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize("stereo", [False, True])
@torch.no_grad()
def test_encodec_equals_the_original_package(tmp_path, stereo):
    package = original("encodec")
    seanet = importlib.import_module("encodec.modules.seanet")
    vq = importlib.import_module("encodec.quantization")
    torch.manual_seed(0)
    shape = {"n_filters": 4, "dimension": 8, "ratios": [4, 3, 2], "channels": 2 if stereo else 1, "causal": not stereo}
    shape["norm"] = "time_group_norm" if stereo else "weight_norm"
    quantizer = vq.ResidualVectorQuantizer(dimension=8, n_q=6, bins=16)
    networks = seanet.SEANetEncoder(**shape), seanet.SEANetDecoder(**shape)
    segment = 0.2 if stereo else None
    model = package.EncodecModel(
        *networks, quantizer, [2.5], 2400, shape["channels"], normalize=stereo, segment=segment, overlap=0.0
    ).eval()
    for layer in quantizer.vq.layers:
        layer._codebook.embed.normal_()
        layer._codebook.inited.fill_(1)
    model.set_target_bandwidth(2.5)

    names = [
        ("quantizer.vq.layers", "quantizer.layers"),
        ("._codebook.", ".codebook."),
        (".model.", ".layers."),
        (".convtr.convtr.", ".conv."),
        (".convtr.norm.", ".norm."),
        (".conv.conv.", ".conv."),
        (".conv.norm.", ".norm."),
    ]
    tensors = {rename(name, names): value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    transformers.EncodecConfig(
        num_filters=4,
        hidden_size=8,
        upsampling_ratios=[4, 3, 2],
        codebook_size=16,
        sampling_rate=2400,
        target_bandwidths=[2.5],
        audio_channels=shape["channels"],
        use_causal_conv=not stereo,
        norm_type=shape["norm"],
        normalize=stereo,
        chunk_length_s=segment,
        overlap=0.0 if stereo else None,
    ).save_pretrained(tmp_path)

    codec = load_codec(tmp_path)
    wave = torch.randn(2, shape["channels"], 1100)
    codes = codec.encode(wave)
    frames = model.encode(wave)
    assert torch.equal(codes[:, stereo:], torch.cat([chunk for chunk, _ in frames], dim=-1))
    if stereo:  # their scales differ from ours by half a step of level 0 at most
        frames = [(chunk, codec._loudness(codes[:, 0, i * 20])) for i, (chunk, _) in enumerate(frames)]
    # With no overlap the original's overlap-add is the chunks one after another; its weights are made for one length.
    expected = torch.cat([model._decode_frame(frame) for frame in frames], dim=-1)
    torch.testing.assert_close(codec.decode(codes), expected, rtol=0, atol=1e-4)


def dac_name(name):
    """A name in the original DAC (without its sequential numbers' meaning) as transformers calls it."""
    number = r"(\d+)"
    snake_or_conv = {"0": "snake1", "1": "conv1", "2": "snake2", "3": "conv2"}

    def unit(match, first):
        return f"res_unit{int(match[1]) - first + 1}.{snake_or_conv[match[2]]}."

    encoder, decoder = name.startswith("encoder."), name.startswith("decoder.")
    if encoder and (match := re.match(rf"encoder\.block\.{number}\.block\.(.*)", name)):
        rest = re.sub(rf"^{number}\.block\.{number}\.", lambda m: unit(m, 0), match[2])
        rest = re.sub(r"^3\.", "snake1.", re.sub(r"^4\.", "conv1.", rest))
        return f"encoder.block.{int(match[1]) - 1}.{rest}"
    if decoder and (match := re.match(rf"decoder\.model\.{number}\.block\.(.*)", name)):
        rest = re.sub(rf"^{number}\.block\.{number}\.", lambda m: unit(m, 2), match[2])
        rest = re.sub(r"^0\.", "snake1.", re.sub(r"^1\.", "conv_t1.", rest))
        return f"decoder.block.{int(match[1]) - 1}.{rest}"
    if encoder or decoder:  # first convolution, (blocks), Snake, last convolution
        match = re.match(rf"(encoder|decoder)\.(?:block|model)\.{number}\.(.*)", name)
        last = 1 + len(RATES) + 1
        layer = {0: "conv1", last - 1: "snake1", last: "conv2"}[int(match[2])]
        return f"{match[1]}.{layer}.{match[3]}"
    return name


RATES = [2, 4, 5]


@torch.no_grad()
def test_dac_equals_the_original_package(tmp_path):
    original("dac.model.dac")
    dac = importlib.import_module("dac.model.dac")
    torch.manual_seed(0)
    model = dac.DAC(
        encoder_dim=4,
        encoder_rates=RATES,
        decoder_dim=32,
        decoder_rates=RATES[::-1],
        n_codebooks=3,
        codebook_size=16,
        codebook_dim=4,
        sample_rate=16000,
    ).eval()
    for value in model.parameters():  # the original starts its biases at zero and Snake at one
        value.add_(0.02 * torch.randn_like(value))
    for layer in model.modules():
        if hasattr(layer, "weight_g"):
            torch.nn.utils.remove_weight_norm(layer)
    tensors = {dac_name(name): value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    transformers.DacConfig(
        encoder_hidden_size=4,
        downsampling_ratios=RATES,
        decoder_hidden_size=32,
        n_codebooks=3,
        codebook_size=16,
        codebook_dim=4,
        sampling_rate=16000,
    ).save_pretrained(tmp_path)
    codec = load_codec(tmp_path)
    wave = torch.randn(2, 1, 390)
    latent, codes, *_ = model.encode(model.preprocess(wave, 16000))
    assert codes.shape == (2, 3, 10) and len(codes.unique()) > 4
    assert torch.equal(codec.encode(wave), codes)
    for levels in (1, 3):
        latent, _, _ = model.quantizer.from_codes(codes[:, :levels])
        expected = model.decode(latent)
        torch.testing.assert_close(
            codec.decode(codes[:, :levels])[..., : expected.shape[-1]], expected, rtol=0, atol=1e-4
        )
