"""Files of the encodec package: codes as it packs them, sizes that are checked first, and what is refused."""

import importlib
import io
import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.ecdc import unpack_ecdc
from codec.errors import SoundloomError
from codec.loom import load_codes, pack
from codec.transformers_codecs import import_transformers


def pack_ecdc(codes: torch.Tensor, samples: int, **changes: Any) -> bytes:
    """The bytes of a file, packed one value after another as the original does: lowest bits first."""
    value = place = 0
    for code in codes.t().flatten().tolist():
        value |= code << place
        place += 10
    facts = json.dumps({"m": "encodec_24khz", "al": samples, "nc": len(codes), "lm": False} | changes).encode()
    return struct.pack("!4sBI", b"ECDC", 0, len(facts)) + facts + value.to_bytes((place + 7) // 8, "little")


def random_codes(levels: int, frames: int) -> torch.Tensor:
    return torch.randint(1024, (levels, frames), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("levels", "samples"), [(2, 24_000), (32, 321), (8, 1), (4, 320)])
def test_codes_come_back(tmp_path: Path, levels: int, samples: int) -> None:
    codes = random_codes(levels, -(-samples // 320))
    path = tmp_path / "x.ecdc"
    path.write_bytes(pack_ecdc(codes, samples))
    file = load_codes(path)
    assert torch.equal(file.codes, codes)
    assert (file.num_samples, file.sample_rate, file.hop_length, file.codebook_size) == (samples, 24_000, 320, 1024)
    with pytest.raises(SoundloomError, match="the codec that wrote them is unknown"):
        pack(file)


def test_only_a_codec_of_these_sizes_decodes_them(tmp_path: Path) -> None:
    path = tmp_path / "x.ecdc"
    path.write_bytes(pack_ecdc(random_codes(2, 5), 1600))
    sizes: dict[str, Any] = {"sample_rate": 24_000, "hop_length": 320, "codebook_size": 1024, "fingerprint": "ab" * 32}
    load_codes(path).check_codec(SimpleNamespace(**sizes), "x")  # type: ignore[arg-type]
    for change in ({"sample_rate": 48_000}, {"hop_length": 480}, {"codebook_size": 2048}):
        with pytest.raises(SoundloomError, match="x: written by another codec"):
            load_codes(path).check_codec(SimpleNamespace(**sizes | change), "x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"m": "encodec_48khz"}, "'encodec_48khz', whose chunks overlap"),
        ({"lm": True}, "without --lm"),
        ({"al": 10**15}, "cut or damaged"),
        ({"al": 0}, "at least 1"),
        ({"al": "long"}, "'al'"),
        ({"nc": 33}, "cut or damaged"),
        ({"nc": -2}, "at least 1"),
        ({"nc": 10**18}, "cut or damaged"),
        ({"lm": 0}, "'lm'"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SoundloomError, match=f"^x: .*{message}"):
        unpack_ecdc(pack_ecdc(random_codes(2, 5), 1600, **changes), "x")


@settings(deadline=None, max_examples=200)
@given(
    edits=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=4), cut=st.none() | st.integers(0, 90)
)
def test_damaged_files_are_read_or_refused(edits: list[tuple[int, int]], cut: int | None) -> None:
    data = bytearray(pack_ecdc(random_codes(2, 5), 1600))
    for place, value in edits:
        data[place % len(data)] = value
    try:
        codes, samples = unpack_ecdc(bytes(data[:cut]), "x")
    except SoundloomError as error:
        assert str(error).startswith("x: ")
    else:
        assert codes.shape[1] * 320 >= samples and 0 <= int(codes.min()) <= int(codes.max()) < 1024


def test_files_of_dac_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.dac"
    path.write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.raises(SoundloomError, match=r"python -m dac decode"):
        load_codes(path)


@pytest.mark.slow
def test_files_of_the_original_package() -> None:
    import_transformers()  # where torchaudio cannot be loaded, this puts a stand-in in its place
    package = pytest.importorskip("encodec")
    compress = importlib.import_module("encodec.compress")
    torch.manual_seed(0)
    model = package.EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.name = "encodec_24khz"
    for bandwidth in (1.5, 6.0):
        model.set_target_bandwidth(bandwidth)
        stream, wave = io.BytesIO(), 0.1 * torch.randn(1, 10_007)
        compress.compress_to_file(model, wave, stream, use_lm=False)
        with torch.no_grad():
            frames = model.encode(wave[None])
        codes, samples = unpack_ecdc(stream.getvalue(), "x")
        assert samples == 10_007 and torch.equal(codes, frames[0][0][0])
