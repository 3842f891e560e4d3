"""A voice folder lists what it needs: nothing missing, changed, oversized or linked elsewhere is taken."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from voice_helpers import tiny_voice

from codec.audio.files import write_audio
from codec.errors import SoundloomError
from pipelines import load_voice, make_voice
from pipelines.voice.config import SpeakerFacts
from pipelines.voice.contents import SpeakerPrompt
from pipelines.voice.folder import list_speakers
from pipelines.voice.voice import Voice


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice with a decoder of its own and a speaker, ann."""
    place = tmp_path_factory.mktemp("voice")
    voice = tiny_voice(place / "text", speakers={"tiny": SpeakerFacts("woman", "American"), "ann": SpeakerFacts("man")})
    write_audio(place / "ann.flac", torch.rand(1, 24_000) - 0.5, 24_000)
    (place / "ann.txt").write_text("hello")
    own = {"input.bias": voice.codec.decoder.input.bias.detach() + 1}
    ann = SpeakerPrompt(place / "ann.flac", place / "ann.txt")
    return Voice(voice.config, voice.codec, voice.lm, "# tiny\n", own, {"ann": ann}).save(place / "v")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "v"))


def change(folder: Path, edit: Callable[[dict], object]) -> None:
    record = json.loads((folder / "voice.json").read_text())
    edit(record)
    (folder / "voice.json").write_text(json.dumps(record))


def test_every_file_but_the_card_is_listed(folder: Path) -> None:
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(json.loads((folder / "voice.json").read_text())["files"]) == there - {"voice.json", "README.md"}
    assert load_voice(folder).speak("hi", speaker="ann", retries=0).seconds > 0


@pytest.mark.parametrize("name", ["decoder.safetensors", "lm/text.json", "codec/config.json", "speakers/ann.flac"])
def test_a_missing_or_changed_file_is_named(folder: Path, name: str) -> None:
    path = folder / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(SoundloomError, match=f"{name}: has changed"):
        load_voice(folder).speak("hi", speaker="ann", retries=0)
    path.unlink()
    with pytest.raises(SoundloomError, match=f"{name} is missing"):
        load_voice(folder)


def test_a_folder_without_the_list_still_opens(folder: Path) -> None:
    whole = load_voice(folder).speak("hi", retries=0)
    change(folder, lambda record: (record.pop("files"), record.pop("speakers")))
    change(folder, lambda record: record["generation"].update(drawn_levels=record["generation"].pop("sampled_levels")))
    assert torch.equal(load_voice(folder).speak("hi", retries=0).waveform, whole.waveform)


def test_a_file_that_is_not_listed_is_refused(folder: Path) -> None:
    change(folder, lambda record: record["files"].pop("decoder.safetensors"))
    with pytest.raises(SoundloomError, match=r"decoder.safetensors: is not listed"):
        load_voice(folder)
    (folder / "decoder.safetensors").unlink()
    shutil.copy(folder / "speakers/ann.flac", folder / "speakers/bob.flac")
    (folder / "speakers/bob.txt").write_text("hello")
    with pytest.raises(SoundloomError, match=r"bob.flac: is not listed"):
        load_voice(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("generation.cap_factor", 1e6, "cap_factor is 1000000.0; expected a number from 0 to 10"),
        ("generation.cap_seconds", 1e12, "cap_seconds"),
        ("generation.max_frames", 10**15, "max_frames"),
        ("generation.loop_period", 10**12, "loop_period"),
        ("pause_seconds", 10**400, "too large|pause_seconds"),
        ("name", "a\x1b[31mb", "name"),
        ("codec_fingerprint", "\x1b[31m", "codec_fingerprint"),
        ("files", {"../../etc/passwd": "0" * 64}, "not a name"),
        ("files", {"/etc/passwd": "0" * 64}, "not a name"),
        ("files", {"lm/config.json": "x"}, "SHA-256"),
        ("speakers", {"a\nb": {}}, "not a name"),
        ("speakers", {"ann": {"gendre": "man"}}, "gender"),
        ("speakers", {"ann": {"gender": "\x1b"}}, "printable"),
    ],
)
def test_bounds_of_voice_json(folder: Path, key: str, value: object, message: str) -> None:
    def edit(record: dict) -> None:
        *outer, last = key.split(".")
        for part in outer:
            record = record[part]
        record[last] = value

    change(folder, edit)
    with pytest.raises(SoundloomError, match=message) as raised:
        load_voice(folder)
    assert "\x1b" not in str(raised.value) and len(str(raised.value)) < 400


@pytest.mark.skipif(os.name != "posix", reason="pipes and links of POSIX")
def test_pipes_links_and_large_files_are_refused(folder: Path) -> None:
    change(folder, lambda record: record.pop("files"))
    for name in ("voice.json", "decoder.safetensors"):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(SoundloomError, match=f"{name}: is a pipe"):
            load_voice(folder)
        (folder / name).unlink()
        (folder / name).write_bytes(kept)
    ann = folder / "speakers" / "ann.txt"
    ann.unlink()
    ann.symlink_to(Path(__file__))
    with pytest.raises(SoundloomError, match="a link out of its folder"):
        load_voice(folder).speak("hi", speaker="ann")
    ann.unlink()
    ann.write_text("x" * 10_000)
    assert load_voice(folder).speak("hi", retries=0).seconds > 0  # nobody asked for ann
    with pytest.raises(SoundloomError, match="at most 8,192"):
        load_voice(folder).speak("hi", speaker="ann")
    (folder / "voice.json").write_text(" " * (2 << 20))
    with pytest.raises(SoundloomError, match="expected at most"):
        load_voice(folder)


def test_names_that_are_no_folders() -> None:
    for name, message in (
        ("a" * 300, "too long"),
        ("~nosuchuser/x", "home"),
        ("", "empty"),
        ("a\0b", "null|embedded|no such"),
    ):
        with pytest.raises(SoundloomError, match=message):
            load_voice(name)


def test_voices_and_speakers_are_listed_with_their_facts(folder: Path) -> None:
    rows = list(list_speakers(folder))
    assert rows == [("tiny", None, SpeakerFacts("woman", "American")), ("tiny", "ann", SpeakerFacts("man", ""))]
    shipped = {(voice, speaker): facts for voice, speaker, facts in list_speakers()}
    assert shipped["heart", None] == SpeakerFacts("woman", "American")
    assert shipped["heart", "daniel"] == SpeakerFacts("man", "British")


def test_a_changed_voice_is_sealed_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "speakers" / "ann.txt").write_text("hello world")
    with pytest.raises(SoundloomError, match=r"ann.txt: has changed"):
        load_voice(folder).speak("hi", speaker="ann")
    assert make_voice.main([str(folder), "--seal"]) == 0 and "wrote" in capsys.readouterr().out
    assert load_voice(folder).speak("hi", speaker="ann", retries=0).seconds > 0
    with pytest.raises(SoundloomError, match=r"voice.json is missing"):
        make_voice.main([str(folder / "lm"), "--seal"])


def test_facts_about_speakers() -> None:
    facts = make_voice._facts(["v: woman, American", "ann : man"], ["v", "ann"])
    assert facts == {"v": SpeakerFacts("woman", "American"), "ann": SpeakerFacts("man", "")}
    for text in ("v", "bob: man", ": man"):
        with pytest.raises(SoundloomError, match="NAME: GENDER, ACCENT"):
            make_voice._facts([text], ["v"])
