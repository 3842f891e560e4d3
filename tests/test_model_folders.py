"""A pipe, a device or a huge file in place of a model folder's file is refused by name, never waited on or read."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from voice_helpers import save_lms, tiny_codec, tiny_voice

from codec.audio import write_audio
from codec.errors import SoundloomError
from codec.pretrained import load_codec
from lm.checkpoint import load_lm
from pipelines import load_voice
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
