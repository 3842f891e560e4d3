"""Corpora as people have them, read as utterances: folders, manifests, LJSpeech, Hugging Face data sets."""

from __future__ import annotations

import csv
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from codec.common.checked import parse_json
from codec.errors import SoundloomError
from codec.store.plan import Fetch, Settings, Utterance, open_file
from pipelines.corpus.fields import FIELD_NAMES, is_text, pick, without_suffix
from pipelines.corpus.folder import read_folder
from pipelines.corpus.hub_rows import DatasetRows, StreamRows
from pipelines.corpus.packed import packed_kind
from pipelines.corpus.remote import Remote, read_remote_lines


@dataclass(frozen=True)
class Corpus:
    """A corpus that can be read: ``settings`` decide its rows, ``utterances()`` lists them, ``fetch`` opens one."""

    settings: Settings
    utterances: Callable[[], Iterable[Utterance]]
    fetch: Fetch


def open_corpus(settings: Settings) -> Corpus:
    """Find out what ``settings.corpus`` is and how to read it.

    A ``.jsonl``, ``.csv`` or ``.tsv`` manifest; a folder with ``manifest.jsonl``, with LJSpeech's ``metadata.csv``,
    with a data set saved by `datasets`, or just with audio files; ``hf:name`` or ``hf:name:config`` for the hub,
    ``stream:`` instead of ``hf:`` to read it without keeping it; WebDataset's tar files or Parquet, one or a folder of
    them; ``s3://`` and whatever else fsspec opens, for a folder of audio, of packed files, or a manifest.jsonl.
    ``settings.root`` is filled in.

    Raises:
        SoundloomError: it is none of these.
    """
    name = settings.corpus
    if name.startswith(("hf:", "stream:")):
        return _open_dataset(settings, name)
    if "://" in name:
        return _open_remote(settings, name)
    path = Path(name).resolve()
    if path.suffix.lower() in (".tar", ".parquet") and path.is_file():
        return _open_packed(settings, str(path))
    if path.is_dir():
        manifests = [file for file in ("manifest.jsonl", "metadata.csv") if (path / file).is_file()]
        if manifests:
            path = path / manifests[0]
        elif (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _open_dataset(settings, str(path))
        elif packed_kind(os.listdir(path)) is not None:
            return _open_packed(settings, str(path))
    read: Callable[[Path, Settings], Iterator[tuple[Utterance, str]]] = read_folder
    if path.is_file():
        read = {".jsonl": _read_jsonl, ".csv": _read_csv, ".tsv": _read_csv}.get(path.suffix.lower(), _refuse)
    elif not path.is_dir():
        raise SoundloomError(
            f"{name}: does not exist; expected a folder, a .jsonl or .csv manifest, hf:NAME or stream:NAME"
        )
    root = str(path if path.is_dir() else path.parent)
    settings = _replace(settings, root=root, corpus=str(path))
    return Corpus(settings, lambda: _select(read(path, settings), settings), open_file(root))


def _open_remote(settings: Settings, name: str) -> Corpus:
    """Open a folder or file of an object store."""
    remote = Remote(name)
    manifest = name if name.endswith(".jsonl") else f"{remote.url}/manifest.jsonl"
    if remote.fs.exists(manifest):
        settings = _replace(settings, root=posixpath.dirname(manifest), corpus=name)
        source = Remote(settings.root)
        lines = partial(read_remote_lines, manifest)
        return Corpus(settings, lambda: _select(_read_json_lines(lines(), settings), settings), source.fetch)
    if remote.is_file or packed_kind([posixpath.basename(path) for path, _ in remote.files()]) is not None:
        return _open_packed(settings, name)
    settings = _replace(settings, root=remote.root, corpus=name)
    return Corpus(settings, lambda: _select(remote.audio(), settings), remote.fetch)


def _open_packed(settings: Settings, name: str) -> Corpus:
    """Open tar or Parquet files, one or all those of a folder."""
    files = Remote(name)
    kind = packed_kind([path for path, _ in files.files()])
    if kind is None:
        raise SoundloomError(f"{name}: unknown kind of file; expected .jsonl, .tar or .parquet, or a folder")
    settings = _replace(settings, root=files.root, corpus=name)
    rows = kind(files, settings)
    return Corpus(settings, lambda: _select(rows.utterances(), settings), rows.fetch)


def _replace(settings: Settings, **changes: Any) -> Settings:
    return Settings(**{**vars(settings), **changes})


def _select(rows: Iterable[tuple[Utterance, str]], settings: Settings) -> Iterator[Utterance]:
    """Keep the rows of the wanted split, at most ``limit``, and fill in what the command line said."""
    count, splits = 0, set()
    for item, split in rows:
        splits.add(split)
        if settings.split and not item.problem and split != settings.split:
            continue
        if settings.limit and count >= settings.limit:
            return
        count += 1
        changes = {"language": item.language or settings.language, "speaker": item.speaker or settings.speaker}
        changes["id"] = settings.id_prefix + item.id
        changes = {key: value for key, value in changes.items() if value != getattr(item, key)}
        yield Utterance(**{**vars(item), **changes}) if changes else item
    if settings.split and not count:
        names = ", ".join(repr(split) for split in sorted(splits)) or "none"
        raise SoundloomError(f"{settings.corpus}: no row of split {settings.split!r}; its splits are {names}")


def _refuse(path: Path, settings: Settings) -> Iterator[tuple[Utterance, str]]:
    raise SoundloomError(f"{path}: unknown kind of corpus; expected a folder or a .jsonl, .csv or .tsv manifest")


def _read_lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise SoundloomError(f"{path}: cannot be read ({error}); expected UTF-8 text") from error


def _read_jsonl(path: Path, settings: Settings) -> Iterator[tuple[Utterance, str]]:
    return _read_json_lines(_read_lines(path), settings)


def _read_json_lines(lines: Iterable[str], settings: Settings) -> Iterator[tuple[Utterance, str]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line, f"line {number}")
        except SoundloomError as error:
            record = str(error)
        yield from _from_record(record, settings, number)


def _read_csv(path: Path, settings: Settings) -> Iterator[tuple[Utterance, str]]:
    """Read a CSV manifest with a header, or LJSpeech's ``id|text|normalized text`` without one."""
    first = next(iter(_read_lines(path)), "")
    separator = max("|\t;,", key=first.count)
    columns = first.strip().split(separator)
    if path.name == "metadata.csv" and separator == "|" and not any(name in columns for name in FIELD_NAMES["audio"]):
        for number, line in enumerate(_read_lines(path), start=1):
            cells = line.rstrip("\r\n").split("|")
            record: Any = {
                "id": cells[0],
                "audio": f"wavs/{cells[0]}.wav",
                "text": cells[-1] or cells[min(1, len(cells) - 1)],
            }
            yield from _from_record(record if len(cells) > 1 else f"line {number}: expected id|text", settings, number)
        return
    try:
        for number, record in enumerate(csv.DictReader(_read_lines(path), delimiter=separator), start=2):
            yield from _from_record(record, settings, number)
    except csv.Error as error:
        raise SoundloomError(f"{path}: not CSV ({error})") from error


def _from_record(record: Any, settings: Settings, number: int) -> Iterator[tuple[Utterance, str]]:
    """Make an utterance of one line of a manifest, or several where it lists ``segments``; never raises."""
    name = f"line {number}"
    if not isinstance(record, dict):
        problem = record if isinstance(record, str) and record.startswith(name) else f"{name}: expected a JSON object"
        yield Utterance(name, "", problem=problem), ""
        return
    names = {**FIELD_NAMES, "audio": (settings.audio_column or "audio", *FIELD_NAMES["audio"])}
    names["text"] = (settings.text_column,) if settings.text_column else names["text"]
    values = {key: pick(record, options) for key, options in names.items()}
    path = values["audio"]
    if not path or not is_text(path) or "\0" in path:
        yield Utterance(values["id"] or name, path or name, problem=f"{name}: no audio file is named"), values["split"]
        return
    text, speaker, language = (" ".join(values[key].split()) for key in ("text", "speaker", "language"))
    length = record.get("duration")  # of the whole file
    seconds = float(length) if isinstance(length, int | float) and 0 < length < 1e9 else 0.0
    item = Utterance(values["id"] or without_suffix(path), path, text, speaker, language, seconds=seconds)
    try:
        segments = _segments(record, settings.max_seconds)
    except (ValueError, TypeError, KeyError, OverflowError):
        yield Utterance(**{**vars(item), "problem": f"{name}: its times are no numbers of seconds"}), values["split"]
        return
    for order, (start, duration, text) in enumerate(segments):
        span = {"start": start, "duration": duration, "text": text or item.text, "seconds": 0.0}
        if not values["id"] or len(segments) > 1:
            span["id"] = f"{item.id}@{order:03d}" if values["id"] else f"{item.id}@{start:.3f}"
        yield Utterance(**{**vars(item), **span}), values["split"]
    if not segments:
        yield item, values["split"]


def _segments(record: dict[str, Any], max_seconds: float) -> list[tuple[float, float, str]]:
    """List (start, duration, text) of a line: none for a whole file.

    Neighbouring ``segments`` are joined up to the limit. A ``duration`` without a ``start`` is only the
    length of the file.
    """
    start = pick(record, FIELD_NAMES["start"])
    segments = record.get("segments")
    if isinstance(segments, list) and segments:
        spans = [(float(s["start"]), float(s["end"]), str(s.get("text", "")).strip()) for s in segments]
        joined: list[tuple[float, float, str]] = []
        for begin, end, text in spans:
            if joined and end - joined[-1][0] <= max_seconds and begin >= joined[-1][1]:
                joined[-1] = (joined[-1][0], end, f"{joined[-1][2]} {text}".strip())
            else:
                joined.append((begin, end, text))
        spans = joined
    elif start:
        begin = float(start)
        last = pick(record, ("end",))
        spans = [(begin, float(last) if last else begin + float(record["duration"]), "")]
    else:
        return []
    if not all(0 <= begin < end < 1e9 for begin, end, _ in spans):
        raise ValueError("times out of order")
    return [(begin, round(end - begin, 6), text) for begin, end, text in spans]


def _open_dataset(settings: Settings, name: str) -> Corpus:
    """Open a data set of the library `datasets`, its audio as the bytes that it stores (never decoded by it)."""
    rows = (StreamRows if name.startswith("stream:") else DatasetRows)(name, settings)
    settings = _replace(settings, root=name, corpus=name)
    return Corpus(settings, lambda: _select(rows.utterances(), settings), rows.fetch)
