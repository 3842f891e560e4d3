"""read_book.py --times and --prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from voice_helpers import tiny_voice

from codec.audio.files import write_audio
from codec.errors import SoundloomError
from pipelines import read_book


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("voice")
    return str(tiny_voice(place / "text").save(place / "tiny"))


def read(voice: str, book: Path, out: Path, *more: str) -> int:
    return read_book.main([str(book), "-o", str(out), "--voice", voice, "--retries", "0", *more])


def test_times_of_a_book_follow_its_chapters_and_survive_a_resume(voice: str, tmp_path: Path) -> None:
    book, out = tmp_path / "book.md", tmp_path / "book.flac"
    book.write_text("# One\n\nHello world.\n\n# Two\n\nHow are you?\n")
    assert read(voice, book, out) == 0
    parts = sorted(path.name for path in (tmp_path / "book.parts").iterdir())
    assert read(voice, book, out, "--times", str(tmp_path / "book.json")) == 0  # reads again what has no times
    words = json.loads((tmp_path / "book.json").read_text())
    assert [word["word"] for word in words] == ["One", "Hello", "world", "Two", "How", "are", "you"]
    marks = json.loads((tmp_path / "book.chapters.json").read_text())
    assert words[2]["end"] <= marks[0]["end"] <= words[3]["start"]
    assert {*parts} < {path.name for path in (tmp_path / "book.parts").iterdir()}
    assert read(voice, book, out, "--times", str(tmp_path / "book.vtt")) == 0
    assert (tmp_path / "book.vtt").read_text().startswith("WEBVTT\n")
    with pytest.raises(SoundloomError, match="--times"):
        read(voice, book, out, "--times", "book.txt")


def test_a_book_is_read_in_the_voice_of_a_prompt(voice: str, tmp_path: Path) -> None:
    book, me = tmp_path / "book.txt", tmp_path / "me.wav"
    book.write_text("Hello world.")
    tone = torch.sin(torch.arange(12_000) / 20)[None] * 0.2
    write_audio(me, tone, 24_000)
    with pytest.raises(SoundloomError, match="prompt_text"):
        read(voice, book, tmp_path / "a.flac", "--prompt", str(me))
    spoken = ("--prompt", str(me), "--prompt-text", "hello")
    assert read(voice, book, tmp_path / "a.flac", *spoken) == 0
    keys = {path.stem for path in (tmp_path / "a.parts").glob("*.flac")}
    write_audio(me, 0.5 * tone, 24_000)
    assert read(voice, book, tmp_path / "a.flac", *spoken, "--chapters", "1") == 0
    assert len({path.stem for path in (tmp_path / "a.parts").glob("*.flac")} - keys) == 1  # another recording
