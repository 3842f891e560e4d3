"""Corpora packed in large files, WebDataset's tar and Parquet, in a folder or on an object store.

A sound in a tar is known by the place of its bytes, so that any worker reads it alone. A row of a Parquet file is read
with its row group; the rows of a shard follow each other, so that each group is read about once.
"""

from __future__ import annotations

import posixpath
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codec.audio.files import AUDIO_SUFFIXES
from codec.common.checked import parse_json
from codec.errors import SoundloomError
from codec.store.measure import SourceChanged
from codec.store.plan import Settings, Utterance
from pipelines.corpus.fields import FIELD_NAMES, is_text, pick
from pipelines.corpus.remote import Remote

_BLOCK = 512  # of a tar
_MAX_TEXT = 1 << 20


@contextmanager
def _as_file(content: bytes, suffix: str) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(suffix=suffix[:8]) as file:
        file.write(content)
        file.flush()
        yield Path(file.name)


class TarRows:
    """WebDataset's samples: files of one name up to its first dot, such as ``a/1.flac``, ``a/1.txt``, ``a/1.json``."""

    suffix = ".tar"

    def __init__(self, files: Remote, settings: Settings) -> None:
        self.files, self.settings = files, settings
        self._file: Any = None
        self._name = ""

    def utterances(self) -> Iterator[tuple[Utterance, str]]:
        """List the samples; each tar's headers are read once, in order."""
        for name, _ in self.files.files():
            if name.endswith(self.suffix):
                try:
                    with self.files.open(name) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                        yield from self._samples(tar, name)
                except (tarfile.TarError, OSError, EOFError) as error:
                    raise SoundloomError(f"{self.files.root}/{name}: not a tar that can be read ({error})") from error

    def _samples(self, tar: tarfile.TarFile, name: str) -> Iterator[tuple[Utterance, str]]:
        key, sounds, facts = "", list[tarfile.TarInfo](), dict[str, Any]()
        for member in tar:
            vars(tar)["members"] = []  # or the names of the whole tar would stay in memory
            folder, base = posixpath.split(member.name)
            stem, _, ending = base.partition(".")
            if not member.isreg() or not stem or not is_text(member.name):
                continue
            if posixpath.join(folder, stem) != key:
                yield from self._sample(name, key, sounds, facts)
                key, sounds, facts = posixpath.join(folder, stem), [], {}
            if f".{ending.lower()}" in AUDIO_SUFFIXES:
                sounds.append(member)
            elif ending.lower() in ("txt", "json") and member.size <= _MAX_TEXT:
                facts |= _facts(tar, member, ending.lower())
        yield from self._sample(name, key, sounds, facts)

    def _sample(
        self, name: str, key: str, sounds: list[tarfile.TarInfo], facts: dict[str, Any]
    ) -> Iterator[tuple[Utterance, str]]:
        options = (self.settings.text_column,) if self.settings.text_column else FIELD_NAMES["text"]
        names = (options, FIELD_NAMES["speaker"], FIELD_NAMES["language"])
        text, speaker, language = (" ".join(pick(facts, choice).split()) for choice in names)
        for sound in sounds:
            identity = key if len(sounds) == 1 else sound.name
            path = f"{name}/{sound.name}"
            item = Utterance(identity, path, text, speaker, language, sound.offset_data, size=sound.size)
            yield item, pick(facts, FIELD_NAMES["split"])

    @contextmanager
    def fetch(self, item: Utterance) -> Iterator[Path]:
        """Yield one sound as a temporary file."""
        name, _, member = item.path.partition(f"{self.suffix}/")
        file = self._open(name + self.suffix)
        file.seek(item.row - _BLOCK)
        try:
            header = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise SourceChanged(f"{item.path}: is no longer where it was") from error
        content = file.read(item.size)
        if header.size != item.size or len(content) != item.size:
            raise SourceChanged(f"{item.path}: has another size")
        with _as_file(content, posixpath.splitext(member)[1]) as path:
            yield path

    def _open(self, name: str) -> Any:
        if name != self._name:
            if self._file is not None:
                self._file.close()
            try:
                self._file, self._name = self.files.open(name), name
            except FileNotFoundError as error:
                raise SourceChanged(f"{name}: is gone") from error
        return self._file


