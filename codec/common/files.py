"""Files and folders: read up to a limit, hashed in pieces, and written whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from codec.errors import SoundloomError

#: largest files that are read whole, by what they are
CONFIG_BYTES = CARD_BYTES = 1 << 20
TEXT_MODEL_BYTES = 10 << 20


def sha256_bytes(data: bytes) -> str:
    """Hash bytes; 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hash a file in pieces; `OSError` passes through."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_file(path: str | os.PathLike[str], limit: int | None = None, missing: str = "") -> int:
    """Return the size of a plain file before anything opens it.

    A pipe would be waited on for ever, and a device never ends. ``limit``: the most bytes allowed. ``missing``: what
    the message adds where there is no such file.

    Raises:
        SoundloomError: the file is missing, is no plain file, or is too large.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise SoundloomError(f"{path} is missing{f'; {missing}' if missing else ''}") from None
    except (OSError, ValueError) as error:
        raise SoundloomError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "folder" if stat.S_ISDIR(found.st_mode) else "pipe or a device"
        raise SoundloomError(f"{path}: is a {kind}; expected a plain file")
    if limit is not None and found.st_size > limit:
        raise SoundloomError(f"{path}: {found.st_size:,} bytes; expected at most {limit:,}")
    return found.st_size


def read_bytes(
    path: str | os.PathLike[str], limit: int | None = None, expected: int | None = None, missing: str = ""
) -> bytes:
    """Read a plain file whole (see `check_file`); of ``expected`` bytes where that is known.

    Raises:
        SoundloomError: the file cannot be read, or has another size.
    """
    size = check_file(path, limit, missing)
    if expected is not None and size != expected:
        raise SoundloomError(f"{path}: {size} bytes, its commit record says {expected}")
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise SoundloomError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_text(path: str | os.PathLike[str], limit: int, missing: str = "") -> str:
    """Read a plain UTF-8 file of at most ``limit`` bytes.

    Raises:
        SoundloomError: the file cannot be read, is too large, or is not UTF-8.
    """
    try:
        return read_bytes(path, limit, missing=missing).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SoundloomError(f"{path}: cannot be read as UTF-8 text ({error})") from None


def read_packed(path: str | os.PathLike[str], limit: int) -> bytes:
    """Read a plain file, gzipped or not, that unpacks to at most ``limit`` bytes.

    Raises:
        SoundloomError: the file cannot be read or unpacked, or holds more.
    """
    check_file(path, limit)
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            data = (gzip.GzipFile(fileobj=raw) if packed else raw).read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SoundloomError(f"{path}: cannot be read ({error})") from error
    if len(data) > limit:
        raise SoundloomError(f"{path}: unpacks to more than {limit:,} bytes; expected at most that")
    return data


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path next to ``path`` that becomes ``path`` when the block ends without an error.

    The temporary file has ``path``'s suffix, is flushed to disk before it takes the name, and is removed
    on any error. Missing parent folders are made.

    Raises:
        SoundloomError: the system refuses to write.
    """
    path = Path(path)
    if "\0" in path.name:
        raise SoundloomError(f"{path}: is not a file name; name another file")
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _settle(temporary, path)
    # A name with surrogates cannot be encoded everywhere; safetensors has an error of its own for a full disk.
    except (OSError, UnicodeError, SafetensorError) as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``: whole or not at all.

    Raises:
        SoundloomError: the system refuses to write.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``: whole or not at all.

    Raises:
        SoundloomError: the system refuses to write.
    """
    write_bytes(path, text.encode("utf-8"))


def write_folder(folder: str | os.PathLike[str], fill: Callable[[Path], None], replace: bool = True) -> Path:
    """Let ``fill`` write a new folder under a temporary name, flush it to disk, and give it its name.

    A folder of that name steps aside last, and comes back if the new one cannot take its place. A killed process
    leaves a ``.tmp-*`` folder next to it and nothing else. Returns the folder.

    Raises:
        SoundloomError: the system refuses to write, or the folder exists and may not be replaced.
    """
    folder = Path(folder)
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{folder.name[:40]}-", dir=folder.parent))
        place = temporary / "new"
        place.mkdir()
        fill(place)
        for path in sorted(place.rglob("*"), reverse=True):
            sync(path)
        sync(place)
        if folder.exists() and not replace:
            raise SoundloomError(f"{folder}: exists already; choose another place")
        _swap(place, folder, temporary / "old")
        sync(folder.parent)
    except (OSError, UnicodeError, SafetensorError) as error:
        raise _cannot_write(folder, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names where the system can, to disk."""
    if path.is_symlink() or (path.is_dir() and os.name != "posix"):
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(new: Path, folder: Path, aside: Path) -> None:
    # A folder cannot be replaced by one rename, as a file can.
    there = folder.exists()
    if there:
        os.replace(folder, aside)
    try:
        os.replace(new, folder)
    except BaseException:
        if there:
            os.replace(aside, folder)
        raise


def _settle(temporary: Path, path: Path) -> None:
    # mkstemp makes files that only their owner can read; give the mode that an ordinary open() would have given.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(temporary, 0o666 & ~mask)
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def _cannot_write(path: Path, error: Exception) -> SoundloomError:
    reason = getattr(error, "strerror", None) or error
    return SoundloomError(f"{path}: cannot write it ({reason}); free space or choose another place")
