"""tts.py and continue_audio.py as people call them: files, pipes, lines, pictures, bad input."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from voice_helpers import tiny_voice

from codec.audio.files import read_audio, write_audio
from codec.errors import SoundloomError
from pipelines import continue_audio, tts
from pipelines.command_line import player
from pipelines.command_line.run import run

TEXT = "Hello world. How are you?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("voice")
    return tiny_voice(place / "text").save(place / "tiny")


def run_script(name: str, *arguments: str, text: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess:
    script = Path(tts.__file__).with_name(name)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])}
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        input=text,
        capture_output=True,
        env=environment,
        cwd=cwd,
        check=False,
    )


def test_text_to_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out.flac"
    assert tts.main(["Hello", "world", "--voice", str(folder), "-o", str(out), "--seed", "1", "--levels", "2"]) == 0
    said = capsys.readouterr().err
    assert f"wrote {out}: " in said and "s of speech in" in said and "x real time)" in said
    assert read_audio(out).shape[1] > 1000
    (tmp_path / "text.txt").write_text("\ufeffHello world", encoding="utf-8")
    arguments = ["-f", str(tmp_path / "text.txt"), "--voice", str(folder), "--seed", "1", "--levels", "2"]
    assert tts.main([*arguments, "-o", str(tmp_path / "b.flac")]) == 0
    assert (tmp_path / "b.flac").read_bytes() == out.read_bytes()


def test_pipes_and_streams_carry_the_same_sound(folder: Path, tmp_path: Path) -> None:
    common = ["--voice", str(folder), "--retries", "0"]
    whole = run_script("tts.py", "-o", "-", *common, text=TEXT.encode())
    assert whole.returncode == 0 and b"s of speech in" in whole.stderr
    wave = read_audio(io.BytesIO(whole.stdout))
    streamed = run_script("tts.py", TEXT, "--stream", "--voice", str(folder))
    assert streamed.returncode == 0 and b"first sound after" in streamed.stderr
    samples = np.frombuffer(streamed.stdout, "<i2").astype(np.float32) / 32767
    assert samples.shape[0] == wave.shape[1] and np.abs(samples - wave[0].numpy()).max() < 2e-4


def test_default_output_is_speech_wav(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tts.main(["hi", "--voice", str(folder)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["speech.wav"]
    assert tts.main(["hi", "--voice", str(folder), "--stream", "-o", "streamed.wav"]) == 0
    assert (tmp_path / "streamed.wav").is_file()


def test_a_file_a_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("hello\n\n!!!\nworld\n")
    out = tmp_path / "out"
    assert tts.main(["--lines", "-f", str(lines), "-o", f"{out}/", "--voice", str(folder)]) == 1
    assert sorted(path.name for path in out.iterdir()) == ["0001.wav", "0003.wav"]
    said = capsys.readouterr().err
    assert "line 2: nothing to speak" in said and "2 files" in said


def test_picture(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["hi", "--voice", str(folder), "-o", str(tmp_path / "a.wav"), "--plot", str(tmp_path / "a.png")]
    assert tts.main(arguments) == 0
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_prompt_of_another_rate_and_two_channels(folder: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "me.wav", torch.rand(2, 8000) - 0.5, 16_000)
    out = tmp_path / "out.wav"
    arguments = ["hi", "--voice", str(folder), "-o", str(out), "--prompt", str(tmp_path / "me.wav")]
    assert tts.main([*arguments, "--prompt-text", "hello"]) == 0
    out.unlink()
    with pytest.raises(SoundloomError, match="prompt_text"):
        tts.main(arguments)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["  "], "empty"),
        (["..."], "nothing to speak"),
        (["hi", "-f", "x.txt"], "not both"),
        (["-f", "absent.txt"], "absent.txt"),
        (["hi", "--voice", "absent/or/so"], "no voice"),
        (["hi", "-o", "out.doc"], "unknown kind"),
        (["hi", "-o", "."], "is a folder"),
        (["hi", "-o", "file.txt/out.wav"], "is a file"),
        (["hi", "--plot", "out.wav"], "unknown kind"),
        (["hi", "--levels", "9"], "levels 1 to 3"),
        (["hi", "--threads", "0"], "threads"),
        (["hi", "--prompt", "absent.wav", "--prompt-text", "x"], "absent.wav"),
        (["hi", "--prompt", "file.txt", "--prompt-text", "x"], "file.txt"),
        (["hi", "--speaker", "bob"], "no speaker 'bob'"),
        (["hi", "--takes", "0"], "--takes 0: expected 1 to 20"),
        (["hi", "--takes", "2", "--stream"], "cannot be taken back"),
        (["hi", "--choose-by", "tiny"], "there is nothing to choose"),
        (["hi", "--takes", "2", "--choose-by", "huge"], "expected guard, tiny, base"),
        (["hi", "--lines"], "-o FOLDER"),
        (["hi", "--lines", "-o", "file.txt"], "needs a folder"),
    ],
)
def test_bad_input_is_told_and_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("no audio")
    given = arguments if "--voice" in arguments else [*arguments, "--voice", str(folder)]
    with pytest.raises(SoundloomError, match=message):
        tts.main(given)
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_text_that_is_not_utf8(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(b"\xff\xfe\x00"), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(SoundloomError, match="standard input: is not UTF-8"):
        tts.main(["--voice", str(folder), "-o", str(tmp_path / "a.wav")])


def test_errors_of_the_program_are_one_line_and_code_2(folder: Path, tmp_path: Path) -> None:
    done = run_script("tts.py", "", "--voice", str(folder), cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_recording_is_continued(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = tmp_path / "in.wav"
    write_audio(prompt, 0.3 * torch.randn(1, 8000), 16_000)
    common = [str(prompt), "--voice", str(folder), "--seconds", "0.5"]
    assert continue_audio.main([*common, "-o", str(tmp_path / "a.wav")]) == 0
    assert "0.50 s of new audio in" in capsys.readouterr().err
    assert read_audio(tmp_path / "a.wav").shape == (1, 24_000)
    assert continue_audio.main([*common, "-o", str(tmp_path / "b.wav"), "--only-new"]) == 0
    assert read_audio(tmp_path / "b.wav").shape == (1, 12_000)
    text = ["--text", "hello", "--prompt-text", "how are you"]
    assert continue_audio.main([*common, "-o", str(tmp_path / "c.wav"), *text]) == 0
    for arguments, message in (
        ([*common, "-o", str(tmp_path / "d.doc")], "unknown kind"),
        (["absent.wav", *common[1:], "-o", str(tmp_path / "d.wav")], "no such file"),
        ([str(prompt), "--seconds", "0", "-o", str(tmp_path / "d.wav"), "--voice", str(folder)], "seconds"),
    ):
        with pytest.raises(SoundloomError, match=message):
            continue_audio.main(arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav", "c.wav", "in.wav"]


def test_what_cannot_be_spoken_is_shown_or_an_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.wav"
    arguments = ["Hello. Привет. World.", "--voice", str(folder), "-o", str(out), "--retries", "0"]
    assert tts.main(arguments) == 0
    assert "warning: 1 part of the text cannot be spoken" in capsys.readouterr().err
    out.unlink()
    with pytest.raises(SoundloomError, match="1 part of the text"):
        tts.main([*arguments, "--strict"])
    assert not out.exists()


def test_voices_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert tts.main(["--list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["heart", "(its", "own)", "woman", "American"] in rows and ["heart", "daniel", "man", "British"] in rows


@pytest.mark.skipif(os.name != "posix", reason="a shell script plays")
def test_play(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(player.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    arguments = ["hi", "--voice", str(folder), "--play", "--retries", "0"]
    with pytest.raises(SoundloomError, match="no player found"):
        tts.main(arguments)
    fake = tmp_path / "bin" / "aplay"
    fake.write_text(f'#!/bin/sh\n/bin/cp "$2" "{tmp_path}/played.wav"\n')
    fake.chmod(0o755)
    assert tts.main(arguments) == 0 and not Path("speech.wav").exists()
    assert tts.main([*arguments[:-3], "--retries", "0", "-o", "same.wav"]) == 0
    assert Path("played.wav").read_bytes() == Path("same.wav").read_bytes()
    fake.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(SoundloomError, match="ended with code 3"):
        tts.main(arguments)


def test_times_of_words(folder: Path, tmp_path: Path) -> None:
    for suffix in (".json", ".srt", ".vtt"):
        path = tmp_path / f"a{suffix}"
        arguments = ["Hello world", "--voice", str(folder), "-o", str(tmp_path / "a.wav"), "--retries", "0"]
        assert tts.main([*arguments, "--times", str(path)]) == 0 and path.stat().st_size > 0
    with pytest.raises(SoundloomError, match="unknown kind of file"):
        tts.main(["hi", "--times", "a.txt"])


def test_a_lexicon_of_ones_own(folder: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.tsv"
    words.write_text("hello\tbI\n", encoding="utf-8")
    common = ["hello", "--voice", str(folder), "--retries", "0"]
    assert tts.main([*common, "-o", str(tmp_path / "a.wav")]) == 0
    assert tts.main([*common, "-o", str(tmp_path / "b.wav"), "--lexicon", str(words)]) == 0
    assert (tmp_path / "a.wav").read_bytes() != (tmp_path / "b.wav").read_bytes()
    words.write_text("hello there\n")
    with pytest.raises(SoundloomError, match="line 1"):
        tts.main([*common, "--lexicon", str(words)])


@pytest.mark.skipif(os.name != "posix", reason="/dev/zero")
def test_text_is_read_only_as_far_as_it_can_be_spoken(folder: Path, tmp_path: Path) -> None:
    for file, message in (
        ("/dev/zero", "more than 200,000 bytes"),
        ("a" * 300, "cannot be read"),
        ("a\0", "file name"),
    ):
        with pytest.raises(SoundloomError, match=message):
            tts.main(["-f", file, "--voice", str(folder), "-o", str(tmp_path / "a.wav")])
    with pytest.raises(SoundloomError, match="more than 67,108,864 bytes"):
        tts.main(["-f", "/dev/zero", "--lines", "--voice", str(folder), "-o", str(tmp_path / "lines")])
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("hello"))
    writer.start()
    assert tts.main(["-f", str(pipe), "--voice", str(folder), "-o", str(tmp_path / "a.wav"), "--retries", "0"]) == 0
    writer.join()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", f"{'a' * 300}.wav"], "File name too long"),
        (["--voice", "~nosuchuser/x"], "home"),
        (["--voice", ""], "the name is empty"),
        (["--threads", "99999999999999999999"], "expected 1 to 256"),
        (["-o", ""], "-o is empty"),
        (["--device", "tpu"], "device 'tpu'"),
        (["--speed", "3"], "--speed 3.0: expected 0.5"),
        (["--prompt", "a" * 300, "--prompt-text", "x"], "File name too long"),
    ],
)
def test_odd_names_and_numbers_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    out = [] if "-o" in arguments else ["-o", str(tmp_path / "a.wav")]
    voice = [] if "--voice" in arguments else ["--voice", str(folder)]
    assert run(lambda: tts.main(["hi", *voice, *out, *arguments])) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


def test_closed_streams(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--voice", str(folder), "-o", "-"]
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SoundloomError, match="standard input is closed"):
        tts.main(["--voice", str(folder), "-o", "a.wav"])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        with pytest.raises(SoundloomError, match="standard output is closed"):
            tts.main(["hi", *common])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        assert run(lambda: tts.main(["", *common])) == 2
    assert capsys.readouterr().out == ""
