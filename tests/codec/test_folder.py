"""A codec's folder: weights that no codec has, bounds, further decoders, and that opening changes nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from published_codecs import DAC, ENCODEC, MIMI, write
from safetensors.torch import load_file, save_file
from voice_helpers import tiny_codec

from codec import SoundloomError, load_codec, pretrained
from codec.model import Codec

PLACES = ["encoder.input.weight", "decoder.magnitude.bias", "quantizer.levels.1.codebook"]


def damage(folder: Path, name: str, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_weights_that_no_codec_has_are_refused_by_name(tmp_path: Path, name: str, value: float) -> None:
    tiny_codec().save_pretrained(tmp_path)

    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    damage(tmp_path, name, spoil)
    with pytest.raises(SoundloomError, match=name.replace(".", r"\.")):
        load_codec(tmp_path)


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_of_other_types_are_refused_by_name(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    tiny_codec().save_pretrained(tmp_path)
    damage(tmp_path, name, lambda tensor: tensor.to(dtype))
    with pytest.raises(SoundloomError, match=name.replace(".", r"\.")):
        load_codec(tmp_path)


@pytest.mark.parametrize(("kind", "settings"), [("Encodec", ENCODEC), ("Dac", DAC), ("Mimi", MIMI)])
@pytest.mark.parametrize(
    "change", [lambda t: t * float("nan"), lambda t: t.to(torch.int8), lambda t: t.bool()], ids=["nan", "int8", "bool"]
)
def test_published_weights_are_checked_too(tmp_path: Path, kind: str, settings: dict[str, Any], change: Any) -> None:
    write(tmp_path, kind, settings)
    name = next(n for n, v in load_file(tmp_path / "model.safetensors").items() if v.dim() > 1 and "encoder" in n)
    damage(tmp_path, name, change)
    with pytest.raises(SoundloomError, match=r"not finite|expected float"):
        load_codec(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sample_rate", 0, "sample_rate 0: expected 1 to 1,000,000 Hz"),
        ("sample_rate", 10**12, "expected 1 to 1,000,000 Hz"),
        ("spectral.hop", 1, "multiples of hop, up to 16 times"),
        ("spectral.window", 1 << 40, "a window of 1099511627776 samples"),
        ("spectral.decoder_window", 1 << 40, "a window of 1099511627776 samples"),
        ("spectral.encoder_blocks", -1, "encoder_blocks: must be 0 or more"),
        ("spectral.expansion", 0, "expansion: must be 1 or more"),
        ("spectral.encoder_blocks", 10**9, "too few for the layers"),
        ("spectral.latent_dim", 1 << 60, "config.json"),
        ("quantizer.codebook_size", 1 << 50, "config.json"),
    ],
)
def test_config_bounds(tmp_path: Path, field: str, value: int, message: str) -> None:
    tiny_codec().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    record = json.loads(path.read_text())
    place = record
    *parents, last = field.split(".")
    for key in parents:
        place = place[key]
    place[last] = value
    path.write_text(json.dumps(record))
    with pytest.raises(SoundloomError, match=message):
        load_codec(tmp_path)


def test_the_frame_rate_is_bounded() -> None:
    from codec.config import CodecConfig
    from codec.seanet import SEANetConfig

    with pytest.raises(SoundloomError, match="12,000 frames a second; expected at most 4,000"):
        CodecConfig(network="seanet", seanet=SEANetConfig(ratios=(2,)))


@pytest.mark.parametrize("kind", ["ours", "Encodec", "Dac", "Mimi"])
def test_opening_a_codec_leaves_the_global_generator(tmp_path: Path, kind: str) -> None:
    if kind == "ours":
        tiny_codec().save_pretrained(tmp_path)
    else:
        write(tmp_path, kind, {"Encodec": ENCODEC, "Dac": DAC, "Mimi": MIMI}[kind])
    before = torch.random.get_rng_state()
    load_codec(tmp_path)
    if kind == "Encodec":
        load_codec(tmp_path, native=False)
    assert torch.equal(torch.random.get_rng_state(), before)


def with_decoders(folder: Path) -> tuple[Codec, Codec]:
    """A codec's folder with one further decoder, "plain": the codec, and what the further one belongs to."""
    codec, other = tiny_codec(), tiny_codec()
    with torch.no_grad():
        other.decoder.magnitude.bias.sub_(1)  # type: ignore[operator,union-attr]
    codec.save_pretrained(folder)
    (folder / "decoders").mkdir()
    tensors = {name: value.half() for name, value in other.decoder.state_dict().items()}
    save_file(tensors, folder / "decoders" / "plain.safetensors")
    return codec, other.with_decoder(tensors)


def test_a_further_decoder_gives_another_sound_of_the_same_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, other = with_decoders(tmp_path)
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    usual, plain = load_codec(), load_codec(decoder="plain")
    assert isinstance(usual, Codec) and isinstance(plain, Codec)
    assert usual.decoders == plain.decoders == ("plain",) and not codec.decoders
    assert usual.fingerprint == plain.fingerprint == codec.fingerprint
    wave = 0.1 * torch.randn(1, 1, 4800, generator=torch.Generator().manual_seed(0))
    codes = plain.encode(wave)
    assert torch.equal(codes, codec.encode(wave))
    assert torch.equal(plain.decode(codes), other.decode(codes))
    assert torch.equal(usual.decode(codes), codec.decode(codes))
    assert not torch.equal(plain.decode(codes), codec.decode(codes))
    assert torch.equal(usual.other_decoder("plain").decode(codes), other.decode(codes))
    with pytest.raises(SoundloomError, match="was not opened from a folder"):
        codec.other_decoder("plain")


def test_with_decoder_shares_the_rest_and_checks_its_weights() -> None:
    codec = tiny_codec()
    other = codec.with_decoder({"input.bias": torch.ones_like(codec.decoder.input.bias)})  # type: ignore[union-attr]
    assert other.encoder is codec.encoder and other.quantizer is codec.quantizer
    assert other.decoder is not codec.decoder and not other.training
    with pytest.raises(SoundloomError, match=r"decoder: input\.bias holds values that are not finite"):
        codec.with_decoder({"input.bias": torch.full_like(codec.decoder.input.bias, torch.nan)})  # type: ignore[union-attr]


def test_wrong_decoders_are_refused(tmp_path: Path) -> None:
    with_decoders(tmp_path)
    for name in ("fancy", "../model", "", "plain.safetensors"):
        with pytest.raises(SoundloomError, match="it has plain"):
            load_codec(tmp_path, decoder=name)
    (tmp_path / "decoders" / "plain.safetensors").write_bytes(b"nothing")
    with pytest.raises(SoundloomError, match=r"plain\.safetensors: not readable"):
        load_codec(tmp_path, decoder="plain")
    load_codec(tmp_path)  # nothing is read that is not asked for
    write(tmp_path / "dac", "Dac", DAC)
    with pytest.raises(SoundloomError, match="only codecs of our own format"):
        load_codec(tmp_path / "dac", decoder="plain")


@pytest.mark.parametrize("suffix", [".th", ".pth", ".bin"])
def test_pickled_weights_are_refused_with_what_to_do(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"encodec{suffix}"
    path.write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.raises(SoundloomError, match="conversion script"):
        load_codec(path)


def test_a_disk_that_fills_up_leaves_the_codec_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = tiny_codec()
    codec.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fill_up(tensors: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("codec.folder.save_file", fill_up)
    with pytest.raises(SoundloomError, match=r"model\.safetensors: cannot write it \(No space left"):
        codec.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
