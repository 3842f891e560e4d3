"""What the tests of README and docs read: code blocks, commands, links and sentences of Markdown files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_LAUNCHER = re.compile(r"(?:python3?|torchrun|accelerate)$")


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks in a language; ```sh is shell, ```python runs, ```py is only shown."""
    return [body for kind, body in _FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


def shell_lines(text: str) -> list[str]:
    """Return the commands of a shell block, continued lines joined, comments left out."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def inline_commands(path: Path) -> list[str]:
    """Return what stands in backticks and begins like one of our commands with arguments."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8")).replace("\\|", "|")
    return re.findall(r"`((?:soundloom-[a-z-]+|python pipelines/\w+\.py) [^`]+)`", text)


def program_calls(line: str) -> list[tuple[str, list[str]]]:
    """Return (program, its arguments) for each call of ours in a line of shell."""
    calls = []
    words: list[str] = []
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split, lexer.commenters = True, "#"
    for word in [*lexer, ";"]:
        if word and set(word) <= set("|&;"):
            calls += _call(words)
            words = []
        else:
            words.append(word)
    return calls


def _call(words: list[str]) -> list[tuple[str, list[str]]]:
    if not words:
        return []
    if words[0].startswith("soundloom-"):
        return [(words[0].removeprefix("soundloom-").replace("-", "_"), words[1:])]
    if _LAUNCHER.search(words[0]):
        for place, word in enumerate(words):
            found = re.fullmatch(r"(?:.*/)?pipelines/(\w+)\.py", word)
            if found:
                return [(found[1], words[place + 1 :])]
    return []


def commands(path: Path) -> list[str]:
    """Return every line of shell in a page that calls a program of ours."""
    lines = [line for block in blocks(path, "sh") for line in shell_lines(block)] + inline_commands(path)
    return [line for line in lines if program_calls(line)]


def links(path: Path) -> list[str]:
    """Return the relative targets of links and pictures."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    return [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in target]


def sentences(path: Path) -> list[list[str]]:
    """Return the sentences of running text, each as its words; code, tables, headings and pictures do not count."""
    text = re.sub(r"<!--.*?-->", "", _FENCE.sub("\n\n", path.read_text(encoding="utf-8")), flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not re.match(r"\s*(\||#|!\[)", line)]
    text = re.sub(r"\n\s*(?:[-*]|\d+\.) ", "\n\n", "\n".join(["", *lines]))
    text = re.sub(r"`[^`]*`", "code", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text))
    found = [re.split(r"(?<=[.!?])[*)]*\s+", " ".join(part.split())) for part in re.split(r"\n\s*\n", text)]
    return [words for part in found for sentence in part if (words := sentence.split())]
