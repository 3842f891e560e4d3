"""Ctrl-C while a program imports torch, which takes seconds, is one line and code 130."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAMS = [path for path in sorted((ROOT / "pipelines").glob("*.py")) if "__main__" in path.read_text()]
# Runs each program up to the import of torch, in one process.
FIND = """
import runpy, sys
for path in sys.argv[1:]:
    for name in list(sys.modules):
        if name.split(".")[0] in ("codec", "lm", "pipelines", "torch"):
            del sys.modules[name]
    try:
        runpy.run_path(path, run_name="program")
    except KeyError as error:
        print(path)
"""


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": ""}
    # A test that runs in the background of a shell has Ctrl-C ignored, and so would its children.
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_an_interrupt_while_torch_is_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n")
    done = python(tmp_path, str(ROOT / "pipelines" / "bench.py"), "--help")
    assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "")


def test_programs_that_import_torch_at_their_top_are_ready_for_it(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise KeyError\n")
    done = python(tmp_path, "-c", FIND, *map(str, PROGRAMS))
    assert done.returncode == 0, done.stderr
    found = [Path(line) for line in done.stdout.splitlines()]
    assert len(found) > 5
    for path in found:
        code = path.read_text().partition("\nfrom __future__ import annotations\n")[2].lstrip()
        assert code.startswith("import pipelines.command_line.interrupts"), path.name
