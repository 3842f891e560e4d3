"""The files of a voice folder: bounded reads, hashes, the card, and the prompts of more speakers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from codec.common.files import CARD_BYTES, read_bytes, read_text, sha256_file
from codec.common.files import check_file as check_plain_file
from codec.errors import SoundloomError
from pipelines.voice.config import check_name

SPEAKERS_FOLDER = "speakers"
_PROMPT_TEXT_BYTES = 1 << 13
_MOST_SPEAKERS = 1000


def require_regular(path: Path, folder: Path) -> None:
    """Refuse anything but a regular file of the folder; links may only stay inside it, or point to a hub cache's blobs.

    Raises: SoundloomError.
    """
    check_plain_file(path, missing="the folder is not complete, so get it or make it again")
    if path.is_symlink() or path.parent.is_symlink():
        target, root = path.resolve(), folder.resolve()
        blobs = root.parent.parent / "blobs"  # where the hub's client keeps the files of its snapshots
        if not (target.is_relative_to(root) or target.is_relative_to(blobs)):
            raise SoundloomError(f"{path}: is a link out of its folder; put the file itself there")


def hash_files(folder: Path, leave_out: tuple[str, ...]) -> dict[str, str]:
    """Return the SHA-256 of every file under a folder, by its path in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: sha256_file(path) for name, path in names.items() if name not in leave_out}


def check_file(path: Path, folder: Path, digest: str, record: str = "voice.json") -> None:
    """Raises: SoundloomError where a file that ``record`` lists is missing or has changed."""
    require_regular(path, folder)
    try:
        found = sha256_file(path)
    except OSError as error:
        raise SoundloomError(f"{path}: cannot be read ({error.strerror or error})") from error
    if found != digest:
        raise SoundloomError(f"{path}: has changed, its SHA-256 is not the one in {record}; make the folder again")


def check_files(folder: Path, files: Mapping[str, str], record: str = "voice.json") -> None:
    """Check that every file that ``record`` lists is there, and all but the recordings of speakers by their hashes.

    Those are checked when they are used. Raises: SoundloomError that names the file.
    """
    for name, digest in files.items():
        if name.startswith(f"{SPEAKERS_FOLDER}/"):
            require_regular(folder / name, folder)
        else:
            check_file(folder / name, folder, digest, record)


@dataclass(frozen=True)
class Card:
    """A voice's README.md, read when someone asks for it."""

    path: Path

    def read(self) -> str:
        """Return the text, empty where there is no card. Raises: SoundloomError for one that is too large."""
        return read_bytes(self.path, CARD_BYTES).decode("utf-8", "replace") if self.path.exists() else ""


@dataclass(frozen=True)
class SpeakerPrompt:
    """Another speaker of a voice: a recording of some seconds, and the file that holds its words.

    ``digests``: SHA-256 of the two files, where they are listed.
    """

    audio: Path
    text_file: Path
    digests: Mapping[Path, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The words of the recording. Raises: SoundloomError where they cannot be read."""
        text = read_text(self.text_file, _PROMPT_TEXT_BYTES).strip()
        if not text:
            raise SoundloomError(f"{self.text_file}: is empty; expected the words that {self.audio.name} says")
        return text

    def check(self) -> None:
        """Raises: SoundloomError where one of the files is missing, changed, or a link to somewhere else."""
        folder = self.audio.parent.parent
        for path in (self.audio, self.text_file):
            if path in self.digests:
                check_file(path, folder, self.digests[path])
            else:
                require_regular(path, folder)


def find_speakers(folder: Path, files: Mapping[str, str] | None = None) -> dict[str, SpeakerPrompt]:
    """Return the speakers of a folder by name: a recording, NAME.flac or such, and its words, NAME.txt.

    Nothing is read yet. ``files``: the hashes that voice.json lists. Empty where there is no folder. Raises:
    SoundloomError where one of the two is missing, a name is not one, or a file is not listed.
    """
    found: dict[str, SpeakerPrompt] = {}
    paths = _visible(folder)
    for path in (path for path in paths if path.suffix != ".txt"):
        _check_listed(path, files)
        text = path.with_suffix(".txt")
        if not text.is_file():
            raise SoundloomError(f"{text} is missing; it should hold what {path.name} says")
        digests = {p: files[f"{SPEAKERS_FOLDER}/{p.name}"] for p in (path, text)} if files else {}
        found[path.stem] = SpeakerPrompt(path, text, digests)
    lonely = {path.stem for path in paths if path.suffix == ".txt"} - set(found)
    if lonely:
        raise SoundloomError(f"{folder}: has no recording of {', '.join(sorted(lonely))}, only what it says")
    return found


def _visible(folder: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []
    if len(names) > 2 * _MOST_SPEAKERS:
        raise SoundloomError(f"{folder}: holds {len(names):,} files; a voice has at most {_MOST_SPEAKERS:,} speakers")
    for name in names:
        check_name(name, str(folder))
    return [folder / name for name in names]


def _check_listed(path: Path, files: Mapping[str, str] | None) -> None:
    if not files:
        return
    for name in (path.name, path.with_suffix(".txt").name):
        if f"{SPEAKERS_FOLDER}/{name}" not in files:
            raise SoundloomError(
                f"{path.parent / name}: is not listed in voice.json; add it with make_voice.py --speakers"
            )
