"""How to install what an extra brings: the words that end an error about a missing package."""

from __future__ import annotations

from pathlib import Path


def install_hint(extra: str) -> str:
    """Return the command that installs an extra: of the clone that this file is in, else of the published package."""
    is_clone = (Path(__file__).parents[2] / "pyproject.toml").is_file()
    return f"pip install -e '.[{extra}]'" if is_clone else f"pip install 'soundloom[{extra}]'"
