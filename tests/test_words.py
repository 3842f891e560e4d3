"""Plain English: words that a native reader stumbles over do not stand in docstrings, comments and guides."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown import PAGES, ROOT

#: the word, as a pattern, and what to write instead
WORDS = {
    r"\btell(?:s|ing)?\b|\btold\b": "report, show, state, record, contain, know",
    r"(?<!each )(?<!both )\bof which\b|\bof whose\b": "which parts, whose",
    r"(?<!-)\bbeside\b": "next to",
    r"\bgo(?:es)? on\b|\bwent on\b": "resume, continue",
    r"\bso many\b": "a number, or 'that many'",
    r"\bheard\b|\bhears\b": "input to, receives",
    r"\bthey lie\b|\blies? (?:first|beside|on disk)\b": "stored",
    r"\bdrawn levels?\b|\bdraws? (?:from|codes|ids|a code)\b": "sampled levels, samples",
    r"^\s*Errors:": "Raises:",
    r"\bit has not\b": "it does not have",
    r"\bwanted \d": "expected at least",
}
CODE = [path for room in ("codec", "lm", "pipelines") for path in sorted((ROOT / room).rglob("*.py"))]
GUIDES = [page for page in PAGES if "experiments" not in page.parts and "codec-report" not in page.parts]
OTHERS = [*sorted((ROOT / "configs").rglob("*.yaml")), *sorted((ROOT / "pipelines/voice").rglob("README.md"))]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of what people read: docstrings, comments, help texts and errors; all of Markdown."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        yield from ((token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT)
        for node in ast.walk(ast.parse(text)):
            for constant in read_by_people(node):
                lines = constant.value.splitlines()
                yield from ((constant.lineno + i, line) for i, line in enumerate(lines))
        return
    for i, line in enumerate(text.splitlines(), 1):
        if path.suffix == ".md" or line.lstrip().startswith("#"):
            yield i, line


def read_by_people(node: ast.AST) -> Iterator[ast.Constant]:
    """Yield the strings of a node that are its docstring, a help text or part of an error."""
    parts: list[ast.AST] = []
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
        first = node.body[0]
        parts = [first.value] if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) else []
    elif isinstance(node, ast.Call):
        parts = [keyword.value for keyword in node.keywords if keyword.arg == "help"]
        parts += node.args if isinstance(node.func, ast.Name) and node.func.id == "SoundloomError" else []
    for part in parts:
        for one in ast.walk(part):
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                yield one


def found_in(path: Path) -> list[str]:
    """Return the words found, each with its place and what to write instead."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {match[0].strip()!r}; write: {instead}"
        for number, line in prose(path)
        for pattern, instead in WORDS.items()
        for match in re.finditer(pattern, line, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", [*CODE, *GUIDES, *OTHERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_plain(path: Path) -> None:
    assert found_in(path) == []


def test_the_list_sees_docstrings_comments_help_and_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        '"""What it tells."""\nx = 1  # beside it\nadd("--beside", help="what is heard")\n'
        'raise SoundloomError(f"{x} of which")\ntold = "told"\n'
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert [line.split(";")[0].split(": ")[1] for line in found_in(path)] == [
        "'beside'",
        "'tells'",
        "'heard'",
        "'of which'",
    ]
