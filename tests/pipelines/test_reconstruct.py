"""reconstruct.py: file to codes to file, at any number of levels, whole folders, pipes, pictures."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codec.audio.files import encode_audio, read_audio, write_audio
from codec.errors import SoundloomError
from codec.loom import load_codes
from codec.model import Codec, CodecConfig
from codec.quantize import QuantizerConfig
from codec.seanet import SEANetConfig
from codec.spectral import SpectralConfig
from pipelines import reconstruct

SIZES = {"latent_dim": 8, "encoder_dim": 16, "encoder_blocks": 1, "bottleneck_dim": 16, "bottleneck_blocks": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny codec with random weights, 3 levels of 16 codes at 50 Hz."""
    torch.manual_seed(0)
    config = CodecConfig(
        spectral=SpectralConfig(**SIZES, decoder_dim=16, decoder_blocks=1),
        quantizer=QuantizerConfig(num_levels=3, codebook_size=16),
    )
    path = tmp_path_factory.mktemp("codec")
    Codec(config).save_pretrained(path)
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    wave = 0.3 * torch.randn(1, 16_001, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    write_audio(tmp_path / "in.wav", wave, 16_000)
    return tmp_path / "in.wav"


def test_file_to_file_says_bitrate_duration_and_distance(
    folder: Path, sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = sound.with_name("out.wav")
    assert reconstruct.main([str(sound), "-o", str(out), "--codec", str(folder), "--levels", "2"]) == 0
    said = capsys.readouterr().out
    assert "1.00 s" in said and "2 of 3 levels" in said and "0.40 kbit/s" in said and "mel distance" in said
    assert "100 tokens/s" in said and "960 times smaller than 16-bit PCM" in said
    assert read_audio(out).shape == (1, 24_002)


@pytest.mark.parametrize("suffix", [".loom", ".safetensors"])
def test_codes_are_a_file_that_decodes_to_the_same_sound(folder: Path, sound: Path, suffix: str) -> None:
    codes, whole, again = (sound.with_name(name) for name in (f"c{suffix}", "whole.wav", "again.wav"))
    common = ["--codec", str(folder)]
    reconstruct.main([str(sound), "-o", str(whole), "--codes", str(codes), *common])
    reconstruct.main([str(codes), "-o", str(again), *common])
    assert again.read_bytes() == whole.read_bytes()
    if suffix == ".loom":
        assert codes.stat().st_size == 44 + -(-52 * 3 * 4 // 8)  # one frame of the silence after the sound
    reconstruct.main([str(sound), "-o", str(whole), "--levels", "1", *common])
    reconstruct.main([str(codes), "-o", str(again), "--levels", "1", *common])
    assert again.read_bytes() == whole.read_bytes()


def test_a_quiet_file_is_raised_unless_told_otherwise(
    folder: Path, sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(sound, 0.001 * read_audio(sound), 16_000)
    codes, raised, again, plain = (sound.with_name(name) for name in ("c.loom", "a.wav", "b.wav", "p.wav"))
    common = ["--codec", str(folder)]
    reconstruct.main([str(sound), "-o", str(raised), "--codes", str(codes), *common])
    assert "dB louder" in capsys.readouterr().out and load_codes(codes).gain > 1
    reconstruct.main([str(codes), "-o", str(again), *common])
    assert again.read_bytes() == raised.read_bytes()
    reconstruct.main([str(sound), "-o", str(plain), "--codes", str(codes), "--no-normalize", *common])
    assert load_codes(codes).gain == 1 and plain.read_bytes() != raised.read_bytes()


def test_folder_to_folder_tells_bad_files_and_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out, codes = (tmp_path / name for name in ("in", "out", "codes"))
    write_audio(source / "a.wav", torch.rand(1, 5000) - 0.5, 24_000)
    write_audio(source / "deep" / "a.flac", torch.rand(1, 5000) - 0.5, 24_000)
    (source / "bad.wav").write_bytes(b"nothing")
    arguments = [str(source), "-o", str(out), "--codes", str(codes), "--codec", str(folder)]
    assert reconstruct.main(arguments) == 1
    said = capsys.readouterr()
    assert "bad.wav" in said.err and "2 files done, 1 could not be used" in said.out
    assert (out / "a.wav").is_file() and (out / "deep" / "a.flac.wav").is_file()
    assert load_codes(codes / "a.wav.loom").codes.shape == (3, 12)


def test_pictures(folder: Path, sound: Path) -> None:
    pytest.importorskip("matplotlib")
    for suffix in (".png", ".svg"):
        picture = sound.with_name(f"x{suffix}")
        assert reconstruct.main([str(sound), "--plot", str(picture), "--codec", str(folder)]) == 0
        assert picture.stat().st_size > 10_000
    with pytest.raises(SoundloomError, match=r"\.png"):
        reconstruct.main([str(sound), "--plot", str(sound.with_name("x.docx")), "--codec", str(folder)])


def test_as_a_program_in_a_pipe(folder: Path) -> None:
    script = Path(reconstruct.__file__)
    done = subprocess.run(
        [sys.executable, str(script), "-", "-o", "-", "--codec", str(folder), "--threads", "1"],
        input=encode_audio(torch.rand(1, 4000) - 0.5, 8000, ".flac"), capture_output=True, check=True,
        env={"PYTHONPATH": str(script.parents[1]), "PATH": ""},
    )  # fmt: skip
    assert read_audio(io.BytesIO(done.stdout)).shape == (1, 12_000)
    assert b"kbit/s" in done.stderr


def test_bad_input_is_told(folder: Path, sound: Path, tmp_path: Path) -> None:
    common = ["--codec", str(folder)]
    out = ["-o", str(tmp_path / "out.wav")]
    (tmp_path / "bad.loom").write_bytes(b"LOOM")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([str(sound), *common], "nothing to do"),
        ([str(sound), *out, *common, "--levels", "9"], "levels 1 to 3"),
        ([str(tmp_path / "none.wav"), *out, *common], "none.wav: no such file"),
        ([str(tmp_path / "bad.loom"), *out, *common], "bad.loom: cut"),
        ([str(tmp_path / "empty"), *out, *common], "no audio files"),
        ([str(sound), *out, *common, "--threads", "0"], "--threads 0"),
        ([str(sound), *out, *common, "--device", "abacus"], "device 'abacus' is unknown"),
        ([str(sound), *out, *common, "--decoder", "plain"], "has no decoder 'plain'"),
        ([str(tmp_path / "x.dac"), *out, *common], "python -m dac decode"),
    ):
        (tmp_path / "x.dac").touch()
        with pytest.raises(SoundloomError, match=message):
            reconstruct.main(arguments)


def test_codes_of_another_codec_are_refused(folder: Path, sound: Path, tmp_path: Path) -> None:
    codes = tmp_path / "c.loom"
    reconstruct.main([str(sound), "--codes", str(codes), "--levels", "2", "--codec", str(folder)])
    with pytest.raises(SoundloomError, match="holds 2 levels"):
        reconstruct.main([str(codes), "-o", str(tmp_path / "x.wav"), "--levels", "3", "--codec", str(folder)])
    codec = Codec.from_pretrained(folder)
    with torch.no_grad():
        next(codec.encoder.parameters()).add_(1)
    codec.save_pretrained(tmp_path / "other")
    with pytest.raises(SoundloomError, match="another codec"):
        reconstruct.main([str(codes), "-o", str(tmp_path / "x.wav"), "--codec", str(tmp_path / "other")])


def test_the_input_is_never_written_over(folder: Path, sound: Path) -> None:
    before = sound.read_bytes()
    link = sound.with_name("link.wav")
    link.symlink_to(sound)
    for target in (sound, link, sound.parent / ".." / sound.parent.name / sound.name):
        with pytest.raises(SoundloomError, match="is the input itself"):
            reconstruct.main([str(sound), "-o", str(target), "--codec", str(folder)])
    with pytest.raises(SoundloomError, match="is the input itself"):
        reconstruct.main([str(sound.parent), "-o", str(sound.parent), "--codec", str(folder)])
    assert sound.read_bytes() == before


def test_wrong_names_are_reported_before_the_work(sound: Path) -> None:
    """With a codec that cannot be opened: its error would come first if the names were checked later."""
    for arguments, message in (
        (["-o", "x.docx"], r"x\.docx: unknown kind of file"),
        (["--codes", "x.wav"], r"x\.wav: codes go into \.loom or \.safetensors"),
        (["--plot", "x.wav"], r"x\.wav: unknown kind of file"),
    ):
        with pytest.raises(SoundloomError, match=message):
            reconstruct.main([str(sound), *arguments, "--codec", "none"])


def test_files_of_encodec_need_their_codec(tmp_path: Path, folder: Path) -> None:
    facts = b'{"m": "encodec_24khz", "al": 320, "nc": 4, "lm": false}'
    path = tmp_path / "x.ecdc"
    path.write_bytes(b"ECDC" + bytes([0, 0, 0, 0, len(facts)]) + facts + bytes(5))
    out = ["-o", str(tmp_path / "x.wav")]
    with pytest.raises(SoundloomError, match="add --codec facebook/encodec_24khz"):
        reconstruct.main([str(path), *out])
    with pytest.raises(SoundloomError, match="written by another codec"):
        reconstruct.main([str(path), *out, "--codec", str(folder)])
    seanet = SEANetConfig(filters=2, latent_dim=4, pad_mode="reflect", lstm_layers=0, weight_norm=False)
    encodec = Codec(CodecConfig(network="seanet", seanet=seanet, quantizer=QuantizerConfig(4, 1024)))
    encodec.save_pretrained(tmp_path / "encodec")
    assert reconstruct.main([str(path), *out, "--codec", str(tmp_path / "encodec")]) == 0
    assert read_audio(tmp_path / "x.wav").shape == (1, 320)


def test_an_interrupt_while_torch_is_imported_is_one_line(folder: Path, sound: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt\n")
    script = Path(reconstruct.__file__)
    done = subprocess.run(
        [sys.executable, str(script), str(sound), "-o", "x.wav"], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": f"{tmp_path}:{script.parents[1]}", "PATH": ""},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
