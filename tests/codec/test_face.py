"""What every codec, ours or transformers', takes and refuses, and that its results can be used in training."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from published_codecs import DAC, ENCODEC_48, MIMI, our_codec, write

from codec import SoundloomError
from codec.pretrained import AudioCodec, load_codec

pytestmark = pytest.mark.filterwarnings("ignore:this EnCodec's chunks overlap")


@pytest.fixture(scope="module", params=["spectral", "seanet", "Encodec", "Dac", "Mimi"])
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AudioCodec]:
    if request.param in ("spectral", "seanet"):
        yield our_codec(request.param)
        return
    folder = tmp_path_factory.mktemp(request.param)
    write(folder, request.param, {"Encodec": ENCODEC_48, "Dac": DAC, "Mimi": MIMI}[request.param])
    yield load_codec(folder)


def wave_for(codec: AudioCodec, samples: int = 300, rows: int = 2) -> torch.Tensor:
    return 0.1 * torch.randn(rows, codec.channels, samples, generator=torch.Generator().manual_seed(1))


def test_codes_and_waves_can_be_used_in_training(codec: AudioCodec) -> None:
    codes = codec.encode(wave_for(codec))
    table = torch.nn.Embedding(codec.codebook_size, 4)
    table(codes[:, 0]).square().sum().backward()
    head = torch.nn.Linear(4, codec.codebook_size)
    F.cross_entropy(head(torch.randn(codes.shape[2], 4)), codes[0, 0]).backward()
    layer = torch.nn.Conv1d(codec.channels, 1, 3)
    layer(codec.decode(codes)).square().sum().backward()
    assert table.weight.grad is not None and head.weight.grad is not None and layer.weight.grad is not None


@pytest.mark.parametrize("network", ["spectral", "seanet"])
def test_latents_and_chunks_can_be_used_in_training(network: str) -> None:
    ours = our_codec(network)
    layer = torch.nn.Conv1d(1, 1, 3)
    state = ours.init_state()
    codes = ours.encode_chunk(wave_for(ours, rows=1), state)
    latent = ours.quantizer.decode(codes)
    waves = [ours.decode_latent(latent), ours.decode_chunk(codes, state), ours.decode_latent_chunk(latent, state, True)]
    sum(layer(wave).sum() for wave in waves).backward()
    assert layer.weight.grad is not None and torch.nn.Embedding(16, 2)(codes[0]).requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_float_type_is_taken(codec: AudioCodec, dtype: torch.dtype) -> None:
    wave = wave_for(codec).to(dtype)
    assert torch.equal(codec.encode(wave), codec.encode(wave.float()))


@pytest.mark.parametrize(
    ("dtype", "how"),
    [
        (torch.int16, "divide by 32768"),
        (torch.int32, "divide by 2147483648"),
        (torch.uint8, "subtract 128 and divide by 128"),
        (torch.int64, "divide by the largest value"),
        (torch.bool, "floats from -1 to 1"),
        (torch.complex64, "floats from -1 to 1"),
    ],
)
def test_other_samples_are_refused_with_how_to_scale_them(codec: AudioCodec, dtype: torch.dtype, how: str) -> None:
    with pytest.raises(SoundloomError, match=how):
        codec.encode(wave_for(codec).to(dtype))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30])
def test_samples_that_are_no_sound_are_refused_with_their_place(codec: AudioCodec, value: float) -> None:
    wave = wave_for(codec)
    wave[1, 0, 123] = value
    with pytest.raises(SoundloomError, match="in row 1, channel 0, sample 123"):
        codec.encode(wave)


def test_empty_waves_and_codes_give_empty_results(codec: AudioCodec) -> None:
    K, C = codec.num_levels, codec.channels
    assert codec.encode(torch.zeros(2, C, 0)).shape == (2, K, 0)
    assert codec.encode(torch.zeros(0, C, 480)).shape[:2] == (0, K)
    assert codec.decode(torch.zeros(2, K, 0, dtype=torch.long)).shape == (2, C, 0)
    assert codec.decode(torch.zeros(0, K, 3, dtype=torch.long)).shape == (0, C, 3 * codec.hop_length)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16])
def test_codes_of_every_integer_type_decode(codec: AudioCodec, dtype: torch.dtype) -> None:
    codes = torch.randint(codec.codebook_size, (1, codec.num_levels, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(codec.decode(codes.to(dtype)), codec.decode(codes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_codes_that_are_no_integers_are_refused(codec: AudioCodec, dtype: torch.dtype) -> None:
    with pytest.raises(SoundloomError, match="takes integers"):
        codec.decode(torch.zeros(1, codec.num_levels, 4, dtype=dtype))


def test_arrays_are_refused_by_name(codec: AudioCodec) -> None:
    with pytest.raises(SoundloomError, match="ndarray; give a torch tensor"):
        codec.encode(wave_for(codec).numpy())  # type: ignore[arg-type]
    with pytest.raises(SoundloomError, match="ndarray; give a torch tensor"):
        codec.decode(torch.zeros(1, 1, 1).long().numpy())  # type: ignore[arg-type]


def test_a_stream_refuses_other_batches_and_has_an_end(codec: AudioCodec) -> None:
    if not codec.streams:
        with pytest.raises(SoundloomError, match="does not stream"):
            codec.init_state()
        return
    state, codes = codec.init_state(2), codec.encode(wave_for(codec))
    with pytest.raises(SoundloomError, match="3 rows in a stream of 2"):
        codec.encode_chunk(wave_for(codec, rows=3), state)
    with pytest.raises(SoundloomError, match="3 rows in a stream of 2"):
        codec.decode_chunk(codes[:1].expand(3, -1, -1), state)
    assert torch.equal(codec.encode_chunk(wave_for(codec), state, last=True), codes)  # errors left no trace
    with pytest.raises(SoundloomError, match="encoding: this stream has ended"):
        codec.encode_chunk(wave_for(codec), state)
    codec.decode_chunk(codes, state, last=True)  # the other direction goes its own way
    with pytest.raises(SoundloomError, match="decoding: this stream has ended"):
        codec.decode_chunk(codes, state)


@pytest.mark.parametrize("seconds", [8, 12, 30])
@pytest.mark.parametrize("rows", [1, 2], ids=["mono", "stereo"])  # MusicGen's channels are rows of a batch
def test_a_network_that_is_not_causal_runs_on_the_whole(seconds: int, rows: int) -> None:
    ours = our_codec("seanet", causal=False)
    wave = wave_for(ours, seconds * 2400, rows)
    codes = ours.encode(wave)
    whole = ours.encoder(wave).detach()
    assert torch.equal(codes, ours.quantizer.encode(whole))
    sound = ours.decode(codes)
    assert sound.shape == wave.shape
    with torch.no_grad():
        assert torch.equal(sound, ours.decoder(ours.quantizer.decode(codes)))
    assert torch.equal(sound, ours.decode_latent(ours.quantizer.decode(codes)))


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_codec(device="auto").device.type in ("cpu", "cuda", "mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, message in (("cuda", "has none"), ("gpu", "is unknown; expected auto, cuda, mps, cpu")):
        with pytest.raises(SoundloomError, match=message):
            load_codec(device=name)


def test_to_moves_everything() -> None:
    ours = our_codec("spectral").to("meta")
    assert ours.device.type == "meta"
    assert {value.device.type for value in [*ours.parameters(), *ours.buffers()]} == {"meta"}
