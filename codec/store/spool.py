"""The utterances of a plan while it is made: on disk in the order of their list, with an eye on their ids."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from codec.errors import SoundloomError
from codec.store.plan_parts import COLUMNS, make_batch
from codec.store.utterance import Utterance

_ROWS, _CHARACTERS = 1 << 14, 1 << 25  # about the most of a batch


@dataclass
class Spool:
    """Utterances as record batches in a nameless temporary file in ``folder``; eight bytes of each stay in memory."""

    folder: Path
    count: int = 0
    seconds: float = 0.0
    _file: IO[bytes] | None = None
    _ids: array[int] = field(default_factory=lambda: array("q"))  # hash of each id
    _pieces: dict[int, int] = field(default_factory=dict)  # of ids such as a#000: place and hash of what comes before #

    def fill(self, items: Iterable[Utterance]) -> Spool:
        """Write all of ``items``; the folder is made when the first comes.

        Raises:
            SoundloomError: the system refuses to write.
        """
        sink: Any = None
        for batch in _batched(self._counted(items)):
            try:
                if sink is None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - closed by close()
                    sink = pa.ipc.new_stream(self._file, COLUMNS)
                sink.write_batch(batch)
            except OSError as error:
                raise SoundloomError(
                    f"{self.folder}: cannot write it ({error.strerror or error}); free space or choose another place"
                ) from error
        if sink is not None:
            sink.close()
        return self

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the batches back; an utterance whose id another has before it gets a problem that says so."""
        if self._file is None:
            return
        suspects, seen = self._suspects(), set[str]()
        pieces = self._taken_pieces()
        start = 0
        self._file.seek(0)
        with pa.ipc.open_stream(self._file) as stream:
            for batch in stream:
                places = np.flatnonzero(suspects[start : start + len(batch)])
                yield _mark(batch, places.tolist(), start, pieces, seen) if len(places) else batch
                start += len(batch)

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()

    def _counted(self, items: Iterable[Utterance]) -> Iterator[Utterance]:
        for item in items:
            self._ids.append(hash(item.id))
            if "#" in item.id:
                self._pieces[self.count] = hash(item.id.rpartition("#")[0])
            self.count += 1
            self.seconds += item.seconds
            yield item

    def _suspects(self) -> np.ndarray:
        """Return for each utterance whether its id's hash occurs twice or its id has a #: bool [count]."""
        hashes = np.frombuffer(self._ids, np.int64)
        order = np.sort(hashes)
        twice = np.unique(order[1:][order[1:] == order[:-1]])
        suspects = np.isin(hashes, twice, kind="sort") if len(twice) else np.zeros(len(hashes), bool)
        suspects[list(self._pieces)] = True
        return suspects

    def _taken_pieces(self) -> set[int]:
        """Return the places of ids such as a#000 where there is also an utterance a."""
        if not self._pieces:
            return set()
        there = np.isin(np.fromiter(self._pieces.values(), np.int64), np.frombuffer(self._ids, np.int64))
        return {place for place, is_there in zip(self._pieces, there.tolist(), strict=True) if is_there}


def _batched(items: Iterable[Utterance]) -> Iterator[pa.RecordBatch]:
    waiting: list[Utterance] = []
    characters = 0
    for item in items:
        waiting.append(item)
        characters += len(item.text)
        if len(waiting) >= _ROWS or characters >= _CHARACTERS:
            yield make_batch(waiting)
            waiting, characters = [], 0
    if waiting:
        yield make_batch(waiting)


def _mark(batch: pa.RecordBatch, places: list[int], start: int, pieces: set[int], seen: set[str]) -> pa.RecordBatch:
    """Give the utterances at ``places`` a problem where their id is taken; ``seen`` collects the ids."""
    ids, problems = batch.column("id"), batch.column("problem").to_pylist()
    for place in places:
        name = ids[place].as_py()
        # A long file's pieces are called id#000, id#001 …; no other utterance may have such a name.
        if not problems[place] and (name in seen or start + place in pieces):
            problems[place] = f"its id {name!r} is taken by another utterance"
        seen.add(name)
    index = COLUMNS.get_field_index("problem")
    return batch.set_column(index, COLUMNS.field(index), pa.array(problems, pa.large_string()))
