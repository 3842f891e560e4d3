"""The README is short and plain, its Python runs, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean

import pytest
from markdown import README, ROOT, blocks, sentences

TEXT = README.read_text(encoding="utf-8")
BLOCKS = blocks(README, "python")


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.split("\n")[0][:40])
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "hello.wav").stat().st_size > 10_000


def test_there_is_python_in_eight_lines() -> None:
    assert [len([line for line in code.splitlines() if line.strip()]) for code in BLOCKS] == [8]


def test_it_is_short() -> None:
    lines = TEXT.splitlines()
    assert len(lines) <= 130
    assert len(TEXT.encode()) <= 7000
    assert [line for line in lines if len(line) > 120] == []


def test_its_sentences_are_short() -> None:
    lengths = {" ".join(words): len(words) for words in sentences(README)}
    assert len(lengths) > 15
    assert [text for text, length in lengths.items() if length > 30] == []
    assert mean(lengths.values()) <= 15


def test_named_files_exist() -> None:
    named = set(re.findall(r"\b(?:pipelines|configs|docs|tests|codec|lm)/[\w/.-]+\.(?:py|yaml|md|json)\b", TEXT))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_tree_names_folders_that_exist() -> None:
    tree = next(block for block in blocks(README, "") if block.startswith("codec/"))
    parent = ""
    for line in tree.splitlines():
        name = line.split()[0]
        parent = parent if line.startswith(" ") else name
        assert (ROOT / (parent + name if line.startswith(" ") else name)).is_dir(), line


def test_install_and_speak_stands_first_and_ci_runs_the_test_command() -> None:
    first = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1]
    assert first.startswith("Install and speak\n\n```sh\npython3 -m venv")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for words in ("pip install -q -c constraints.txt -e '.[test", "python -m pytest", "pipelines/tts.py"):
        assert words in ci


@pytest.mark.parametrize("words", ["English only", "89 MB", "docs/listen.md", "CITATION.cff", "NOTICE"])
def test_it_says_what_a_newcomer_must_know(words: str) -> None:
    assert words in TEXT
