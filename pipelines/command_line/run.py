"""What every program here shares: how it starts and how it fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from codec.errors import SoundloomError


def run(main: Callable[[], int]) -> int:
    """Call a program's ``main`` and turn expected failures into one clear line and an exit code.

    Returns: ``main``'s own code; 2 for bad input (`SoundloomError`); 130 after Ctrl-C; 141 where the
    reader of a pipe went away.
    """
    try:
        return main()
    except SoundloomError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader closed its end (`… -o - | head`): point stdout elsewhere, or Python complains while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
