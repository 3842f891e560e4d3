"""A pipe, a device or a huge file in place of a model folder's file is refused by name, never waited on or read."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from musicgen_checkpoint import write_musicgen
from published_codecs import MIMI, noise, write
from voice_helpers import save_lms, tiny_codec, tiny_voice

from codec.audio import write_audio
from codec.errors import SoundloomError
from codec.pretrained import load_codec
from lm.checkpoint import load_lm
from pipelines import load_voice
from pipelines.musicgen.text_encoder import TextEncoder
from pipelines.voice.contents import find_speakers
from pipelines.voice.folder import VoiceParts, write_voice

NAMES = [
    "voice.json",
    "README.md",
    "decoder.safetensors",
    "codec/config.json",
    "codec/model.safetensors",
    "lm/config.json",
    "lm/model.safetensors",
    "lm/text.json",
    "lm/text.model",
    "speakers/ann.flac",
    "speakers/ann.txt",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice folder with all that a voice can hold."""
    place = tmp_path_factory.mktemp("folders")
    codec = tiny_codec()
    save_lms(place, codec)
    voice = tiny_voice(place / "text")
    (place / "speakers").mkdir()
    write_audio(place / "speakers" / "ann.flac", 0.1 * torch.randn(1, 72_000), 24_000)
    (place / "speakers" / "ann.txt").write_text("hello world")
    own = {"input.weight": codec.decoder.input.weight.detach(), "input.bias": codec.decoder.input.bias.detach()}
    lm, speakers = load_lm(place / "delay"), find_speakers(place / "speakers")
    return write_voice(place / "voice", VoiceParts(voice.config, codec, lm, "# tiny\n", own, speakers))


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Fail, instead of waiting for ever, where something opens the pipe."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError("waited for a pipe, or read without end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def read_all(folder: Path) -> None:
    """Read whatever a voice's folder holds, the parts alone and the whole."""
    load_codec(folder / "codec")
    load_lm(folder / "lm")
    voice = load_voice(folder)
    assert voice.card
    prompt = voice.speakers["ann"]
    assert prompt.text
    prompt.check()


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_plain_file_is_refused(place: Path, name: str, kind: str) -> None:
    if kind == "huge" and name.endswith((".safetensors", ".flac")):
        pytest.skip("weights and recordings may be large")
    path, aside = place / name, place.parent / "aside"
    path.rename(aside)
    try:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            with open(path, "wb") as file:
                file.truncate(1 << 36)  # sparse: 64 GiB that take no room on disk
        with pytest.raises(SoundloomError, match=path.name):
            read_all(place)
    finally:
        path.unlink()
        aside.rename(path)
    read_all(place)


def test_a_checkpoint_of_others_with_a_pipe_for_weights(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        if name != "config.json":
            (folder / "config.json").write_text('{"model_type": "encodec"}')
        os.mkfifo(folder / name)
        for native in (True, False):
            with pytest.raises(SoundloomError, match=f"{folder.name}"):
                load_codec(folder, native=native)


def change_json(path: Path, changes: dict[str, object]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked on standard input."""
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "n")
    return asked


def plant(folder: Path) -> None:
    """Put code next to the weights that leaves a trace if it runs."""
    (folder / "evil.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nclass Evil: ...\n"
    )


def test_code_in_a_codecs_folder_is_not_run(tmp_path: Path, asked: list[str]) -> None:
    write(tmp_path / "plain", "Mimi", MIMI)
    shutil.copytree(tmp_path / "plain", tmp_path / "evil")
    plant(tmp_path / "evil")
    classes = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoFeatureExtractor": "evil.Evil"}
    change_json(tmp_path / "evil" / "config.json", {"auto_map": classes})
    wave = noise(1, 1, 2400)
    assert torch.equal(load_codec(tmp_path / "evil").encode(wave), load_codec(tmp_path / "plain").encode(wave))
    for key in ("attn_implementation", "_attn_implementation"):
        change_json(tmp_path / "evil" / "config.json", {key: "evil/kernel"})
        with pytest.raises(SoundloomError, match="_implementation 'evil/kernel' is code of the hub"):
            load_codec(tmp_path / "evil")
    assert not (tmp_path / "evil" / "ran").exists() and not asked


def test_code_next_to_a_tokenizer_is_neither_run_nor_asked_about(tmp_path: Path, asked: list[str]) -> None:
    write_musicgen(tmp_path)
    plant(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    change_json(path, {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}})
    assert TextEncoder.open(tmp_path).encode(["calm piano"])[1].item() > 1
    assert not (tmp_path / "ran").exists() and not asked
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_encoder"]["attn_implementation"] = "evil/kernel"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SoundloomError, match="code of the hub"):
        TextEncoder.open(tmp_path)
