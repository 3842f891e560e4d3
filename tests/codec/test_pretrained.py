"""load_codec: our own folders, published checkpoints as our network, names, and everything that is refused."""

import json
import shutil

import pytest
import torch
from published_codecs import ENCODEC, noise, write
from safetensors.torch import load_file, save_file

from codec import SoundloomError, pretrained
from codec.encodec_weights import convert_encodec
from codec.mimi import MimiAdapter
from codec.model import Codec, CodecConfig
from codec.pretrained import AudioCodec, load_codec
from codec.quantize import QuantizerConfig
from codec.seanet import SEANetConfig


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


def test_shipped_codecs_by_name(tmp_path, monkeypatch):
    config = SEANetConfig(filters=2, ratios=(4, 2), latent_dim=4, lstm_layers=0, weight_norm=False)
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path / "weights" / "speech-24khz")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "music").mkdir()  # recordings, say: no codec, so the shipped one is meant
    with pytest.raises(SoundloomError, match=r"codec music is missing from this installation: no folder .*music-24khz"):
        load_codec("music")
    made = {}
    for name in ("speech-24khz", "music-24khz"):
        made[name] = Codec(CodecConfig(network="seanet", seanet=config, quantizer=QuantizerConfig(2, 8)))
        made[name].save_pretrained(tmp_path / "weights" / name)
    for name, folder in (("music", "music-24khz"), ("music-24khz", "music-24khz"), ("speech", "speech-24khz")):
        assert load_codec(name).fingerprint == made[folder].fingerprint
    made["speech-24khz"].save_pretrained(tmp_path / "music")
    assert load_codec("music").fingerprint == made["speech-24khz"].fingerprint


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "/no/where", "a/b/c", "../no-such-place", "", "facebook/"])
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
    assert asked == [("kyutai/mimi", ["config.json", "model*.safetensors*", "decoders/*.safetensors"])]


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
