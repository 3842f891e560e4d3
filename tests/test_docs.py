"""Every command of README and docs parses, links lead somewhere, Python runs, and "to change X, open Y" holds."""

from __future__ import annotations

import argparse
import importlib
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from markdown import PAGES, ROOT, blocks, commands, links, program_calls

COMMANDS = [(page, line) for page in PAGES for line in commands(page)]
SNIPPETS = [(page, code) for page in PAGES if page.name != "README.md" for code in blocks(page, "python")]


class Parsed(Exception):
    """The arguments are good; what the program would do then is not done."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that parses a program's arguments with its real parser and stops there."""

    def stopping(original: Any) -> Any:
        def parse(*args: Any, **kwargs: Any) -> Any:
            original(*args, **kwargs)
            raise Parsed

        return parse

    def check(program: str, words: list[str]) -> None:
        module = importlib.import_module(f"pipelines.{program}")
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", stopping(argparse.ArgumentParser.parse_args))
            if hasattr(module, "parse_settings"):
                patch.setattr(module, "parse_settings", stopping(module.parse_settings))
            with pytest.raises((Parsed, SystemExit)) as stopped:
                module.main(words)
            # --help and --version end with 0; an option that does not exist ends with 2
            assert isinstance(stopped.value, Parsed) or stopped.value.code in (0, None)

    return check


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page.stem}: {line[:60]}" for page, line in COMMANDS])
def test_commands_parse(page: Path, line: str, parse_only: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for program, words in program_calls(line):
        parse_only(program, words)


def test_there_are_commands_and_a_wrong_one_is_seen(parse_only: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) > 60
    assert program_calls("python pipelines/tts.py 'a b' | aplay -x # end") == [("tts", ["a b"])]
    assert program_calls("torchrun --nproc_per_node 2 pipelines/train_lm.py --steps 2") == [
        ("train_lm", ["--steps", "2"])
    ]
    with pytest.raises(AssertionError):
        parse_only("tts", ["hello", "--no-such-option"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "report.md"], ids=lambda page: page.stem)
def test_lines_are_short(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", "!["))] == []


def test_every_guide_is_in_the_index() -> None:
    listed = links(ROOT / "docs" / "index.md")
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"} <= set(listed)


@pytest.mark.parametrize(("page", "code"), SNIPPETS, ids=[f"{p.stem}: {c.splitlines()[0]}" for p, c in SNIPPETS])
def test_python_runs(page: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page.name, "exec"), {})


# --- console commands -------------------------------------------------------------------------------------------------


def test_every_program_has_a_console_command() -> None:
    section = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.scripts]\n")[1].split("\n[")[0]
    scripts = dict(re.findall(r'^([\w-]+) = "([\w.:]+)"$', section, re.MULTILINE))
    programs = {path.stem for path in (ROOT / "pipelines").glob("*.py")} - {"__init__"}
    wanted = {f"soundloom-{name.replace('_', '-')}": f"pipelines.command_line.scripts:{name}" for name in programs}
    assert scripts == wanted


def test_a_console_command_returns_the_exit_code_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.command_line import scripts

    monkeypatch.setattr("sys.argv", ["soundloom-reconstruct", "no-such-file.wav", "-o", "x.wav"])
    assert scripts.reconstruct() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


# --- docs/architecture.md ---------------------------------------------------------------------------------------------

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rows_of(heading: str) -> list[list[str]]:
    section = ARCHITECTURE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return rows[2:]


def test_the_files_to_open_exist() -> None:
    rows = rows_of("To change X, open Y")
    assert len(rows) >= 12
    for what, where, _ in rows:
        assert (ROOT / where.strip("`")).is_file(), f"{what}: {where}"


def test_the_files_on_the_walks_exist() -> None:
    named = re.findall(r"`((?:codec|lm|pipelines|tests)/[\w/]+\.py)`", ARCHITECTURE)
    assert [name for name in named if not (ROOT / name).is_file()] == []


def only_in(where: str, what: str) -> Any:
    """The module that the table names for ``what``."""
    named = {row[0]: row[1].strip("`") for row in rows_of("To change X, open Y")}
    assert named[what] == where
    return importlib.import_module(where.removesuffix(".py").replace("/", "."))


def test_a_discriminator_is_added_in_its_file_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    module = only_in("codec/discriminators.py", "a discriminator")

    class Loudness(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv1d(1, 1, 9, stride=4)

        def forward(self, wave: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
            feature = self.layer(wave.abs())
            return feature.mean(-1), [feature]

    class More(module.Discriminators):  # type: ignore[misc,name-defined]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.parts.append(Loudness())

    config = module.DiscriminatorConfig(windows=(64,), periods=(2,), stft_channels=2, period_channels=2)
    scores, features = More(config)(torch.randn(2, 1, 400))
    plain, _ = module.Discriminators(config)(torch.randn(2, 1, 400))
    assert len(scores) == len(features) == len(plain) + 1
    from codec import losses

    assert torch.isfinite(losses.discriminator_loss(scores, scores))
    assert torch.isfinite(losses.feature_matching_loss(features, features))


def test_a_teacher_is_added_in_its_file_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import numpy as np

    where = next(row[1].strip("`") for row in rows_of("To change X, open Y") if row[0] == "a teacher")
    module = only_in(where, "a teacher")

    class Hummer(module.Teacher):  # type: ignore[misc,name-defined]
        name, voice, version, licence, sample_rate = "hummer", "low", "1", "CC0-1.0", 16_000

        def __init__(self, voice: str = "") -> None:
            pass

        def speak(self, text: str, seed: int) -> Any:
            return (0.3 * np.sin(np.arange(800 * len(text)) / 20)).astype(np.float32)

    monkeypatch.setitem(module.TEACHERS, "hummer", Hummer)
    from pipelines import make_corpus

    (tmp_path / "texts.txt").write_text("Hello world, how are you today?\n", encoding="utf-8")
    assert make_corpus.main([str(tmp_path / "c"), "--texts", str(tmp_path / "texts.txt"), "--teacher", "hummer"]) == 0
    assert "hummer-low" in (tmp_path / "c" / "manifest.jsonl").read_text(encoding="utf-8")


def test_a_sampling_method_is_changed_in_its_file_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch
    from voice_helpers import tiny_voice

    module = only_in("lm/generation/sampling.py", "a sampling method")
    calls = itertools.count()

    def flat(logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        next(calls)
        return torch.ones_like(logits) / logits.shape[-1]

    voice = tiny_voice(tmp_path)
    before = voice.speak("Hello world", seed=1).codes
    monkeypatch.setattr(module, "distribution", flat)
    after = voice.speak("Hello world", seed=1).codes
    assert next(calls) > 0
    assert before.shape != after.shape or not torch.equal(before, after)


# --- hints ------------------------------------------------------------------------------------------------------------


def test_a_hint_names_the_clone_or_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from codec.common import extras

    assert extras.install_hint("plot") == "pip install -e '.[plot]'"
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "codec" / "common" / "extras.py"))
    assert extras.install_hint("plot") == "pip install 'soundloom[plot]'"


def test_every_extra_is_in_the_table_and_every_hint_names_one() -> None:
    section = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]\n")[1]
    extras = set(re.findall(r"^(\w+) = \[", section.split("\n[tool")[0], re.MULTILINE))
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert extras == set(re.findall(r"^\| `(\w+)` \|", index.split("## Extras")[1], re.MULTILINE))
    sources = [
        path.read_text(encoding="utf-8")
        for name in ("codec", "lm", "pipelines")
        for path in (ROOT / name).rglob("*.py")
    ]
    named = {extra for text in sources for extra in re.findall(r"install_hint\(['\"](\w+)['\"]\)|'\.\[(\w+)\]'", text)}
    assert {one or other for one, other in named} <= extras


def test_the_version_is_the_same_everywhere() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert version and cited and version[1] == cited[1]
    assert f"## {version[1]}" in (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")
