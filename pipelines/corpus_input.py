"""Corpora as people have them, read as utterances: folders, manifests, LJSpeech, Hugging Face data sets."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.audio import AUDIO_SUFFIXES, audio_files
from codec.errors import SoundloomError
from codec.store_json import parse_json
from codec.store_plan import Fetch, Settings, Utterance, open_file

# What manifests of other projects call the fields; the first name is ours.
_NAMES = {
    "audio": ("audio", "path", "file", "file_name", "audio_filepath", "audio_file", "wav", "filename"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "language": ("language", "lang", "locale"),
    "split": ("split", "subset"),
    "id": ("id", "utterance_id", "utt_id"),
    "start": ("start", "offset"),
}
_MAX_TEXT = 1 << 20


@dataclass(frozen=True)
class Corpus:
    """A corpus that can be read: ``settings`` decide its rows, ``utterances()`` lists them, ``fetch`` opens one."""

    settings: Settings
    utterances: Callable[[], Iterable[Utterance]]
    fetch: Fetch


def open_corpus(settings: Settings) -> Corpus:
    """Find out what ``settings.corpus`` is and how to read it.

    A ``.jsonl``, ``.csv`` or ``.tsv`` manifest; a folder with ``manifest.jsonl``, with LJSpeech's ``metadata.csv``,
    with a data set saved by `datasets`, or just with audio files; ``hf:name`` or ``hf:name:config`` for the hub.
    ``settings.root`` is filled in. Errors: `SoundloomError` where it is none of these.
    """
    name = settings.corpus
    if name.startswith("hf:"):
        return _open_dataset(settings, name)
    path = Path(name).resolve()
    if path.is_dir():
        manifests = [file for file in ("manifest.jsonl", "metadata.csv") if (path / file).is_file()]
        if manifests:
            path = path / manifests[0]
        elif (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _open_dataset(settings, str(path))
    read = _read_folder
    if path.is_file():
        read = {".jsonl": _read_jsonl, ".csv": _read_csv, ".tsv": _read_csv}.get(path.suffix.lower(), _refuse)
    elif not path.is_dir():
        raise SoundloomError(f"{name}: does not exist; expected a folder, a .jsonl or .csv manifest or hf:NAME")
    root = str(path if path.is_dir() else path.parent)
    settings = _replace(settings, root=root, corpus=str(path))
    return Corpus(settings, lambda: _select(read(path, settings), settings), open_file(root))


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
        defaults = {"language": item.language or settings.language, "speaker": item.speaker or settings.speaker}
        yield Utterance(**{**vars(item), **defaults})
    if settings.split and not count:
        names = ", ".join(repr(split) for split in sorted(splits)) or "none"
        raise SoundloomError(f"{settings.corpus}: no row of split {settings.split!r}; its splits are {names}")


def _refuse(path: Path, settings: Settings) -> Iterator[tuple[Utterance, str]]:
    raise SoundloomError(f"{path}: unknown kind of corpus; expected a folder or a .jsonl, .csv or .tsv manifest")


def _read_folder(folder: Path, settings: Settings) -> Iterator[tuple[Utterance, str]]:
    """List a folder's audio; the text is in a ``.txt`` or ``.lab`` beside each file, where there is one."""
    found = [(path, "") for path in audio_files(folder)]
    # audio_files() passes over links that lead nowhere or in a circle; a corpus must not lose them without a word.
    links = (path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_symlink())
    found += [(path, "the link leads nowhere or in a circle") for path in links if not _exists(path)]
    stems = [str(path.with_suffix("")) for path, _ in found]
    twice = {stem for stem in stems if stems.count(stem) > 1} if len(set(stems)) < len(stems) else set()
    for path, problem in sorted(found):
        name = path.relative_to(folder).as_posix()
        utterance_id = name if str(path.with_suffix("")) in twice else name[: -len(path.suffix)]
        if _is_text(name):
            text = "" if problem else _text_beside(path)
            yield Utterance(utterance_id, name, text, problem=problem), ""
        else:
            name = name.encode("utf-8", "backslashreplace").decode("utf-8")
            yield Utterance(name, name, problem="its name is not UTF-8"), ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, RuntimeError):
        return False


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _text_beside(path: Path) -> str:
    for suffix in (".normalized.txt", ".txt", ".lab"):
        beside = path.with_suffix(suffix)
        try:
            if beside.is_file() and beside.stat().st_size <= _MAX_TEXT:
                return " ".join(beside.read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError):
            continue
    return ""


def _read_lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise SoundloomError(f"{path}: cannot be read ({error}); expected UTF-8 text") from error


