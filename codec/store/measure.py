"""How large and how long the sources of a plan are, without reading them: planning opens few files.

A source's size comes from its folder's entry, or from whoever listed it. Its length is what the list says, or what its
header says for the first sources and every thousandth after them; the others' lengths follow from their sizes.
The worker that tokenizes a source reads and hashes it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from codec.audio.files import audio_info
from codec.errors import SoundloomError
from codec.store.utterance import Utterance

#: opens an utterance's source as a file for as long as the block runs
Fetch = Callable[[Utterance], AbstractContextManager[Path]]


class SourceChanged(SoundloomError):
    """A source is no longer what it was when the plan was made."""


_FIRST_HEADERS, _FIRST_FETCHED = 1000, 64  # headers read at the start: of local files, of what must be fetched
_EVERY = 1000
_CHUNK, _SLICE, _THREADS = 4096, 256, 16  # sizes are asked for together: a network's disk takes a millisecond for each
_LEAST_RATE = 500  # a header may lie; nobody encodes audio that is worth keeping at less than 500 bytes a second


def describe_unusable(error: OSError | ValueError) -> str:
    """Return why a file cannot be used, or "" where the disk and not the file is at fault (an I/O error)."""
    if isinstance(error, ValueError):
        return "not a file name"
    bad = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
    return (error.strerror or str(error)).lower() if error.errno in (*bad, errno.EINVAL) else ""


def file_sizes(root: str, paths: list[str]) -> list[int | OSError | ValueError]:
    """Return the size of each file below ``root``, or the error where it has none; many are asked for at once."""
    if len(paths) <= _SLICE:
        return _sizes(root, paths)
    slices = [paths[start : start + _SLICE] for start in range(0, len(paths), _SLICE)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [size for sizes in pool.map(lambda part: _sizes(root, part), slices) for size in sizes]


def modified_times(root: str, paths: list[str]) -> list[float | None]:
    """Return when each file below ``root`` was last modified, None where it cannot be read; many at once."""

    def ask(part: list[str]) -> list[float | None]:
        found: list[float | None] = []
        for path in part:
            try:
                found.append(os.stat(os.path.join(root, path)).st_mtime)
            except (OSError, ValueError):
                found.append(None)
        return found

    if len(paths) <= _SLICE:
        return ask(paths)
    slices = [paths[start : start + _SLICE] for start in range(0, len(paths), _SLICE)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [time for times in pool.map(ask, slices) for time in times]


def measured(items: Iterable[Utterance], root: str, fetch: Fetch) -> Iterator[Utterance]:
    """Fill in ``size`` and ``seconds`` of each utterance (or ``problem``), in order.

    Raises:
        SoundloomError: the disk fails.
    """
    local = Path(root).is_dir()
    lengths = _Lengths(fetch, _FIRST_HEADERS if local else _FIRST_FETCHED)
    source = iter(items)
    # What is fetched, such as a stream's row, is at hand only until the next is listed.
    while chunk := list(islice(source, _CHUNK if local else 1)):
        unknown = list({item.path: None for item in chunk if item.row < 0 and not item.size and not item.problem})
        sizes = {} if "://" in root else dict(zip(unknown, file_sizes(root, unknown), strict=True))
        for item in chunk:
            yield item if item.problem else _measure(item, sizes.get(item.path, item.size), lengths)


def _sizes(root: str, paths: list[str]) -> list[int | OSError | ValueError]:
    found: list[int | OSError | ValueError] = []
    for path in paths:
        try:
            facts = os.stat(os.path.join(root, path))
            plain = stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)  # a folder's own error says more
            found.append(facts.st_size if plain else OSError(errno.EINVAL, "a pipe or a device"))
        except (OSError, ValueError) as error:
            found.append(error)
    return found


def _measure(item: Utterance, size: int | OSError | ValueError, lengths: _Lengths) -> Utterance:
    if not isinstance(size, int):
        problem = describe_unusable(size)
        if not problem:
            raise SoundloomError(f"{item.source}: cannot be read ({size}); run again when the disk is well") from size
        return replace(item, problem=problem, seconds=0.0)
    seconds = round(item.duration or lengths.of(item, size), 3)
    if (size, seconds) == (item.size, item.seconds):
        return item
    return Utterance(**{**vars(item), "size": size, "seconds": seconds})  # `replace` takes three times as long


@dataclass
class _Lengths:
    """Lengths of sources by their headers, and by the seconds a byte of those before with the same ending."""

    fetch: Fetch
    first: int
    asked: int = 0
    known: dict[str, tuple[int, int, float]] = field(default_factory=dict)  # by ending: headers, bytes, seconds

    def of(self, item: Utterance, size: int) -> float:
        """Return the seconds from the utterance's start to the end of its file."""
        ending = os.path.splitext(item.path)[1].lower()
        count, total, seconds = self.known.get(ending, (0, 0, 0.0))
        if item.seconds > 0:  # the list said so
            length = item.seconds
        else:
            self.asked += 1
            # Later ones only where a file is read alone: a row of a data set may be read with thousands of others.
            later = (item.row < 0 or size) and self.asked % _EVERY == 0
            if self.asked > self.first and not later and count >= min(8, self.first):
                length = seconds * size / total if size and total else seconds / count
            else:
                length, read = self._header(item)
                self.known[ending] = (count + 1, total + read, seconds + length)
        return max(0.0, (min(length, size / _LEAST_RATE) if size else length) - item.start)

    def _header(self, item: Utterance) -> tuple[float, int]:
        """Return the length and the size of one source; 0 where it cannot be used: its worker writes the reason."""
        try:
            with self.fetch(item) as path:
                size = path.stat().st_size
                return min(audio_info(path).duration, size / _LEAST_RATE), size
        except (OSError, ValueError) as error:
            if not describe_unusable(error):
                raise SoundloomError(
                    f"{item.source}: cannot be read ({error}); run again when the disk is well"
                ) from error
        except SoundloomError:
            pass
        return 0.0, 0
