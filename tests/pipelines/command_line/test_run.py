"""What every program shares: one line and an exit code for each failure, --version, and which code it runs."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import pipelines
from codec.errors import SoundloomError
from pipelines.command_line.run import make_parser, run, set_threads, version


def failing(error: BaseException) -> int:
    def main() -> int:
        raise error

    return run(main)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SoundloomError("no such thing"), 2, "error: no such thing\n"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), 2, "error: 'aaa': File name too long\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_failures_are_one_line(capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str) -> None:
    assert failing(error) == code and capsys.readouterr().err == said


def test_defects_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py", "--version"])
    assert run(lambda: 7) == 0 and capsys.readouterr().out.strip() == version()
    with pytest.raises(SystemExit) as ended:
        make_parser("x.py", None).parse_args(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out.strip() == version()


@pytest.mark.parametrize("threads", [0, -1, 257, 10**20])
def test_threads_have_bounds(threads: int) -> None:
    with pytest.raises(SoundloomError, match="expected 1 to 256"):
        set_threads(threads)


def test_a_program_warns_where_it_runs_the_code_of_another_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Path(pipelines.__file__).parent
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=str(here / "tts.py")))
    assert run(lambda: 0) == 0 and capsys.readouterr().err == ""
    for name in ("codec", "lm", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=str(tmp_path / "pipelines" / "tts.py")))
    assert run(lambda: 0) == 0
    said = capsys.readouterr().err
    assert said.startswith("warning: ") and str(here.parent) in said and said.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="a shell closes the stream")
def test_with_standard_error_closed_nothing_goes_to_standard_output() -> None:
    code = "from pipelines.command_line.run import run; from codec.errors import SoundloomError as E\n"
    code += "def main(): raise E('no')\nraise SystemExit(run(main))"
    command = ["sh", "-c", f'{sys.executable} -c "$0" 2>&-', code]
    environment = {**os.environ, "PYTHONPATH": str(Path(pipelines.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 2 and done.stdout == b""


def after(code: str, command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a main that consists of ``code``, in a shell's ``command`` that has it as "$0"."""
    program = f"from pipelines.command_line.run import run\ndef main():\n    {code}\n    return 0\n"
    program += "raise SystemExit(run(main))"
    words = ["sh", "-c", command.format(python=sys.executable), program]
    variables = {**os.environ, "PYTHONPATH": str(Path(pipelines.__file__).parents[1]), **environment}
    return subprocess.run(words, capture_output=True, env=variables, check=False)


@pytest.mark.skipif(os.name != "posix", reason="a shell runs it")
def test_names_that_the_terminal_cannot_show_are_escaped() -> None:
    done = after("print('n\\udcff \u00fc.wav')", '{python} -c "$0"', PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout == rb"n\udcff \xfc.wav" + b"\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_under_standard_output_is_one_line() -> None:
    done = after("print('done')", '{python} -c "$0" > /dev/full')
    assert done.returncode == 2 and done.stderr == b"error: No space left on device\n"