def _read_jsonl(path: Path, settings: Settings) -> Iterator[tuple[Utterance, str]]:
    for number, line in enumerate(_read_lines(path), start=1):
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
    if path.name == "metadata.csv" and separator == "|" and not any(name in columns for name in _NAMES["audio"]):
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
    names = {**_NAMES, "audio": (settings.audio_column or "audio", *_NAMES["audio"])}
    names["text"] = (settings.text_column,) if settings.text_column else names["text"]
    values = {key: _pick(record, options) for key, options in names.items()}
    path = values["audio"]
    if not path or not _is_text(path) or "\0" in path:
        yield Utterance(values["id"] or name, path or name, problem=f"{name}: no audio file is named"), values["split"]
        return
    plain = {key: " ".join(values[key].split()) for key in ("text", "speaker", "language")}
    item = Utterance(values["id"] or str(Path(path).with_suffix("")), path, **plain)
    try:
        segments = _segments(record, settings.max_seconds)
    except (ValueError, TypeError, KeyError, OverflowError):
        yield Utterance(**{**vars(item), "problem": f"{name}: its times are no numbers of seconds"}), values["split"]
        return
    for order, (start, duration, text) in enumerate(segments):
        span = {"start": start, "duration": duration, "text": text or item.text}
        if not values["id"] or len(segments) > 1:
            span["id"] = f"{item.id}@{order:03d}" if values["id"] else f"{item.id}@{start:.3f}"
        yield Utterance(**{**vars(item), **span}), values["split"]
    if not segments:
        yield item, values["split"]


def _pick(record: dict[str, Any], options: Iterable[str]) -> str:
    for key in options:
        value = record.get(key)
        if isinstance(value, str) and value and _is_text(value):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    return ""


def _segments(record: dict[str, Any], max_seconds: float) -> list[tuple[float, float, str]]:
    """List (start, duration, text) of a line: none for a whole file.

    Neighbouring ``segments`` are joined up to the limit. A ``duration`` without a ``start`` tells only how long
    the file is.
    """
    start = _pick(record, _NAMES["start"])
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
        end = _pick(record, ("end",))
        spans = [(begin, float(end) if end else begin + float(record["duration"]), "")]
    else:
        return []
    if not all(0 <= begin < end < 1e9 for begin, end, _ in spans):
        raise ValueError("times out of order")
    return [(begin, round(end - begin, 6), text) for begin, end, text in spans]


def _open_dataset(settings: Settings, name: str) -> Corpus:
    """Open a data set of the library `datasets`, its audio as the bytes that it stores."""
    rows = _Rows(name, settings)
    settings = _replace(settings, root=name, corpus=name)
    return Corpus(settings, lambda: _select(rows.utterances(), settings), rows.fetch)


class _Rows:
    """A Hugging Face data set, loaded when it is first needed (each worker loads its own)."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self.settings = name, settings
        self._data: Any = None

    def data(self) -> Any:
        """Load the data set with undecoded audio; `SoundloomError` where it cannot be."""
        if self._data is None:
            self._data = self._load()
        return self._data

    def utterances(self) -> Iterator[tuple[Utterance, str]]:
        """List the rows with their text columns; the split is the one that was loaded."""
        data = self.data()
        texts = data.remove_columns([self._audio_column(data)])
        for index in range(len(texts)):
            row = texts[index]
            options = (self.settings.text_column,) if self.settings.text_column else _NAMES["text"]
            plain = {key: " ".join(_pick(row, _NAMES[key]).split()) for key in ("speaker", "language")}
            utterance_id = _pick(row, _NAMES["id"]) or f"row-{index:08d}"
            text = " ".join(_pick(row, options).split())
            yield Utterance(utterance_id, "", text, row=index, **plain), self.settings.split

    @contextmanager
    def fetch(self, item: Utterance) -> Iterator[Path]:
        """Give one row's audio as a file, a temporary one where the data set holds its bytes."""
        data = self.data()
        audio = data[item.row][self._audio_column(data)] or {}
        content, path = audio.get("bytes"), str(audio.get("path") or "")
        if content is None:
            yield Path(path)
            return
        with tempfile.NamedTemporaryFile(suffix=Path(path).suffix[:8] or ".wav") as file:
            file.write(content)
            file.flush()
            yield Path(file.name)

    def _audio_column(self, data: Any) -> str:
        from datasets import Audio

        columns = [name for name, kind in data.features.items() if isinstance(kind, Audio)]
        wanted = self.settings.audio_column or (columns[0] if columns else "audio")
        if wanted not in data.features:
            raise SoundloomError(f"{self.name}: no audio column {wanted!r}; its columns are {list(data.features)}")
        return wanted

    def _load(self) -> Any:
        import datasets

        try:
            if self.name.startswith("hf:"):
                name, _, config = self.name.removeprefix("hf:").partition(":")
                data = datasets.load_dataset(name, config or None, split=self.settings.split or "train")
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
        return data.cast_column(self._audio_column(data), datasets.Audio(decode=False))
