"""The notebooks run from top to bottom, and none is stored with outputs."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from markdown import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def notebook_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A place to run cells in: pictures without windows, no IPython needed, an empty folder."""
    pytest.importorskip("matplotlib").use("agg")
    ipython: Any = types.ModuleType("IPython")
    ipython.get_ipython, ipython.version_info = (lambda: None), (9, 0)
    display: Any = types.ModuleType("IPython.display")
    display.Audio = lambda data, rate: (data.shape, rate)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def run_cells(path: Path, replacements: dict[str, str]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for cell in code_cells(path):
        source = "".join(cell["source"])
        for old, new in replacements.items():
            source = source.replace(old, new)
        exec(compile(source, path.name, "exec"), names)
    return names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_stored(path: Path) -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells(path))


@pytest.mark.usefixtures("notebook_world")
def test_the_codec_in_ten_minutes() -> None:
    names = run_cells(ROOT / "examples" / "codec_in_ten_minutes.ipynb", {})
    left = names["left"]
    assert left == sorted(left, reverse=True), "each level leaves less"
    assert names["streamed"].shape[-1] > 10


@pytest.mark.slow
@pytest.mark.usefixtures("notebook_world")
def test_a_voice_from_scratch() -> None:
    names = run_cells(ROOT / "examples" / "voice_from_scratch.ipynb", {"STEPS = 60": "STEPS = 24"})
    assert names["speech"].seconds > 0
