"""The codec as a whole: shapes, causality, streams, folders, and what it refuses."""

import json

import pytest
import torch

import codec.model
from codec import SoundloomError
from codec.model import Codec, CodecConfig
from codec.quantize import QuantizerConfig
from codec.seanet import SEANetConfig
from codec.spectral import SpectralConfig

QUANTIZER = QuantizerConfig(num_levels=4, codebook_size=32)
SPECTRAL = SpectralConfig(
    window=96, hop=24, decoder_window=96, lookahead=72, latent_dim=8, encoder_dim=16, encoder_blocks=2,
    bottleneck_dim=16, bottleneck_blocks=1, decoder_dim=16, decoder_blocks=2, kernel=5,
)  # fmt: skip
SEANET = SEANetConfig(filters=4, ratios=(4, 3, 2, 2), latent_dim=8)


def make(network: str = "spectral", lookahead: int = 72) -> Codec:
    torch.manual_seed(0)
    spectral = SpectralConfig(**{**SPECTRAL.__dict__, "lookahead": lookahead})
    config = CodecConfig(sample_rate=2400, network=network, spectral=spectral, seanet=SEANET, quantizer=QUANTIZER)
    codec = Codec(config).eval()
    # random latents of an untrained network are tiny: spread the codebooks over them, or one code serves all
    with torch.no_grad():
        latent = codec.encoder(torch.randn(8, 1, 4800))
        codec.quantizer.start(latent.transpose(1, 2).reshape(-1, 8))
    return codec


