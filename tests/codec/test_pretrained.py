"""Checkpoints that transformers writes, with random weights, opened by load_codec and held against transformers."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from codec import SoundloomError, pretrained
from codec.encodec_weights import convert_encodec
from codec.model import Codec, CodecConfig
from codec.pretrained import AudioCodec, load_codec
from codec.quantize import QuantizerConfig
from codec.seanet import SEANetConfig
from codec.transformers_codecs import ADAPTERS, EncodecAdapter, MimiAdapter, TransformersCodec, import_transformers

torch.set_num_threads(1)
transformers = import_transformers()

ENCODEC = {
    "num_filters": 2,
    "upsampling_ratios": [4, 3, 2],
    "hidden_size": 6,
    "num_lstm_layers": 1,
    "codebook_size": 16,
    "sampling_rate": 2400,
    "target_bandwidths": [0.4, 1.2, 2.4],  # 100 frames a second of 4 bits: 1, 3 and 6 levels
}
ENCODEC_48 = {
    **ENCODEC,
    "audio_channels": 2,
    "normalize": True,
    "chunk_length_s": 0.2,
    "overlap": 0.01,
    "norm_type": "time_group_norm",
    "use_causal_conv": False,
    "codebook_size": 64,
    "target_bandwidths": [1.2, 3.6],  # 2 and 6 levels of 6 bits
}
DAC = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "downsampling_ratios": [2, 4, 5], "n_codebooks": 3}
DAC |= {"codebook_size": 16, "codebook_dim": 4, "sampling_rate": 16000}
MIMI = {
    "num_filters": 2,
    "upsampling_ratios": [4, 3, 2],
    "hidden_size": 16,
    "sampling_rate": 2400,
    "codebook_size": 16,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "num_quantizers": 4,
    "upsample_groups": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 5,
}


def write(folder, kind, settings, seed=0):
    """Save a model of transformers with random weights and codebooks, and return it."""
    torch.manual_seed(seed)
    config_class, model_class = (getattr(transformers, kind + part) for part in ("Config", "Model"))
    model = model_class(config_class(**settings)).eval()
    for name, value in model.named_buffers():
        if name.endswith((".embed", ".embed_sum")):
            value.normal_()  # transformers starts these at zero, and then any codes agree
    model.save_pretrained(folder)
    return model


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def encodec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodec")
    return folder, write(folder, "Encodec", ENCODEC)


@pytest.fixture(scope="module")
def encodec_48(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodec48")
    return folder, write(folder, "Encodec", ENCODEC_48)


@pytest.fixture(scope="module")
def mimi(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimi")
    return folder, write(folder, "Mimi", MIMI)


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


@pytest.mark.parametrize("native", [True, False])
def test_encodec_face(encodec, native):
    codec = load_codec(encodec[0], native=native)
    assert isinstance(codec, AudioCodec)
    assert (codec.sample_rate, codec.channels, codec.hop_length, codec.frame_rate) == (2400, 1, 24, 100)
    assert (codec.codebook_size, codec.num_levels) == (16, 6)
    assert codec.bitrate() == 2400 and codec.bitrate(levels=3) == 1200
    assert len(codec.fingerprint) == 64 and codec.fingerprint == load_codec(encodec[0], native=native).fingerprint


def test_native_encodec_streams_the_same_codes_and_sound(encodec):
    codec = load_codec(encodec[0])
    wave = noise(2, 1, 24 * 20 + 7)
    codes, sound = codec.encode(wave), codec.decode(codec.encode(wave))
    state = codec.init_state(2)
    pieces = [codec.encode_chunk(chunk, state) for chunk in wave.split(24 * 3, dim=-1)]
    pieces.append(codec.encode_chunk(wave[..., :0], state, last=True))
    assert torch.equal(torch.cat(pieces, dim=-1), codes)
    played = [codec.decode_chunk(chunk, state) for chunk in codes.split(2, dim=-1)]
    played.append(codec.decode_chunk(codes[..., :0], state, last=True))
    torch.testing.assert_close(torch.cat(played, dim=-1), sound, rtol=0, atol=1e-5)


def test_native_encodec_computes_in_bfloat16(encodec):
    exact, half = load_codec(encodec[0]), load_codec(encodec[0], dtype=torch.bfloat16)
    wave = noise(2, 1, 24 * 50)
    codes = exact.encode(wave)
    assert (half.encode(wave)[:, 0] == codes[:, 0]).float().mean() > 0.8
    sound, rounded = exact.decode(codes), half.decode(codes)
    assert rounded.dtype == torch.float32 and not torch.equal(sound, rounded)
    assert (rounded - sound).square().sum() < 1e-3 * sound.square().sum()
    state = half.init_state(2)
    played = [half.decode_chunk(codes[..., :20], state), half.decode_chunk(codes[..., 20:], state, last=True)]
    assert (torch.cat(played, -1) - rounded).square().sum() < 1e-3 * sound.square().sum()
    assert half.fingerprint != exact.fingerprint  # other codes are another codec's
    for name, native, dtype, message in (
        (None, True, torch.bfloat16, "transforms need float32"),
        (encodec[0], False, torch.bfloat16, "transformers' network"),
        (encodec[0], True, torch.float16, "in float32 or bfloat16"),
    ):
        with pytest.raises(SoundloomError, match=message):
            load_codec(name, native=native, dtype=dtype)


def test_native_encodec_saves_as_ours_and_trains(encodec, tmp_path):
    codec = load_codec(encodec[0])
    codec.save_pretrained(tmp_path / "ours")
    again = load_codec(tmp_path / "ours")
    wave = noise(1, 1, 300)
    assert isinstance(again, Codec) and again.fingerprint == codec.fingerprint
    assert torch.equal(again.encode(wave), codec.encode(wave))
    trained = convert_encodec(encodec[0], weight_norm=True).train()
    quantized = trained.quantizer(trained.encoder(wave))
    trained.decoder(quantized.latent).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.parameters())


def test_native_encodec_keeps_the_codebooks_where_training_goes_on(encodec):
    codec = convert_encodec(encodec[0])
    for level in codec.quantizer.levels:
        torch.testing.assert_close(level.total / level.usage[:, None], level.codebook)
        assert (level.usage >= 1).all()


def test_encodec_with_the_names_of_older_releases(encodec, tmp_path):
    shutil.copy(encodec[0] / "config.json", tmp_path)
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in load_file(encodec[0] / "model.safetensors").items()
    }
    assert any(name.endswith("weight_g") for name in old)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    wave = noise(1, 1, 500)
    expected = load_codec(encodec[0])
    for native in (True, False):
        assert torch.equal(load_codec(tmp_path, native=native).encode(wave), expected.encode(wave))
    assert load_codec(tmp_path).fingerprint == expected.fingerprint


@torch.no_grad()
def test_not_causal_encodec_is_native_on_the_whole(tmp_path):
    reference = write(tmp_path, "Encodec", {**ENCODEC, "use_causal_conv": False, "use_conv_shortcut": False})
    codec = load_codec(tmp_path)
    wave = noise(1, 1, 500)
    assert isinstance(codec, Codec)
    assert torch.equal(codec.encode(wave), reference.encode(wave, bandwidth=2.4).audio_codes[0])
    with pytest.raises(SoundloomError, match="not causal"):
        codec.init_state()


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


def test_our_own_folder_and_the_shipped_default(tmp_path, monkeypatch):
    config = CodecConfig(
        network="seanet",
        seanet=SEANetConfig(filters=2, ratios=(4, 2), latent_dim=4, lstm_layers=0, weight_norm=False),
        quantizer=QuantizerConfig(num_levels=2, codebook_size=8),
    )
    ours = Codec(config)
    ours.save_pretrained(tmp_path / "ours")
    assert load_codec(str(tmp_path / "ours")).fingerprint == ours.fingerprint
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path / "ours")
    assert load_codec().fingerprint == ours.fingerprint
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path / "nowhere")
    with pytest.raises(SoundloomError, match="missing from this installation"):
        load_codec()


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "/no/where", "a/b/c", "../x", "", "facebook/"])
def test_names_that_are_nothing(name):
    with pytest.raises(SoundloomError, match=r"owner/name|no codec|no config.json"):
        load_codec(name)


def test_a_hub_name_out_of_reach_is_an_error_of_ours(monkeypatch):
    import huggingface_hub

    def fail(*args, **kwargs):
        raise OSError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(SoundloomError, match=r"'owner/name'.*no route$"):
        load_codec("owner/name")


def test_a_hub_name_opens_what_the_hub_gives(monkeypatch, mimi):
    import huggingface_hub

    asked = []

    def give(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(mimi[0])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    assert isinstance(load_codec("kyutai/mimi"), MimiAdapter)
    assert asked == [("kyutai/mimi", ["config.json", "model*.safetensors*"])]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "JSON object"),
        ("{}", "encodec, dac, mimi"),
        ('{"model_type": "llama"}', "'llama'"),
        ('{"model_type": ["encodec"]}', "no codec"),
        ('{"format": "soundloom-codec"}', "unknown version"),
        ('{"model_type": "encodec"}', "does not convert|cannot be opened|no model.safetensors"),
        ('{"model_type": "mimi", "auto_map": {"AutoModel": "evil.Evil"}}', "no model.safetensors"),
    ],
)
def test_broken_folders_say_what_is_wrong(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SoundloomError, match=message):
        load_codec(tmp_path)


def test_a_folder_without_config_and_a_file(tmp_path):
    with pytest.raises(SoundloomError, match=r"config\.json is missing"):
        load_codec(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(SoundloomError, match="is a file"):
        load_codec(path)


@pytest.mark.parametrize("kind", ["encodec", "encodec_48", "mimi"])
@pytest.mark.parametrize("native", [True, False])
def test_a_checkpoint_that_lacks_a_weight_is_refused(kind, native, request, tmp_path):
    folder, _ = request.getfixturevalue(kind)
    shutil.copy(folder / "config.json", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in tensors if n.startswith("encoder."))
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SoundloomError):
        load_codec(tmp_path, native=native)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("kind", "field"), [("encodec", "num_filters"), ("encodec_48", "hidden_size"), ("mimi", "num_filters")]
)
def test_a_config_that_describes_more_than_the_weights_is_refused_before_allocation(
    kind, field, native, request, tmp_path
):
    folder, _ = request.getfixturevalue(kind)
    shutil.copy(folder / "model.safetensors", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config[field] = 1 << 20
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SoundloomError):
        load_codec(tmp_path, native=native)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("encodec", "num_residual_layers", 10**9),
        ("encodec", "target_bandwidths", [1e12]),
        ("encodec_48", "num_lstm_layers", 10**9),
        ("mimi", "num_hidden_layers", 10**9),
        ("encodec", "upsampling_ratios", "many"),
        ("encodec", "sampling_rate", None),
        ("mimi", "hidden_size", -1),
    ],
)
def test_impossible_configs_are_refused_at_once(kind, field, value, native, request, tmp_path):
    folder, _ = request.getfixturevalue(kind)
    shutil.copy(folder / "model.safetensors", tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SoundloomError):
        load_codec(tmp_path, native=native)


def test_weights_in_a_pickle_alone_are_not_read(encodec, tmp_path):
    shutil.copy(encodec[0] / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n")
    for native in (True, False):
        with pytest.raises(SoundloomError, match="safetensors"):
            load_codec(tmp_path, native=native)


def test_wrong_inputs_are_refused(encodec_48):
    codec = load_codec(encodec_48[0])
    for wave in (torch.zeros(1, 1, 100), torch.zeros(2, 100), torch.zeros(1, 2, 0)):
        with pytest.raises(SoundloomError, match=r"\[B, 2, N\]"):
            codec.encode(wave)
    for codes in (torch.zeros(1, 8, 3), torch.zeros(1, 0, 3), torch.zeros(1, 7, 0)):
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
