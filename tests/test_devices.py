"""Every entry point on an emulated second device: results live there, nothing mixes devices, the CPU's codes come out.

See `emulated_device`. What it cannot show is what only a real card has: its kernels' rounding, its speed, its memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from emulated_device import Counts, EmulatedTensor, WrongDevice, emulated
from lm_models import CODES, LEVELS, coarse_fine_lm, delay_lm
from musicgen_checkpoint import write_musicgen
from torch import Tensor
from voice_helpers import tiny_codec, tiny_voice

from codec.common import devices
from codec.config import CodecConfig
from codec.errors import SoundloomError
from codec.model import Codec
from codec.quantize import QuantizerConfig
from codec.seanet import SEANetConfig
from lm.config import TransformerConfig
from lm.generation.grid_writer import GridWriter
from lm.generation.request import GenerateConfig, make_request
from pipelines.musicgen.model import load_musicgen


@pytest.fixture(autouse=True)
def device() -> Iterator[Counts]:
    with emulated() as counts:
        yield counts


def tiny_seanet() -> Codec:
    """With an LSTM, and reflecting, as EnCodec's."""
    torch.manual_seed(0)
    shape = SEANetConfig(filters=4, ratios=(4, 3, 2), latent_dim=8, lstm_layers=1, pad_mode="reflect")
    codec = Codec(CodecConfig(network="seanet", seanet=shape, quantizer=QuantizerConfig(3, 16))).eval()
    for level in codec.quantizer.levels:
        level.codebook.normal_()
    return codec


def wave(codec: Codec) -> Tensor:
    return 0.1 * torch.randn(2, 1, codec.hop_length * 20 + 5, generator=torch.Generator().manual_seed(1))


def test_the_device_refuses_what_a_gpu_refuses(device: Counts) -> None:
    x = torch.ones(3).to("emu")
    assert isinstance(x, EmulatedTensor) and x.device == torch.device("emu:0")
    with pytest.raises(WrongDevice, match="on the CPU are"):
        x + torch.ones(3)
    with pytest.raises(WrongDevice, match="CPU generator"):
        torch.rand(3, device="emu", generator=torch.Generator())
    with pytest.raises((TypeError, RuntimeError)):
        x.numpy()
    assert torch.equal((x + torch.tensor(1.0)).cpu(), torch.full((3,), 2.0))  # a single number may be anywhere


def test_the_device_counts_what_a_gpu_waits_for(device: Counts) -> None:
    x = torch.ones(3).to("emu")
    assert sum(device.copies.values()) == 1
    torch.ones(3).pin_memory().to("emu", non_blocking=True)
    assert sum(device.copies.values()) == 1 and not device.syncs
    for waits in (x.sum().item, x.cpu, x.tolist, x.nonzero, lambda: bool(x.any()), lambda: x[x > 0]):
        before = sum(device.syncs.values())
        waits()
        assert sum(device.syncs.values()) == before + 1


@pytest.mark.parametrize("make", [tiny_codec, tiny_seanet])
def test_a_codec_encodes_decodes_and_streams(make: object) -> None:
    codec: Codec = make()  # type: ignore[operator]
    sound = wave(codec)
    codes, made = codec.encode(sound), codec.decode(codec.encode(sound))
    codec.to("emu")
    on_device = codec.encode(sound)
    assert on_device.device.type == "emu" and torch.equal(on_device.cpu(), codes)
    decoded = codec.decode(on_device)
    assert decoded.device.type == "emu" and torch.allclose(decoded.cpu(), made, atol=1e-5)
    state = codec.init_state(2)
    chunks = [
        codec.encode_chunk(piece, state, i == 1) for i, piece in enumerate(sound.split(codec.hop_length * 11, -1))
    ]
    assert torch.equal(torch.cat(chunks, -1).cpu(), codes)
    state = codec.init_state(2)
    waves = [codec.decode_chunk(piece, state, i == 1) for i, piece in enumerate(codes.split(11, -1))]
    assert torch.allclose(torch.cat(waves, -1).cpu(), made, atol=1e-5)


@pytest.mark.parametrize("make", [delay_lm, coarse_fine_lm])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_language_model_generates_the_same_codes(make: object, guidance: float) -> None:
    model = make()  # type: ignore[operator]
    options = {"seed": [3, 4], "max_frames": 12, "guidance": guidance, "retries": 1}
    ids, prompt = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.ones(2, 3, 4, dtype=torch.long)
    expected = model.generate(ids, prompt, **options)
    model.to("emu")
    codes = model.generate(ids.to("emu"), prompt.to("emu"), **options)
    assert codes.device.type == "emu" and torch.equal(codes.cpu(), expected)
    assert torch.equal(model.generate(ids.tolist(), prompt, **options).cpu(), expected)


def test_an_apple_gpu_generates_without_float64(device: Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "WITHOUT_FLOAT64", {"emu"})
    device.has_float64 = False
    with pytest.raises(WrongDevice, match="no float64"):
        torch.ones(2, dtype=torch.float64, device="emu")
    for model in (delay_lm().to("emu"), coarse_fine_lm().to("emu")):
        assert model.generate([1, 2, 3], seed=1, guidance=2.0).device.type == "emu"


