"""One training for one output folder: a second that would overwrite the first one's checkpoints stops at once."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from codec.errors import SoundloomError, quoted

if sys.platform != "win32":
    import fcntl

_NAME = ".lock"


@contextmanager
def lock_output(output: str | os.PathLike[str], is_main: bool = True) -> Iterator[None]:
    """Keep other trainings out of ``output`` while the block runs; the main process does it for all.

    The system lets go of the lock when the process ends, however it ends, so that a killed run blocks nobody. On
    Windows, and on file systems without locks, there is no lock.

    Raises:
        SoundloomError: another process has the lock, or the system refuses to write.
    """
    folder = Path(output)
    if not is_main or sys.platform == "win32":
        yield
        return
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _acquire(folder)
    except FileExistsError:
        raise SoundloomError(f"{folder}: cannot be made a folder, it is a file; choose another output") from None
    except OSError as error:
        raise SoundloomError(f"{folder}: cannot write it ({error.strerror}); choose another output") from error
    try:
        yield
    finally:
        # Before the lock goes: whoever opened the file in between sees that its name is gone, and opens it anew.
        with suppress(OSError):
            (folder / _NAME).unlink()
        os.close(handle)
        if is_new:
            with suppress(OSError):
                folder.rmdir()  # what failed before it wrote anything leaves no folder behind


if sys.platform != "win32":

    def _acquire(folder: Path) -> int:
        """Return an open file that holds the lock. Record locks, because a fork of the process must not keep them."""
        path = folder / _NAME
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = os.read(handle, 200).decode("utf-8", "replace")
                os.close(handle)
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    who = f" ({quoted(owner)})" if owner else ""
                    raise SoundloomError(
                        f"{folder}: another training{who} writes there; wait for its end or choose another output"
                    ) from None
                return os.open(os.devnull, os.O_RDWR)  # a file system without locks
            if _is_current(handle, path):
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {os.uname().nodename}".encode())
                return handle
            os.close(handle)  # its owner removed it after we had opened it


def _is_current(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
