"""Corpora on object stores, through fsspec: a manifest.jsonl, packed files, or audio with its texts next to it.

Sizes come from the listing; the worker that tokenizes a file fetches it once, into a temporary file. fsspec lists a
folder whole: half a kilobyte of memory for a name, so that a manifest or packed files are better for tens of millions.
"""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from codec.audio.files import AUDIO_SUFFIXES
from codec.common.extras import install_hint
from codec.errors import SoundloomError
from codec.store.measure import SourceChanged
from codec.store.plan import Utterance

_TEXTS_AT_ONCE = 1000
_TEXT_SUFFIXES = (".normalized.txt", ".txt", ".lab")


class Remote:
    """A folder (or one file's folder) of a file system that fsspec knows; ``files()`` lists paths relative to it.

    Raises:
        SoundloomError: the protocol is unknown, its package is not installed, or there is no such folder.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        try:
            self.fs, self.base = fsspec.core.url_to_fs(self.url)
            self.is_file = bool(self.fs.isfile(self.base))
            there = self.is_file or self.fs.isdir(self.base)
        except (ImportError, ValueError) as error:
            raise SoundloomError(f"{url}: cannot be opened ({error}); {install_hint('remote')} for S3") from error
        except Exception as error:  # whatever its client raises, from credentials to the network
            raise _failed(url, error) from error
        if not there:
            raise SoundloomError(f"{url}: does not exist; expected a folder or a file of the object store")
        self.folder = posixpath.dirname(self.base) if self.is_file else self.base
        self.root = posixpath.dirname(self.url) if self.is_file else self.url

    def files(self) -> list[tuple[str, int]]:
        """List all files below the folder with their sizes, in order; hidden ones are left out."""
        if self.is_file:
            return [(posixpath.basename(self.base), int(self.fs.size(self.base) or 0))]
        try:
            found = self.fs.find(self.base, detail=True)
        except Exception as error:
            raise _failed(self.url, error) from error
        names = ((posixpath.relpath(name, self.base), int(facts.get("size") or 0)) for name, facts in found.items())
        shown = [(name, size) for name, size in names if not any(part.startswith(".") for part in name.split("/"))]
        return sorted(shown, key=lambda pair: pair[0].split("/"))

    def open(self, path: str) -> Any:
        """Open a file for reading bytes at any place; a link never leads above the folder."""
        return self.fs.open(posixpath.join(self.folder, path), "rb")

    @contextmanager
    def fetch(self, item: Utterance) -> Iterator[Path]:
        """Fetch a file into a temporary one for as long as the block runs."""
        if ".." in item.path.split("/"):
            raise SourceChanged(f"{item.path}: leads above the folder")
        with tempfile.NamedTemporaryFile(suffix=posixpath.splitext(item.path)[1][:8]) as file:
            try:
                with self.open(item.path) as source:
                    while block := source.read(1 << 20):
                        file.write(block)
            except FileNotFoundError as error:
                raise SourceChanged(f"{item.path}: is gone") from error
            except Exception as error:
                raise _failed(f"{self.root}/{item.path}", error) from error
            file.flush()
            yield Path(file.name)

    def audio(self) -> Iterator[tuple[Utterance, str]]:
        """List the audio files below the folder with the texts next to them."""
        files = self.files()
        names = {name for name, _ in files}
        sounds = [(name, size) for name, size in files if posixpath.splitext(name)[1].lower() in AUDIO_SUFFIXES]
        stems: dict[str, int] = {}
        for name, _ in sounds:
            stem = posixpath.splitext(name)[0]
            stems[stem] = stems.get(stem, 0) + 1
        source = iter(sounds)
        while chunk := list(islice(source, _TEXTS_AT_ONCE)):
            texts = self._texts([posixpath.splitext(name)[0] for name, _ in chunk], names)
            for name, size in chunk:
                stem = posixpath.splitext(name)[0]
                identity = stem if stems[stem] == 1 else name
                yield Utterance(identity, name, texts.get(stem, ""), size=size), ""

    def _texts(self, stems: list[str], names: set[str]) -> dict[str, str]:
        """Read the texts next to some files, all at once."""
        paths: dict[str, str] = {}
        for stem in stems:
            beside = next((stem + suffix for suffix in _TEXT_SUFFIXES if stem + suffix in names), None)
            if beside is not None:
                paths[self.fs._strip_protocol(posixpath.join(self.folder, beside))] = stem
        if not paths:
            return {}
        try:
            found = self.fs.cat(list(paths), on_error="omit")
        except Exception as error:
            raise _failed(self.url, error) from error
        return {
            stem: " ".join(found[path].decode("utf-8", "replace").split())
            for path, stem in paths.items()
            if path in found
        }


def read_remote_lines(url: str) -> Iterator[str]:
    """Read the lines of a text file of an object store, without keeping it."""
    import fsspec

    try:
        with fsspec.open(url, "rt", encoding="utf-8-sig", newline="") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise SoundloomError(f"{url}: cannot be read ({error}); expected UTF-8 text") from error
    except Exception as error:
        raise _failed(url, error) from error


def _failed(name: str, error: Exception) -> SoundloomError:
    return SoundloomError(f"{name}: cannot be read ({type(error).__name__}: {error}); run again to resume")
