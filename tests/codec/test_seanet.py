import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import codec.seanet
from codec import SoundloomError
from codec.conv import fold_weight_norm
from codec.seanet import SEANetConfig, SEANetDecoder, SEANetEncoder, encodec_24khz
from codec.transformers_codecs import import_transformers

torch.set_num_threads(1)

TINY = SEANetConfig(filters=2, ratios=(4, 3, 2), latent_dim=5, residual_layers=2, lstm_layers=1)
REFLECT = dataclasses.replace(TINY, pad_mode="reflect")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def in_chunks(net, x, sizes):
    state = net.init_state(x.shape[0])
    pieces = torch.split(x, [*sizes, x.shape[-1] - sum(sizes)], dim=-1)
    return torch.cat([*(net(piece, state) for piece in pieces), net.flush(state)], dim=-1)


@pytest.mark.parametrize("config", [TINY, REFLECT, dataclasses.replace(TINY, lstm_layers=0, channels=2)])
@torch.no_grad()
def test_shapes_and_lengths(config):
    encoder, decoder = SEANetEncoder(config), SEANetDecoder(config)
    assert encoder.hop_length == decoder.hop_length == 24 and encoder.latent_dim == decoder.latent_dim == 5
    for samples, frames in [(1, 1), (23, 1), (24, 1), (25, 2), (240, 10)]:
        latent = encoder(torch.randn(2, config.channels, samples))
        assert latent.shape == (2, 5, frames)
        assert decoder(latent).shape == (2, config.channels, frames * 24)


@pytest.mark.parametrize("config", [TINY, REFLECT])
@settings(max_examples=25, deadline=None)
@given(samples=st.integers(1, 400), frames=st.lists(st.integers(0, 5), max_size=6), ragged=st.booleans())
@torch.no_grad()
def test_encoder_in_any_chunks_equals_the_whole(config, samples, frames, ragged):
    torch.manual_seed(0)
    encoder = SEANetEncoder(config)
    sizes = [24 * size + (5 if ragged else 0) for size in frames]
    wave = torch.randn(1, 1, samples + sum(sizes))
    torch.testing.assert_close(in_chunks(encoder, wave, sizes), encoder(wave), rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [TINY, REFLECT])
@settings(max_examples=25, deadline=None)
@given(frames=st.integers(1, 12), sizes=st.lists(st.integers(0, 5), max_size=6))
@torch.no_grad()
def test_decoder_in_any_chunks_equals_the_whole(config, frames, sizes):
    torch.manual_seed(0)
    decoder = SEANetDecoder(config)
    latent = torch.randn(2, 5, frames + sum(sizes))
    torch.testing.assert_close(in_chunks(decoder, latent, sizes), decoder(latent), rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [TINY, REFLECT])