class ParquetRows:
    """The rows of Parquet files: audio as bytes, or as the library `datasets` stores it (``bytes`` and ``path``)."""

    suffix = ".parquet"

    def __init__(self, files: Remote, settings: Settings) -> None:
        self.files, self.settings = files, settings
        self._place: tuple[str, int] = ("", -1)  # file and row group of `_audio`
        self._audio: Any = None
        self._starts: list[int] = []
        self._parquet: Any = None
        self._name = ""

    def utterances(self) -> Iterator[tuple[Utterance, str]]:
        """List the rows with their text columns; no audio is read."""
        text = (self.settings.text_column,) if self.settings.text_column else FIELD_NAMES["text"]
        names = {**FIELD_NAMES, "text": text}
        for name, _ in self.files.files():
            if not name.endswith(self.suffix):
                continue
            parquet = self._open(name)
            wanted = {field for key in ("id", "text", "speaker", "language", "split") for field in names[key]}
            columns = [column for column in parquet.schema_arrow.names if column in wanted]
            row = 0
            for batch in parquet.iter_batches(batch_size=4096, columns=columns):
                for record in batch.to_pylist() if columns else [{}] * batch.num_rows:
                    yield self._utterance(name, row, record, names), pick(record, FIELD_NAMES["split"])
                    row += 1

    def _utterance(self, name: str, row: int, record: dict[str, Any], names: dict[str, tuple[str, ...]]) -> Utterance:
        text, speaker, language = (
            " ".join(pick(record, names[key]).split()) for key in ("text", "speaker", "language")
        )
        stem = name[: -len(self.suffix)]
        return Utterance(pick(record, FIELD_NAMES["id"]) or f"{stem}/{row:08d}", name, text, speaker, language, row)

    @contextmanager
    def fetch(self, item: Utterance) -> Iterator[Path]:
        """Yield one row's audio as a temporary file."""
        import bisect

        self._open(item.path)
        group = bisect.bisect_right(self._starts, item.row) - 1
        if group >= len(self._starts) - 1:
            raise SourceChanged(f"{item.path}: has no row {item.row}")
        if self._place != (item.path, group):
            self._audio = self._parquet.read_row_group(group, columns=[self._column(item.path)]).column(0)
            self._place = (item.path, group)
        value = self._audio[item.row - self._starts[group]].as_py()
        content, path = (value.get("bytes"), str(value.get("path") or "")) if isinstance(value, dict) else (value, "")
        with _as_file(content or b"", posixpath.splitext(path)[1] or ".wav") as file:
            yield file

    def _column(self, name: str) -> str:
        columns = self._parquet.schema_arrow.names
        options = (self.settings.audio_column,) if self.settings.audio_column else FIELD_NAMES["audio"]
        found = next((column for column in options if column in columns), None)
        if found is None:
            raise SoundloomError(f"{name}: no column {options[0]!r}; its columns are {columns}")
        return found

    def _open(self, name: str) -> Any:
        import pyarrow as pa
        import pyarrow.parquet

        if name != self._name:
            try:
                self._parquet = pyarrow.parquet.ParquetFile(self.files.open(name))
            except FileNotFoundError as error:
                raise SourceChanged(f"{name}: is gone") from error
            except (OSError, pa.ArrowException) as error:
                raise SoundloomError(f"{self.files.root}/{name}: not a Parquet file ({error})") from error
            counts = [self._parquet.metadata.row_group(i).num_rows for i in range(self._parquet.num_row_groups)]
            self._starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
            self._name = name
        return self._parquet


def _facts(tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> dict[str, Any]:
    source = tar.extractfile(member)
    data = source.read() if source is not None else b""
    if ending == "txt":
        return {"text": data.decode("utf-8", "replace")}
    try:
        record = parse_json(data, member.name)
    except SoundloomError:
        return {}
    return record if isinstance(record, dict) else {}


def packed_kind(names: list[str]) -> type[TarRows] | type[ParquetRows] | None:
    """Return the reader for files of these names, None where none is packed."""
    return next((kind for kind in (TarRows, ParquetRows) if any(name.endswith(kind.suffix) for name in names)), None)
