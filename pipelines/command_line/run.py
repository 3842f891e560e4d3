"""What every program here shares: how it starts, how it fails, --version, the number of threads."""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

from codec.errors import SoundloomError, quoted
from pipelines.command_line.interrupts import allow_cleanup

MOST_THREADS = 256
MOST_WORKERS = 256  # processes
MOST_BATCH = 1024
MOST_SEED = 2**63 - 1
A_LOT = 1_000_000_000  # more than anyone means, and few enough for every counter
_RANGES: dict[str, tuple[float, float]] = {
    "threads": (1, MOST_THREADS),
    "seed": (0, MOST_SEED),
    "levels": (1, 1024),
    "limit": (1, A_LOT),
}


def run(main: Callable[[], int]) -> int:
    """Call a program's ``main`` and turn expected failures into one clear line and an exit code.

    Returns ``main``'s own code; 2 for bad input (`SoundloomError`) and what the system refuses; 130 after Ctrl-C; 141
    where the reader of a pipe went away. ``--version`` alone prints the version.
    """
    if sys.stderr is None:  # closed: without this, messages would go to standard output
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the program runs
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what its encoding does not have
    try:
        allow_cleanup()
        if sys.argv[1:] == ["--version"]:
            print(version())
            return 0
        _warn_of_another_checkout()
        code = main()
        if sys.stdout is not None:
            sys.stdout.flush()  # here, so that a full disk is reported like any other failure
        return code
    except SoundloomError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _drop_output()  # the reader closed its end (`… -o - | head`)
        return 141
    except OSError as error:  # a name that is too long, a full disk
        name = f"{quoted(os.fsdecode(error.filename))}: " if isinstance(error.filename, (str, bytes)) else ""
        try:
            sys.stdout.flush()
        except (OSError, AttributeError):
            _drop_output()
        return _failed(f"{name}{error.strerror or error}")


def _drop_output() -> None:
    """Point standard output elsewhere, or Python complains while it exits."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def version() -> str:
    """Return the name and version of this soundloom."""
    from importlib import metadata

    try:
        return f"soundloom {metadata.version('soundloom')}"
    except metadata.PackageNotFoundError:
        return "soundloom (a checkout that is not installed)"


def make_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows the program's docstring as it is written and knows --version."""
    parser = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=version(), help="show the version and exit")
    return parser


def add_threads_option(parser: argparse.ArgumentParser) -> None:
    """Add --threads, for `set_threads`."""
    parser.add_argument("--threads", type=int, help=f"CPU threads, 1 to {MOST_THREADS} (default: one for each core)")


def check_numbers(options: argparse.Namespace, **ranges: tuple[float, float]) -> None:
    """Check numbers of the command line before any work; an option that was not given (None) passes.

    ``ranges``: the least and the most of an option, by its name in ``options``. Seeds, threads and levels are known.

    Raises: SoundloomError, which names the option; NaN is never in a range.
    """
    for name, (least, most) in (_RANGES | ranges).items():
        value = getattr(options, name, None)
        if isinstance(value, (int, float)) and not least <= value <= most:
            expected = f"{_shown(least)} to {_shown(most)}"
            raise SoundloomError(f"--{name.replace('_', '-')} {quoted(value)}: expected {expected}")


def _shown(number: float) -> str:
    return "2^63 - 1" if number == MOST_SEED else f"{number:g}" if isinstance(number, float) else f"{number}"


def set_threads(threads: int | None) -> None:
    """Set the number of torch's threads; None leaves its own choice. Raises: SoundloomError outside 1 to 256."""
    if threads is None:
        return
    if not 1 <= threads <= MOST_THREADS:
        raise SoundloomError(f"--threads {quoted(threads)}: expected 1 to {MOST_THREADS}")
    import torch

    torch.set_num_threads(threads)


def _warn_of_another_checkout() -> None:
    """Warn where a program of one checkout runs the packages of another installation."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is None:
        return
    root = Path(script).resolve().parents[1]
    if Path(script).resolve().parent.name != "pipelines" or not (root / "codec" / "__init__.py").is_file():
        return
    for name in ("codec", "lm", "pipelines"):
        spec = importlib.util.find_spec(name)
        used = Path(spec.origin).resolve().parents[1] if spec is not None and spec.origin else root
        if used != root:
            print(
                f"warning: {root / 'pipelines' / Path(script).name} runs the package {name!r} of {used}; "
                f"run `pip install -e {root}` to use this checkout",
                file=sys.stderr,
            )
            return
