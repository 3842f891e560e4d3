"""Packed codes: they come back, their size is the bitrate, and damaged files are refused."""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from codec.errors import SoundloomError
from codec.loom import HEADER_BYTES, CodeFile, load_codes, mark_of, pack, save_codes, unpack

FIRST = "4c4f4f4d0102e703c05d0000e0010000030000009b0500000000000072ca740d24713ca021a15ef711e1849c0b2f83bfc3e957b0"
RAISED = float(torch.tensor(10**0.6))  # 12 dB, a float32


def codes_of(levels: int = 3, frames: int = 7, size: int = 1000, seed: int = 0, gain: float = 1.0) -> CodeFile:
    codes = torch.randint(size, (levels, frames), generator=torch.Generator().manual_seed(seed))
    return CodeFile(codes, size, 24_000, 480, frames * 480 - 5, mark_of("a codec"), gain)


def same(a: CodeFile, b: CodeFile) -> bool:
    return torch.equal(a.codes, b.codes) and all(
        getattr(a, name) == getattr(b, name)
        for name in ("codebook_size", "sample_rate", "hop_length", "num_samples", "mark", "gain")
    )


@settings(deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(2, 65_536),
    st.integers(0, 9),
    st.just(1.0) | st.floats(2**-13, 2**13, width=32),
)
def test_round_trip_and_size(levels: int, frames: int, size: int, seed: int, gain: float) -> None:
    file = codes_of(levels, frames, size, seed, gain)
    data = pack(file)
    assert same(unpack(data), file)
    assert len(data) == HEADER_BYTES + 4 * (gain != 1) + math.ceil(levels * frames * math.ceil(math.log2(size)) / 8)


def test_bits_lie_as_documented() -> None:
    file = CodeFile(torch.tensor([[1, 2], [3, 0]]), 4, 8000, 10, 20, mark_of(""))
    assert pack(file)[HEADER_BYTES:] == bytes([0b01_11_10_00])  # frame 0: 1, 3; frame 1: 2, 0
    assert HEADER_BYTES == 44


def test_files_without_a_gain_are_those_of_version_1() -> None:
    """Written by the first soundloom that had .loom files."""
    data = bytes.fromhex(FIRST)
    assert pack(codes_of(2, 3)) == data and same(unpack(data), codes_of(2, 3))


def forged(gain: float, version: int = 2) -> bytes:
    """Return a file whose checksums are right, whatever its gain."""
    data = pack(codes_of(gain=RAISED))
    header = data[:4] + bytes([version]) + data[5:40] + struct.pack("<f", gain)
    return header + struct.pack("<I", zlib.crc32(header)) + data[48:]


def test_a_gain_that_no_recording_needs_is_refused(tmp_path: Path) -> None:
    assert same(unpack(forged(RAISED)), codes_of(gain=RAISED)) and unpack(forged(1.0)).gain == 1
    for gain in (math.nan, math.inf, -math.inf, 0.0, -2.0, 1e-30, 20_000.0):
        with pytest.raises(SoundloomError, match=r"x: gain .*; expected 0\.0001 to 10,000"):
            unpack(forged(gain), "x")
        with pytest.raises(SoundloomError, match="gain"):
            pack(codes_of(gain=gain))
    with pytest.raises(SoundloomError, match="version 3, this soundloom reads versions 1 and 2"):
        unpack(forged(RAISED, 3))
    with pytest.raises(SoundloomError, match="cut inside its header"):
        unpack(forged(RAISED)[:46])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "gain nan"),
        ("1e999", "gain inf"),
        ("2", "wrong type: gain"),
        ('"x"', "wrong type: gain"),
        ("null", "wrong type: gain"),
    ],
)
def test_gains_in_safetensors_are_checked(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.safetensors"
    save_codes(path, codes_of(gain=RAISED))
    with safe_open(path, "pt") as stream:
        tensors, facts = {"codes": stream.get_tensor("codes")}, stream.metadata()["soundloom"]
    assert json.loads(facts)["gain"] == RAISED
    save_file(tensors, path, {"soundloom": facts.replace(f"{RAISED}", text)})
    with pytest.raises(SoundloomError, match=message):
        load_codes(path)


@pytest.mark.parametrize("gain", [1.0, RAISED])
@pytest.mark.parametrize("suffix", [".loom", ".safetensors"])
def test_files(tmp_path: Path, suffix: str, gain: float) -> None:
    path = tmp_path / f"x{suffix}"
    assert save_codes(path, codes_of(gain=gain)) == path.stat().st_size
    assert same(load_codes(path), codes_of(gain=gain))
    assert (b'"gain' in path.read_bytes().replace(b"\\", b"")) == (gain != 1 and suffix != ".loom")
    sizes: dict[str, Any] = {"sample_rate": 24_000, "hop_length": 480, "codebook_size": 1000, "fingerprint": "a codec"}
    load_codes(path).check_codec(SimpleNamespace(**sizes), "x")  # type: ignore[arg-type]
    for change in ({"fingerprint": "another"}, {"sample_rate": 16_000}):
        with pytest.raises(SoundloomError, match="another codec"):
            load_codes(path).check_codec(SimpleNamespace(**sizes | change), "x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": torch.tensor([[1000]]), "num_samples": 1}, "0 to 999"),
        ({"codes": torch.tensor([[-1]]), "num_samples": 1}, "-1"),
        ({"codes": torch.zeros(1, 2, 3)}, "shape"),
        ({"codes": torch.zeros(0, 3)}, "shape"),
        ({"num_samples": 10**6}, "do not fit"),
        ({"num_samples": 0}, "do not fit"),
        ({"codebook_size": 1}, "2 to 65,536"),
    ],
)
def test_codes_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(SoundloomError, match=message):
        pack(CodeFile(**{**codes_of().__dict__, **change}))  # type: ignore[arg-type]


@settings(deadline=2000, max_examples=300)
@given(
    kind=st.sampled_from([".loom", ".safetensors"]),
    gain=st.sampled_from([1.0, RAISED]),
    edits=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4),
    cut=st.none() | st.integers(0, 300),
)
def test_damaged_files_are_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, gain: float, edits: list[tuple[int, int]], cut: int | None
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged{kind}"
    save_codes(path, codes_of(gain=gain))
    data = bytearray(path.read_bytes())
    for place, value in edits:
        data[place % len(data)] = value
    whole = bytes(data[:cut]) == path.read_bytes()
    path.write_bytes(bytes(data[:cut]))
    try:
        file = load_codes(path)
    except SoundloomError as error:
        assert str(path) in str(error)
    else:
        assert whole or kind == ".safetensors"  # which has no checksum
        assert file.codes.max() < file.codebook_size and 1e-4 <= file.gain <= 1e4


def test_missing_files_and_unknown_suffixes(tmp_path: Path) -> None:
    for name in ("none.loom", "none.safetensors"):
        with pytest.raises(SoundloomError, match=name):
            load_codes(tmp_path / name)
    with pytest.raises(SoundloomError, match=r"\.loom"):
        save_codes(tmp_path / "x.codes", codes_of())
