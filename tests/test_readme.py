"""The README's Python runs, and the programs and files that it names exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.split("\n")[0][:40])
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_there_is_something_to_run() -> None:
    assert len(BLOCKS) >= 2


def test_named_files_exist() -> None:
    named = set(re.findall(r"\b(?:pipelines|configs|docs|tests|codec|lm)/[\w/.-]+\.(?:py|yaml|md|json)\b", README))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
