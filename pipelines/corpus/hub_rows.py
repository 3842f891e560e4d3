"""Data sets of the library `datasets` as utterances: saved ones, the hub's, and streams that are never kept.

A plan needs to know every utterance, so a stream is read once when planning and once more by whoever tokenizes. It has
no random access: a row is known by its file and its place in it, and a worker that asks for the rows of a shard, which
follow each other, reads on from where it is. To begin a shard inside of a file it reads that file from its start, so
about as many shards as the stream has files (``--shards``) cost the least reading.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from codec.errors import SoundloomError
from codec.store.measure import SourceChanged
from codec.store.plan import Settings, Utterance
from pipelines.corpus.fields import FIELD_NAMES, pick


class DatasetRows:
    """A data set with random access, loaded when it is first needed (each worker loads its own)."""

    streaming = False

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self.settings = name, settings
        self._data: Any = None
        self._column = ""

    def data(self) -> Any:
        """Load the data set with undecoded audio; `SoundloomError` where it cannot be."""
        if self._data is None:
            data = self._load()
            self._column = self._audio_column(data)
            import datasets

            self._data = data.cast_column(self._column, datasets.Audio(decode=False))
        return self._data

    def utterances(self) -> Iterator[tuple[Utterance, str]]:
        """List the rows with their text columns; the split is the one that was loaded."""
        data = self.data()
        texts = data.remove_columns([self._column])
        for index in range(len(texts)):
            yield self._utterance(texts[index], f"row-{index:08d}", "", index), self.settings.split

    @contextmanager
    def fetch(self, item: Utterance) -> Iterator[Path]:
        """Yield one row's audio as a file, a temporary one where the data set holds its bytes."""
        record = self._record(item)
        if self._utterance(record, item.id, "", item.row).text != item.text:
            raise SourceChanged(f"{self.name}: row {item.row} has another text; it changed since the plan")
        audio = record[self._column] or {}
        content, path = audio.get("bytes"), str(audio.get("path") or "")
        if content is None:
            yield Path(path)
            return
        with tempfile.NamedTemporaryFile(suffix=Path(path).suffix[:8] or ".wav") as file:
            file.write(content)
            file.flush()
            yield Path(file.name)

    def _record(self, item: Utterance) -> dict[str, Any]:
        return self.data()[item.row]

    def _utterance(self, row: dict[str, Any], default_id: str, path: str, index: int) -> Utterance:
        options = (self.settings.text_column,) if self.settings.text_column else FIELD_NAMES["text"]
        speaker, language, text = (
            " ".join(pick(row, names).split()) for names in (FIELD_NAMES["speaker"], FIELD_NAMES["language"], options)
        )
        return Utterance(pick(row, FIELD_NAMES["id"]) or default_id, path, text, speaker, language, index)

    def _audio_column(self, data: Any) -> str:
        from datasets import Audio

        features = data.features or {}
        columns = [name for name, kind in features.items() if isinstance(kind, Audio)]
        wanted = self.settings.audio_column or (columns[0] if columns else "audio")
        if wanted not in features:
            raise SoundloomError(f"{self.name}: no audio column {wanted!r}; its columns are {list(features)}")
        return wanted

    def _load(self) -> Any:
        import datasets

        kind, _, rest = self.name.partition(":")
        try:
            if kind in ("hf", "stream"):
                name, _, config = rest.partition(":")
                split = self.settings.split or "train"
                data = datasets.load_dataset(name, config or None, split=split, streaming=self.streaming)
            else:
                data = datasets.load_from_disk(self.name)
        except Exception as error:  # the library raises dozens of kinds, from its own to HTTP's
            raise SoundloomError(
                f"{self.name}: the data set cannot be loaded ({type(error).__name__}: {error})"
            ) from error
        if isinstance(data, dict):
            split = self.settings.split or ("train" if "train" in data else next(iter(data)))
            if split not in data:
                raise SoundloomError(f"{self.name}: no split {split!r}; its splits are {list(data)}")
            data = data[split]
        return data


class StreamRows(DatasetRows):
    """A stream, file by file; the row last read is kept, so that listing and measuring take one pass."""

    streaming = True

    def __init__(self, name: str, settings: Settings) -> None:
        super().__init__(name, settings)
        self._rows: Iterator[dict[str, Any]] = iter(())
        self._place = (-1, -1)  # file and row of ``_row``
        self._row: dict[str, Any] = {}

    def utterances(self) -> Iterator[tuple[Utterance, str]]:
        """List the rows, file by file in the stream's order."""
        for file in range(self.data().num_shards):
            self._open(file)
            while self._advance():
                index = self._place[1]
                item = self._utterance(self._row, f"row-{file:05d}-{index:07d}", _name(file), index)
                content = (self._row[self._column] or {}).get("bytes")
                yield replace(item, size=len(content or b"")), self.settings.split

    def _record(self, item: Utterance) -> dict[str, Any]:
        file = int(item.path.removeprefix("file ") or 0)
        if file != self._place[0] or item.row < self._place[1]:
            self._open(file)
        while self._place[1] < item.row:
            if not self._advance():
                raise SoundloomError(f"{self.name}: {item.path} ends before row {item.row}; it changed since the plan")
        return self._row

    def _open(self, file: int) -> None:
        data = self.data()
        if not file < data.num_shards:
            raise SoundloomError(f"{self.name}: has {data.num_shards} files, not {file + 1}; it changed since the plan")
        self._rows = iter(data.shard(num_shards=data.num_shards, index=file))
        self._place = (file, -1)

    def _advance(self) -> bool:
        try:
            self._row = next(self._rows)
        except StopIteration:
            return False
        except Exception as error:  # of the network, of the format: as many kinds as there are places to read from
            raise SoundloomError(
                f"{self.name}: reading stopped in {_name(self._place[0])} ({type(error).__name__}: {error}); "
                "run again to resume"
            ) from error
        self._place = (self._place[0], self._place[1] + 1)
        return True


def _name(file: int) -> str:
    return f"file {file}"