@pytest.mark.parametrize("rows", [1, 2])
@torch.no_grad()
def test_outer_layers_run_in_pieces_with_the_same_result(config, rows, monkeypatch):
    encoder, decoder = SEANetEncoder(config), SEANetDecoder(config)
    wave, latent = torch.randn(rows, 1, 24 * 50 + 7), torch.randn(rows, 5, 50)
    expected, sound = encoder(wave), decoder(latent)
    seen = []
    for first in (encoder.layers[0], decoder.layers[4]):
        first.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-1]))
    monkeypatch.setattr(codec.seanet, "_PIECE_BYTES", 4 * config.filters * 24 * 12)
    torch.testing.assert_close(encoder(wave), expected, rtol=0, atol=1e-5)
    assert max(seen) == 24 * 12 // rows
    torch.testing.assert_close(decoder(latent), sound, rtol=0, atol=1e-5)
    torch.testing.assert_close(in_chunks(encoder, wave, [700, 1, 300]), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(in_chunks(decoder, latent, [20, 1, 25]), sound, rtol=0, atol=1e-5)
    seen.clear()
    with torch.enable_grad():
        torch.testing.assert_close(encoder(wave), expected, rtol=0, atol=1e-5)
    assert len(seen) == 1  # whole where gradients are recorded


@torch.no_grad()
def test_a_stream_with_zeros_gives_a_frame_per_frame():
    encoder, decoder = SEANetEncoder(TINY), SEANetDecoder(TINY)
    encoding, decoding = encoder.init_state(3), decoder.init_state(3)
    for _ in range(3):
        latent = encoder(torch.randn(3, 1, 24), encoding)
        assert latent.shape == (3, 5, 1)
        assert decoder(latent, decoding).shape == (3, 1, 24)
    assert encoder.flush(encoding).shape == (3, 5, 0)
    assert decoder.flush(decoding).shape == (3, 1, 0)
    assert encoding.steps == 72 and decoding.steps == 3
    assert encoder.start_frames == decoder.start_frames == 1


@pytest.mark.parametrize("net_class", [SEANetEncoder, SEANetDecoder])
@torch.no_grad()
def test_a_reflecting_stream_starts_after_start_frames(net_class):
    net = net_class(REFLECT)
    assert net.start_frames == 7
    state = net.init_state()
    per_frame = 24 if net_class is SEANetEncoder else 1
    channels = 1 if net_class is SEANetEncoder else 5
    out = [net(torch.randn(1, channels, per_frame), state).shape[-1] for _ in range(9)]
    unit = 24 // per_frame
    assert out[:6] == [0] * 6 and out[6] > 0
    assert sum(out) + net.flush(state).shape[-1] == 9 * unit


def test_no_frame_reads_a_later_sample_by_gradient():
    encoder, decoder = SEANetEncoder(TINY), SEANetDecoder(TINY)
    for frame in (0, 1, 4):
        wave = torch.randn(1, 1, 24 * 8, requires_grad=True)
        (gradient,) = torch.autograd.grad(encoder(wave)[0, :, frame].sum(), wave)
        assert gradient[..., : 24 * (frame + 1)].any() and not gradient[..., 24 * (frame + 1) :].any()
        latent = torch.randn(1, 5, 8, requires_grad=True)
        (gradient,) = torch.autograd.grad(decoder(latent)[0, :, 24 * frame : 24 * (frame + 1)].sum(), latent)
        assert gradient[..., : frame + 1].any() and not gradient[..., frame + 1 :].any()


@pytest.mark.parametrize(("config", "first"), [(TINY, 0), (REFLECT, 7)])
@torch.no_grad()
def test_changing_the_future_leaves_the_past(config, first):
    encoder, decoder = SEANetEncoder(config), SEANetDecoder(config)
    wave, latent = torch.randn(1, 1, 24 * 12), torch.randn(1, 5, 12)
    for frame in range(first, 12):
        changed = wave.clone()
        changed[..., 24 * frame :] += 1
        kept = encoder(changed) == encoder(wave)
        assert kept[..., :frame].all() and not kept[..., frame:].all()
        changed = latent.clone()
        changed[..., frame:] += 1
        kept = decoder(changed) == decoder(latent)
        assert kept[..., : 24 * frame].all() and not kept[..., 24 * frame :].all()


@torch.no_grad()
def test_zeros_after_the_end_change_nothing_before_it():
    encoder = SEANetEncoder(TINY)
    wave = torch.randn(1, 1, 100)
    padded = torch.nn.functional.pad(wave, (0, 140))
    torch.testing.assert_close(encoder(padded)[..., :5], encoder(wave), rtol=0, atol=1e-6)


@torch.no_grad()
def test_streams_in_one_batch_do_not_touch_each_other():
    encoder = SEANetEncoder(TINY)
    wave = torch.randn(3, 1, 96)
    alone = torch.cat([in_chunks(encoder, row[None], [24, 48]) for row in wave])
    torch.testing.assert_close(in_chunks(encoder, wave, [24, 48]), alone, rtol=0, atol=1e-5)


def test_every_parameter_learns_with_weight_norm_and_output_stays_when_folded():
    encoder, decoder = SEANetEncoder(TINY), SEANetDecoder(TINY)
    wave = torch.randn(1, 1, 240)
    out = decoder(encoder(wave))
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in (*encoder.parameters(), *decoder.parameters()))
    fold_weight_norm(encoder)
    fold_weight_norm(decoder)
    with torch.no_grad():
        torch.testing.assert_close(decoder(encoder(wave)), out, rtol=0, atol=1e-5)
    plain = SEANetEncoder(dataclasses.replace(TINY, weight_norm=False))
    plain.load_state_dict(encoder.state_dict())


