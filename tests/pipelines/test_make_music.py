"""make_music.py and the folder that it writes: what fits opens anywhere, what does not is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from music_models import CAPTIONS, WRITTEN, write_parts
from voice_helpers import tiny_codec

from codec.errors import SoundloomError
from pipelines import load_music, make_music
from pipelines.music_model.choice import open_model
from pipelines.music_model.model import MusicModel


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_parts(folder)
    return folder


@pytest.fixture(scope="module")
def made(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "mine"
    assert make(parts, out, "--temperature", "0.9", "--top-k", "50", "--guidance", "3", "--dtype", "float16") == 0
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "mine"))


def make(parts: Path, out: Path, *more: str) -> int:
    return make_music.main([str(out), "--lm", str(parts / "lm"), "--codec", str(parts / "codec"), *more])


def test_a_folder_holds_all_that_the_model_needs(made: Path) -> None:
    record = json.loads((made / "music.json").read_text())
    assert record["levels"] == WRITTEN and record["sampling"]["guidance"] == 3.0 and record["sampling"]["top_k"] == 50
    wanted = {"codec/config.json", "codec/model.safetensors", "lm/config.json", "lm/model.safetensors"}
    assert set(record["files"]) == wanted | {"lm/text.json", "lm/text.model"}
    model = load_music(made)
    assert isinstance(model, MusicModel) and model.sampling.temperature == 0.9 and model.windows.longest == 500
    assert model.write(CAPTIONS[0], 0.2).waveform.abs().max() > 0
    assert "writes 2 levels" in model.card and "slow solo piano" in model.card
    assert isinstance(open_model(made), MusicModel)


def test_fewer_levels_and_own_layers_change_the_sound_only(parts: Path, folder: Path, tmp_path: Path) -> None:
    layers = {"magnitude.bias": tiny_codec(1).decoder.state_dict()["magnitude.bias"] + 1.0}
    from safetensors.torch import save_file

    save_file(layers, tmp_path / "layers.safetensors")
    assert make(parts, tmp_path / "less", "--levels", "1") == 0
    assert make(parts, tmp_path / "own", "--decoder", str(tmp_path / "layers.safetensors")) == 0
    plain, less, own = (load_music(tmp_path / "mine"), load_music(tmp_path / "less"), load_music(tmp_path / "own"))
    codes = plain.write_codes([CAPTIONS[0]], 0.2)[0]
    waves = [model.decode(codes) for model in (plain, less, own)]
    assert not torch.equal(waves[0], waves[1]) and not torch.equal(waves[0], waves[2])
    assert torch.equal(waves[1], plain.codec.decode(codes[None, :1])[0])
    own.save_pretrained(tmp_path / "copy")
    assert torch.equal(load_music(tmp_path / "copy").decode(codes), waves[2])
    with pytest.raises(SoundloomError, match="decodes 3 levels, its model writes 2"):
        make(parts, tmp_path / "more", "--levels", "3")
    (tmp_path / "mine" / "decoder.safetensors").write_bytes((tmp_path / "own" / "decoder.safetensors").read_bytes())
    with pytest.raises(SoundloomError, match=r"not listed in music.json; add it with make_music.py --decoder"):
        load_music(tmp_path / "mine")


def test_a_codec_that_does_not_fit_is_refused(parts: Path, folder: Path, tmp_path: Path) -> None:
    tiny_codec(1).save_pretrained(tmp_path / "other")
    with pytest.raises(SoundloomError, match="made with another codec: its fingerprint"):
        make(parts, tmp_path / "x", "--codec", str(tmp_path / "other"))
    record = json.loads((folder / "music.json").read_text())
    (folder / "music.json").write_text(json.dumps(record | {"codec_fingerprint": "0" * 64}))
    with pytest.raises(SoundloomError, match="give the folder its own codec"):
        load_music(folder)


@pytest.mark.parametrize("name", ["lm/model.safetensors", "codec/config.json", "lm/text.model"])
def test_a_changed_or_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(SoundloomError, match=f"{name}: has changed, its SHA-256 is not the one in music.json"):
        load_music(folder)
    (folder / name).unlink()
    with pytest.raises(SoundloomError, match=f"{name}"):
        load_music(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "soundloom-voice", "is not a music model"),
        ("version", 2, "version 2 is unknown"),
        ("levels", 0, "levels"),
        ("retries", 21, "retries"),
        ("window_seconds", 0.1, "window_seconds"),
        ("stride_seconds", 11.0, "stride_seconds"),
        ("codec_fingerprint", "x", "codec_fingerprint"),
        ("sampling", {"guidance": -1}, "guidance"),
        ("sampling", {"wrong": 1}, "wrong"),
        ("name", "\n", "name"),
        ("files", {"../x": "0" * 64}, "is not a name"),
        ("extra", 1, "extra"),
    ],
)
def test_bounds_of_music_json(folder: Path, key: str, value: object, message: str) -> None:
    record = json.loads((folder / "music.json").read_text())
    (folder / "music.json").write_text(json.dumps(record | {key: value}))
    with pytest.raises(SoundloomError, match=message):
        load_music(folder)


def test_a_folder_that_is_there_is_not_replaced_by_chance(parts: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SoundloomError, match="exists already"):
        make(parts, folder)
    assert make(parts, folder, "--replace", "--name", "second") == 0 and load_music(folder).config.name == "second"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(SoundloomError, match="is not a music model, so it is not replaced"):
        make(parts, tmp_path / "notes", "--replace")
    with pytest.raises(SoundloomError, match="--stride 12: expected at most --window, 10"):
        make(parts, tmp_path / "y", "--stride", "12")