@pytest.mark.parametrize("network", ["spectral", "seanet"])
@pytest.mark.parametrize("samples", [1, 47, 48, 49, 1000])
def test_shapes(network: str, samples: int) -> None:
    codec = make(network)
    codes = codec.encode(torch.randn(2, 1, samples))
    frames = -(-samples // 48)
    assert codes.shape == (2, 4, frames) and codes.dtype == torch.long
    for levels in (1, 4):
        assert codec.decode(codes[:, :levels]).shape == (2, 1, frames * 48)


@pytest.mark.parametrize("network", ["spectral", "seanet"])
@pytest.mark.parametrize("rows", [1, 3])
def test_long_sounds_are_taken_in_pieces_with_the_same_result(
    network: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = make(network)
    wave = torch.randn(rows, 1, 48 * 33 + 5)
    codes = ours.encode(wave)
    sound = ours.decode(codes)
    monkeypatch.setitem(codec.model._PIECE_SECONDS, network, 0.2)
    pieces: list[int] = []
    ours.encoder.register_forward_pre_hook(lambda _, given: pieces.append(given[0].shape[-1]))
    ours.encode(wave)
    assert len(pieces) == (4 if rows == 1 else 12) and sum(pieces) == wave.shape[-1]
    assert torch.equal(ours.encode(wave), codes)
    torch.testing.assert_close(ours.decode(codes), sound, atol=1e-5, rtol=0)


@pytest.mark.parametrize("network", ["spectral", "seanet"])
def test_autocast_changes_little(network: str) -> None:
    ours = make(network)
    codes = ours.encode(torch.randn(1, 1, 48 * 40))
    sound = ours.decode(codes)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours.encode(torch.randn(1, 1, 480)).shape == (1, 4, 10)
        rough = ours.decode(codes).float()
    assert (rough - sound).square().mean() < 1e-3 * sound.square().mean()


def test_rates() -> None:
    codec = make()
    assert (codec.hop_length, codec.frame_rate, codec.num_levels, codec.codebook_size) == (48, 50.0, 4, 32)
    assert codec.bitrate() == 50 * 4 * 5
    assert codec.bitrate(levels=1) == 250


@pytest.mark.parametrize("network", ["spectral", "seanet"])
def test_a_latent_has_no_gradient_from_later_frames(network: str) -> None:
    codec = make(network)
    wave = torch.randn(1, 1, 48 * 30, requires_grad=True)
    codec.encoder(wave)[..., 11].sum().backward()
    assert wave.grad[..., : 12 * 48].abs().sum() > 0
    assert wave.grad[..., 12 * 48 :].abs().sum() == 0


@pytest.mark.parametrize("network, lookahead", [("spectral", 0), ("spectral", 24), ("spectral", 72), ("seanet", 0)])
def test_a_sample_has_no_gradient_from_frames_past_the_lookahead(network: str, lookahead: int) -> None:
    codec = make(network, lookahead)
    latent = torch.randn(1, 8, 30, requires_grad=True)
    codec.decoder(latent)[..., 10 * 48 - 1].sum().backward()
    last = (10 * 48 - 1 + lookahead) // 48
    assert latent.grad[..., : last + 1].abs().sum() > 0
    assert latent.grad[..., last + 1 :].abs().sum() == 0


def test_a_changed_future_leaves_codes_and_samples() -> None:
    codec = make()
    wave = torch.randn(1, 1, 48 * 20)
    changed = wave.clone()
    changed[..., 48 * 12 :] += 1
    before, after = codec.encode(wave), codec.encode(changed)
    assert torch.equal(before[..., :12], after[..., :12])
    assert not torch.equal(before, after)
    final = 12 * 48 - codec.lookahead
    torch.testing.assert_close(codec.decode(before)[..., :final], codec.decode(after)[..., :final])


@pytest.mark.parametrize("network", ["spectral", "seanet"])
@pytest.mark.parametrize("sizes", [(1, 5, 700, 0, 48, 300), (48,) * 22, (1054,)])
def test_chunks_give_the_codes_and_samples_of_the_whole(network: str, sizes: tuple[int, ...]) -> None:
    codec = make(network)
    wave = torch.randn(2, 1, sum(sizes))
    codes = codec.encode(wave)
    whole = codec.decode(codes)
    state = codec.init_state(2)
    pieces = [codec.encode_chunk(w, state, last=i == len(sizes) - 1) for i, w in enumerate(wave.split(sizes, -1))]
    assert torch.equal(torch.cat(pieces, -1), codes)
    state = codec.init_state(2)
    frames = [1, 0, 3, codes.shape[-1] - 4]
    parts = [codec.decode_chunk(c, state) for c in codes.split(frames, -1)]
    parts.append(codec.decode_chunk(codes[..., :0], state, last=True))
    torch.testing.assert_close(torch.cat(parts, -1), whole, rtol=1e-4, atol=1e-5)


def test_a_batch_gives_what_each_gives_alone() -> None:
    codec = make()
    wave = torch.randn(3, 1, 960)
    together = codec.encode(wave)
    assert all(torch.equal(codec.encode(wave[i : i + 1])[0], together[i]) for i in range(3))


@pytest.mark.parametrize("network", ["spectral", "seanet"])
def test_a_saved_codec_is_the_same_codec(network: str, tmp_path) -> None:
    codec = make(network)
    codec.save_pretrained(tmp_path)
    again = Codec.from_pretrained(tmp_path)
    wave = torch.randn(1, 1, 500)
    assert again.config.spectral == codec.config.spectral and again.config.quantizer == codec.config.quantizer
    assert again.fingerprint == codec.fingerprint
    assert torch.equal(again.encode(wave), codec.encode(wave))
    assert torch.equal(again.decode(codec.encode(wave)), codec.decode(codec.encode(wave)))


def test_the_fingerprint_is_that_of_the_codes() -> None:
    codec = make()
    before = codec.fingerprint
    with torch.no_grad():
        next(codec.decoder.parameters()).add_(1)
    assert codec.fingerprint == before
    with torch.no_grad():
        next(codec.encoder.parameters()).add_(1e-3)
    assert codec.fingerprint != before


def test_half_precision_on_disk_has_a_fingerprint_of_its_own_that_lasts(tmp_path) -> None:
    make().save_pretrained(tmp_path / "a", torch.float16)
    once = Codec.from_pretrained(tmp_path / "a")
    once.save_pretrained(tmp_path / "b", torch.float16)
    assert Codec.from_pretrained(tmp_path / "b").fingerprint == once.fingerprint


def test_a_rounded_decoder_keeps_the_codes(tmp_path):
    codec = make()
    codec.save_pretrained(tmp_path / "a", torch.float16, keep_codes=True)
    codec.save_pretrained(tmp_path / "b", torch.float16)
    kept, other = Codec.from_pretrained(tmp_path / "a"), Codec.from_pretrained(tmp_path / "b")
    assert kept.fingerprint == codec.fingerprint != other.fingerprint
    wave = torch.randn(1, 1, 960)
    assert torch.equal(kept.encode(wave), codec.encode(wave))
    sound = codec.decode(codec.encode(wave))
    assert 0 < (kept.decode(kept.encode(wave)) - sound).abs().max() < 1e-2 * sound.abs().max()


@pytest.mark.parametrize(
    "codes, message",
    [
        (torch.zeros(1, 5, 3, dtype=torch.long), "n from 1 to 4"),
        (torch.zeros(5, 3, dtype=torch.long), "shape"),
        (torch.full((1, 2, 3), 32), "0 to 31"),
        (torch.full((1, 2, 3), -1), "-1"),
    ],
)
def test_wrong_codes_are_refused(codes: torch.Tensor, message: str) -> None:
    with pytest.raises(SoundloomError, match=message):
        make().decode(codes)


def test_a_wrong_wave_is_refused() -> None:
    with pytest.raises(SoundloomError, match=r"\[B, 1, N\] at 2400 Hz"):
        make().encode(torch.randn(1, 2, 500))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": "other"}, "not a codec of soundloom"),
        ({"version": 2}, "version"),
        ({"colour": "blue"}, "colour"),
        ({"spectral": {"hop": 0}}, "hop"),
        ({"network": "cubist"}, "network"),
        ({"quantizer": {"num_levels": "many"}}, "num_levels"),
    ],
)
def test_a_wrong_folder_is_refused_by_name(change: dict, message: str, tmp_path) -> None:
    make().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SoundloomError, match=message) as error:
        Codec.from_pretrained(tmp_path)
    assert "config.json" in str(error.value)


def test_missing_and_broken_files_are_named(tmp_path) -> None:
    with pytest.raises(SoundloomError, match=r"config\.json is missing"):
        Codec.from_pretrained(tmp_path)
    make().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SoundloomError, match=r"model\.safetensors"):
        Codec.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(SoundloomError, match=r"model\.safetensors"):
        Codec.from_pretrained(tmp_path)