@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@pytest.mark.parametrize("samples", [24 * 60, 24 * 60 + 5])
@torch.no_grad()
def test_a_network_that_is_not_causal_runs_in_overlapping_pieces(pad_mode, samples, monkeypatch):
    config = dataclasses.replace(REFLECT, causal=False, pad_mode=pad_mode, lstm_layers=1)
    encoder, decoder = SEANetEncoder(config), SEANetDecoder(config)
    wave = torch.randn(2, 1, samples)
    latent = encoder(wave)
    sound = decoder(latent)
    monkeypatch.setattr(codec.seanet, "_PIECE_BYTES", 4 * 2 * config.filters * 24 * 7)
    longest = []
    encoder.layers[0].register_forward_pre_hook(lambda _, given: longest.append(given[0].shape[-1]))
    torch.testing.assert_close(encoder(wave), latent, rtol=0, atol=1e-6)
    torch.testing.assert_close(decoder(latent), sound, rtol=0, atol=1e-6)
    assert len(longest) == 9 and max(longest) < samples / 2


def test_the_published_shape():
    transformers = import_transformers()
    with torch.device("meta"):
        encoder, decoder = SEANetEncoder(encodec_24khz()), SEANetDecoder(encodec_24khz())
        published = transformers.EncodecModel(transformers.EncodecConfig())
    assert encoder.hop_length == 320 and encoder.start_frames == 7
    for ours, theirs in [(encoder, published.encoder), (decoder, published.decoder)]:
        shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
        assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes


def test_not_causal_runs_only_whole():
    encoder = SEANetEncoder(dataclasses.replace(REFLECT, causal=False))
    assert encoder(torch.randn(1, 1, 100)).shape == (1, 5, 5)
    with pytest.raises(SoundloomError, match="not causal"):
        encoder.init_state()


@pytest.mark.parametrize(
    ("field", "value"),
    [("ratios", ()), ("ratios", (2, 0)), ("pad_mode", "wrap"), ("filters", 0), ("lstm_layers", -1), ("compress", 3)],
)
def test_impossible_configs_are_refused(field, value):
    with pytest.raises(SoundloomError, match=field):
        SEANetConfig(**{field: value})


def test_wrong_inputs_are_refused():
    with pytest.raises(SoundloomError, match=r"\[batch, 1, samples\]"):
        SEANetEncoder(TINY)(torch.zeros(1, 2, 100))
    with pytest.raises(SoundloomError, match=r"\[batch, 5, frames\]"):
        SEANetDecoder(TINY)(torch.zeros(1, 4, 10))


@torch.no_grad()
def test_equal_to_transformers_encodec():
    transformers = import_transformers()
    published = transformers.EncodecConfig(
        num_filters=2, upsampling_ratios=[4, 3, 2], hidden_size=5, num_lstm_layers=1, codebook_size=4
    )
    reference = transformers.EncodecModel(published).eval()
    config = dataclasses.replace(REFLECT, residual_layers=1)
    encoder, decoder = SEANetEncoder(config), SEANetDecoder(config)
    encoder.load_state_dict(reference.encoder.state_dict())
    decoder.load_state_dict(reference.decoder.state_dict())
    for samples in (1, 5, 24, 100, 245):
        wave = torch.randn(2, 1, samples)
        latent = reference.encoder(wave)
        torch.testing.assert_close(encoder(wave), latent, rtol=0, atol=1e-5)
        torch.testing.assert_close(decoder(latent), reference.decoder(latent), rtol=0, atol=1e-5)
