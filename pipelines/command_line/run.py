"""What every program here shares: how it starts, how it fails, --version, the number of threads."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

from codec.errors import SoundloomError, quoted

MOST_THREADS = 256


def run(main: Callable[[], int]) -> int:
    """Call a program's ``main`` and turn expected failures into one clear line and an exit code.

    Returns ``main``'s own code; 2 for bad input (`SoundloomError`) and what the system refuses; 130 after Ctrl-C; 141
    where the reader of a pipe went away. ``--version`` alone prints the version.
    """
    if sys.stderr is None:  # closed: without this, messages would go to standard output
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the program runs
    try:
        if sys.argv[1:] == ["--version"]:
            print(version())
            return 0
        _warn_of_another_checkout()
        return main()
    except SoundloomError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader closed its end (`… -o - | head`): point stdout elsewhere, or Python complains while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a name that is too long, a full disk
        name = f"{quoted(os.fsdecode(error.filename))}: " if isinstance(error.filename, (str, bytes)) else ""
        return _failed(f"{name}{error.strerror or error}")


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
