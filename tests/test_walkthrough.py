"""The steps of docs/train.md run in their order from an empty folder with recordings, at a tiny size."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch
from markdown import README, ROOT, commands, program_calls, shell_lines

from codec.audio.files import read_audio, write_audio

GUIDE = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
SPEAKERS = ROOT / "pipelines" / "voice" / "shipped" / "heart" / "speakers"
WORDS = ["the", "old", "lighthouse", "keeper", "counted", "the", "ships", "that", "passed", "before", "dawn"]
#: too slow, or in need of the extra eval: their commands are parsed by test_docs.py
NOT_RUN = ("evaluate_codec", "evaluate_tts")
SMALL_CODEC = ["--steps", "2", "--batch_size", "2", "--segment_seconds", "0.5", "--dev_crops", "2", "--threads", "1"]
SMALL_CODEC += ["--validate_every", "2", "--save_every", "2", "--bf16", "false", "--kmeans_batches", "2"]
SMALL_LM = ["--steps", "2", "--frames_per_batch", "400", "--validate_every", "2", "--save_every", "2"]
SMALL_LM += ["--validate_batches", "1", "--bf16", "false", "--threads", "1"]


def steps() -> list[tuple[str, list[str]]]:
    """The commands between the two marks of the guide."""
    part = GUIDE.split("<!-- sequence: tests")[1].split("<!-- sequence: end")[0]
    found = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)
    return [call for block in found for line in shell_lines(block) for call in program_calls(line)]


def record(folder: Path, count: int) -> None:
    """Recordings of two speakers, 1.2 s each, with texts next to them."""
    for speaker in ("aoede", "fenrir"):
        wave = read_audio(SPEAKERS / f"{speaker}.flac", 24_000)
        (folder / speaker).mkdir(parents=True)
        for i in range(count):
            begin = 4_000 * i % 60_000
            write_audio(folder / speaker / f"{i:02d}.wav", wave[:, begin : begin + 28_800], 24_000)
            (folder / speaker / f"{i:02d}.txt").write_text(" ".join(WORDS[i % 8 : i % 8 + 4]), encoding="utf-8")


def smaller(program: str, words: list[str], tiny: bool) -> list[str]:
    """The same command with the tiny configurations (or the guide's) and few steps."""
    text = "\n".join(words)
    if tiny:
        text = text.replace("configs/own_codec.yaml", "configs/tiny/codec.yaml")
        text = text.replace("configs/own_voice.yaml", "configs/tiny/lm_delay.yaml")
        text = re.sub(r"\n--start_grids\n\S+", "", text)
    words = text.replace("configs/", f"{ROOT}/configs/").split("\n")
    if program == "train_codec":
        words += [*SMALL_CODEC, "--output", "runs/own_codec"] + (["--quantizer_start", "1"] if tiny else [])
    if program == "train_lm":
        words += [*SMALL_LM, "--output", "runs/own_voice"]
    return words


def walk(folder: Path, tiny: bool) -> None:
    record(folder / "recordings", 8)
    record(folder / "validation", 2)
    for program, words in steps():
        if program in NOT_RUN:
            continue
        code = importlib.import_module(f"pipelines.{program}").main(smaller(program, words, tiny))
        # codec_doctor ends with 1 where something is sick, and a codec of two steps is
        assert code in ((0, 1) if program == "codec_doctor" else (0,)), f"{program}: exit code {code}"
        torch.set_num_threads(1)
    assert (folder / "hello.wav").stat().st_size > 1000
    assert "2 hours of my own speech" in (folder / "voices" / "mine" / "README.md").read_text(encoding="utf-8")


def test_the_guide_has_the_whole_way() -> None:
    order = [program for program, _ in steps()]
    wanted = ["import_audio", "train_codec", "codec_doctor", "evaluate_codec", "tokenize_corpus", "train_lm"]
    assert [one for one in dict.fromkeys(order)] == [*wanted, "make_voice", "tts"]


def test_the_steps_run_with_tiny_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    walk(tmp_path, tiny=True)


@pytest.mark.slow
def test_the_steps_run_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    walk(tmp_path, tiny=False)


# --- the other guides ------------------------------------------------------------------------------------------------

#: they need the hub, a sound card, a cluster, the extra eval, a server, or data that are not here
ELSEWHERE = re.compile(
    r"facebook/|hf:|stream:|--engine|kokoro|wordnet|corpora/bella|--play|soundloom-(?:evaluate|music|bench|serve|codec-doctor|ablate"
    r"|whole-chain|tune|make-voice)|accelerate"
)


def here(page: Path) -> list[tuple[str, list[str]]]:
    """The calls of a page that run anywhere."""
    lines = [line for line in commands(page) if not ELSEWHERE.search(line)]
    return [call for line in lines for call in program_calls(line)]


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, *(ROOT / "docs" / f"{name}.md" for name in ("speak", "codecs", "store"))])
def test_commands_of_the_guides_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "recordings", 4)
    wave = read_audio(SPEAKERS / "fenrir.flac", 24_000)
    for name in ("me", "talk", "in"):
        write_audio(tmp_path / f"{name}.wav", wave[:, :60_000], 24_000)
    for name in ("chapter", "sentences"):
        (tmp_path / f"{name}.txt").write_text("Hello there.\nHow are you?\n", encoding="utf-8")
    (tmp_path / "my-words.tsv").write_text("gif\t\u02a4\u02c8\u026af\n", encoding="utf-8")
    calls = here(page)
    assert len(calls) >= 3
    for program, words in calls:
        code = importlib.import_module(f"pipelines.{program}").main(smaller(program, words, tiny=False))
        assert code == 0, f"{program} {words}: exit code {code}"