def test_an_lstm_stays_in_float32_under_autocast() -> None:
    codec, seen = tiny_seanet().to("emu"), []
    lstms = [module for module in codec.modules() if isinstance(module, torch.nn.LSTM)]
    for lstm in lstms:
        lstm.register_forward_pre_hook(lambda _, given: seen.append((given[0].dtype, torch.is_autocast_enabled("emu"))))
    with torch.autocast("emu", torch.bfloat16):
        codec.encoder(wave(codec).to("emu"))
    assert seen == [(torch.float32, False)]


def test_codes_are_made_without_tensorfloat_32() -> None:
    before = torch.backends.cudnn.allow_tf32
    with devices.full_precision(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("sampled", [None, 1])
def test_a_voice_speaks_streams_and_continues(tmp_path: Path, sampled: int | None) -> None:
    voice = tiny_voice(tmp_path)
    text, options = "Hello world. How are you?", {"seed": 1, "sampled_levels": sampled, "max_frames": 34, "retries": 1}
    prompt = wave(voice.codec)[0]
    expected = voice.speak(text, prompt=prompt, prompt_text="hello", **options)
    continued = voice.continue_audio(prompt, 0.2, seed=2)
    voice.to("emu")
    speech = voice.speak(text, prompt=prompt, prompt_text="hello", **options)
    assert speech.waveform.device.type == "emu"
    assert all(torch.equal(a.codes.cpu(), b.codes) for a, b in zip(speech.sentences, expected.sentences, strict=True))
    chunks = list(voice.stream(text, seed=1, sampled_levels=sampled, max_frames=14))
    assert all(chunk.device.type == "emu" for chunk in chunks)
    assert torch.equal(voice.continue_audio(prompt, 0.2, seed=2).sentences[0].codes.cpu(), continued.sentences[0].codes)
    speech.save(tmp_path / "speech.wav")


@pytest.mark.parametrize("with_latents", [False, True])
def test_a_step_of_generation_waits_once(with_latents: bool, device: Counts) -> None:
    model = delay_lm().to("emu")
    vectors = torch.randn(LEVELS, CODES, 4).to("emu") if with_latents else None
    prompt = torch.ones(2, LEVELS, 4, dtype=torch.long)
    config = GenerateConfig(guidance=2.0, max_frames=14, top_k=5, sampled_levels=1)
    ids = torch.tensor([[1, 2, 3], [4, 5, 0]]).to("emu")
    request = make_request(model.config, ids, torch.tensor([3, 2]), prompt, None, [0, 1], config, None, vectors)
    with torch.inference_mode():
        run = GridWriter(model, request)
        while not run.finished:
            device.clear()
            run.advance()
            assert sum(device.syncs.values()) <= 1 and not device.copies, (device.syncs, device.copies)


def test_a_step_of_eight_layers_is_under_170_launches(device: Counts) -> None:
    shape = TransformerConfig(dim=16, num_layers=8, num_heads=2, ffn_dim=24)
    model = delay_lm(transformer=shape).to("emu")
    config = GenerateConfig(guidance=2.0, max_frames=30, min_frames=20, top_k=5, sampled_levels=1)
    vectors = torch.randn(LEVELS, CODES, 4).to("emu")
    ids = torch.tensor([[1, 2, 3]]).to("emu")
    run = GridWriter(model, make_request(model.config, ids, seeds=[0], config=config, vectors=vectors))
    with torch.inference_mode():
        for _ in range(6):
            device.clear()
            run.advance()
    assert 0 < sum(device.launches.values()) < 170, device.launches.most_common(9)


def test_broken_scores_are_refused_there_too() -> None:
    model = delay_lm().to("emu")
    with torch.no_grad():
        model.heads.fill_(float("nan"))
    for temperature in (0.0, 1.0):
        with pytest.raises(SoundloomError, match="not finite numbers"):
            model.generate([1, 2, 3], seed=0, max_frames=5, temperature=temperature)


def test_music_is_written_and_continued(tmp_path: Path) -> None:
    write_musicgen(tmp_path)
    model = load_musicgen(tmp_path)
    prompt = 0.1 * torch.randn(1, 240, generator=torch.Generator().manual_seed(0))
    expected = model.write("a calm piano", 0.3, prompt=prompt, seed=1)
    music = model.to("emu").write("a calm piano", 0.3, prompt=prompt, seed=1)
    assert music.waveform.device.type == "emu" and torch.equal(music.codes.cpu(), expected.codes)
    music.save(tmp_path / "music.wav")


def test_kmeans_starts_codebooks_also_from_few_vectors() -> None:
    torch.manual_seed(0)
    for count in (40, 9):
        codec, vectors = tiny_codec(), torch.randn(count, 8)
        other = tiny_codec().to("emu")
        codec.quantizer.start(vectors, torch.Generator().manual_seed(5))
        other.quantizer.start(vectors.to("emu"), torch.Generator().manual_seed(5))
        for ours, theirs in zip(codec.quantizer.codebooks(), other.quantizer.codebooks(), strict=True):
            assert torch.allclose(ours, theirs.cpu(), atol=1e-5)
