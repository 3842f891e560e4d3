"""Every option of every program with values that nobody means: one line that names it, or work that would begin."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from pipelines.command_line.run import run
from pipelines.command_line.settings import _hints

# What a program cannot do without, so that the option under test is the only thing that is wrong.
NEEDED: dict[str, list[str]] = {
    "ablate_codec": ["plan.yaml", "-o", "out"],
    "average_lm": ["a", "b", "-o", "out"],
    "bench": ["-o", "out", "--quick"],
    "bench_scale": ["-o", "out"],
    "codec_doctor": ["shipped", "wavs"],
    "continue_audio": ["wavs/a.wav", "--seconds", "1", "-o", "out.wav"],
    "evaluate_codec": ["shipped", "wavs", "-o", "out"],
    "evaluate_music": ["-o", "out", "--corpus", "wavs", "--reference", "b"],
    "evaluate_tts": ["shipped", "-o", "out", "--teacher", "none", "--no-wer"],
    "import_audio": ["wavs", "out"],
    "make_corpus": ["out", "--texts", "texts.txt"],
    "make_lexicon": ["out.tsv.gz", "--texts", "texts.txt"],
    "make_music": ["out", "--lm", "a"],
    "make_music_corpus": ["out"],
    "make_samples": ["out"],
    "make_voice": ["out", "--lm", "a"],
    "music": ["piano", "--model", "a"],
    "plan_run": ["plan.yaml", "--gpu", "h100"],
    "read_book": ["texts.txt", "-o", "out.wav"],
    "reconstruct": ["wavs/a.wav", "-o", "out.wav"],
    "serve": [],
    "tokenize_corpus": ["wavs", "store"],
    "tts": ["hello"],
    "whole_chain": ["out", "--dry-run"],
}
SOURCE = '[{"path": "wavs"}]'
TRAINERS = {
    "train_codec": ["--sources", SOURCE, "--dev_sources", SOURCE, "--output", "run"],
    "train_lm": ["--store", "store", "--output", "run"],
    "tune_decoder": ["--voice", "a", "--audio", '["m"]', "--store", "store", "--dev_store", "store", "--output", "run"],
}
SETTINGS = {"train_codec": "TrainCodecSettings", "train_lm": "TrainLMSettings", "tune_decoder": "TuneDecoderSettings"}
HUGE = "1" + "0" * 30
BAD = ["-1", "nan", "inf", "-inf", HUGE, "1e308", ""]


class Began(BaseException):
    """The program would open a model, run another program or write now: its options passed."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a little of everything, in which nothing that costs time can begin."""
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs" / "a.wav", torch.zeros(4800).numpy(), 24000)
    (tmp_path / "texts.txt").write_text("One line of text.\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def began(*_: Any, **__: Any) -> None:
        raise Began

    for name in (
        "torch.nn.Module.__init__",
        "subprocess.Popen.__init__",
        "pipelines.voice.voice.load_voice",
        "pipelines.musicgen.model.load_musicgen",
        "codec.pretrained.load_codec",
        "pipelines.evaluate_codec.load_codec",
        "pipelines.evaluate_tts.load_voice",
        "pipelines.codec_doctor.load_codec",
        "pipelines.bench.measure",
        "pipelines.benchmarks.scale.measure",
        "pipelines.music_corpus.render.find_synthesizer",
        "pipelines.music_judge.systems.read_asked",
        "pipelines.plan_run.read_training",
        "pipelines.import_audio.find_files",
        "pipelines.make_corpus.read_texts",
        "pipelines.make_lexicon.Teacher",
        "pipelines.make_samples.shipped_voices",
        "pipelines.make_music.make_music",
        "pipelines.make_voice.make_voice",
        "pipelines.ablate_codec.read_plan",
        "pipelines.training.loop.start_processes",
    ):
        monkeypatch.setattr(name, began)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None if 1 <= count <= 256 else 1 / 0)
    return tmp_path


def options_of(main: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch) -> list[argparse.Action]:
    """Every option of a program's own parser that takes a value."""
    found: list[argparse.Action] = []

    def parse(parser: argparse.ArgumentParser, *_: Any) -> None:
        found.extend(action for action in parser._actions if action.option_strings and action.nargs != 0)
        raise Began

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_known_args", parse)  # which parse_args calls
        with pytest.raises(Began):
            main([])
    return found


def outcome(
    main: Callable[[list[str]], int],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Return the last line on standard error, or what else the program came to; what it raises is a defect."""
    with monkeypatch.context() as patched:
        patched.setattr("sys.argv", ["program.py", *words])
        try:
            code = run(lambda: main(words))
        except Began:
            return "began"
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "".join(lines)
    return lines[-1] if code == 2 else f"returned {code}"


def test_every_program_is_asked() -> None:
    """A program that is added must be added to `NEEDED` or `TRAINERS` as well."""
    programs = {path.stem for path in Path(importlib.import_module("pipelines").__path__[0]).glob("[a-z]*.py")}
    assert programs == {*NEEDED, *TRAINERS}


@pytest.mark.parametrize("program", NEEDED)
def test_numbers_that_nobody_means(
    place: Path, program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"pipelines.{program}").main
    wrong = []
    for action in options_of(main, monkeypatch):
        name = action.option_strings[0]
        if action.type not in (int, float):
            continue
        for value in BAD:
            seen = outcome(main, [*NEEDED[program], f"{name}={value}"], capsys, monkeypatch)
            if name not in seen and f"settings: {name[2:]}" not in seen:
                wrong.append(f"{name}={value[:12]}: {seen}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("program", NEEDED)
def test_words_that_nobody_means(
    place: Path, program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"pipelines.{program}").main
    for action in options_of(main, monkeypatch):
        if action.type in (int, float):
            continue
        for value in ["", "x" * 300, "-1", "nan", "\x1b[31m\n", "~nobody/x", "/dev/null/x"]:
            seen = outcome(main, [*NEEDED[program], f"{action.option_strings[-1]}={value}"], capsys, monkeypatch)
            assert "\n" not in seen and "\x1b" not in seen and len(seen) < 2500, action.option_strings


@pytest.mark.parametrize("values", [["-1"], pytest.param(["nan", "1e308", HUGE, ""], marks=pytest.mark.slow)])
@pytest.mark.parametrize("program", TRAINERS)
def test_settings_that_nobody_means(
    place: Path, program: str, values: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"pipelines.{program}")
    words = TRAINERS[program]
    settings = getattr(module, SETTINGS[program])
    assert outcome(module.main, words, capsys, monkeypatch) == "began"
    wrong = []
    for key, hint in _hints(settings):
        if hint not in (int, float, int | None, float | None):
            continue
        for value in values:
            seen = outcome(module.main, [*words, f"--{key}={value}"], capsys, monkeypatch)
            # Weights of losses and the like have no upper bound; what they do is in the log.
            fine = seen == "began" and value in (HUGE, "1e308")
            if not fine and not any(part in seen for part in key.split(".")):
                wrong.append(f"{key}={value[:12]}: {seen[:150]}")
    assert not wrong, "\n".join(wrong)
