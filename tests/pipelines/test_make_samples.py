"""make_samples.py: every file on the page exists, whatever the codec offers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from markdown import links
from voice_helpers import tiny_codec, tiny_voice

from codec import load_codec
from codec.audio.files import read_audio
from codec.errors import SoundloomError
from pipelines import make_samples
from pipelines.make_voice import seal

SPEAKERS = Path(make_samples.__file__).parent / "voice" / "shipped" / "heart" / "speakers"


@pytest.fixture
def voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny voice with one speaker; its words are those of its tokenizer."""
    folder = tiny_voice(tmp_path / "text").save(tmp_path / "tiny")
    (folder / "speakers").mkdir()
    shutil.copy(SPEAKERS / "fenrir.flac", folder / "speakers" / "fenrir.flac")
    (folder / "speakers" / "fenrir.txt").write_text("Hello world")
    seal(folder)
    monkeypatch.setattr(make_samples, "NEW_SENTENCE", "How are you?")
    monkeypatch.setattr(make_samples, "teacher_sentence", lambda rate: None)
    return folder


def make(folder: Path, voice: Path, *more: str) -> str:
    words = [str(folder), "--voice", str(voice), "--format", ".flac", "--seconds", "1", *more]
    assert make_samples.main(words) == 0
    return (folder / "listen.md").read_text(encoding="utf-8")


def test_every_file_on_the_page_is_there_and_no_other(voice: Path, tmp_path: Path) -> None:
    page = make(tmp_path / "out", voice)
    named = links(tmp_path / "out" / "listen.md")
    files = {f"samples/{path.name}" for path in (tmp_path / "out" / "samples").iterdir()}
    assert files == set(named)
    assert len(re.findall(r"^\| \d+ levels?, ", page, re.MULTILINE)) == 3  # 1, 2 and all 3
    assert "without adversarial training" not in page
    original = read_audio(tmp_path / "out" / "samples" / "fenrir-original.flac", None)
    decoded = read_audio(tmp_path / "out" / "samples" / "fenrir-3-levels.flac", None)
    assert original.shape == decoded.shape == (1, 24_000)


def test_a_plain_decoder_gets_a_row(voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_samples, "plain_decoder", lambda codec: tiny_codec(1))
    page = make(tmp_path / "out", voice)
    assert "| all levels, without adversarial training | [play](samples/fenrir-without-gan.flac) |" in page


def test_the_shipped_codec_has_a_plain_decoder_and_others_need_none() -> None:
    codes = torch.zeros(1, 8, 3, dtype=torch.long)
    codec = load_codec()
    assert not torch.equal(make_samples.plain_decoder(codec).decode(codes), codec.decode(codes))
    assert make_samples.plain_decoder(tiny_codec()) is None


def test_clone_needs_both(voice: Path, tmp_path: Path) -> None:
    with pytest.raises(SoundloomError, match="give both, or neither"):
        make_samples.main([str(tmp_path / "out"), "--voice", str(voice), "--clone", "me.wav"])
