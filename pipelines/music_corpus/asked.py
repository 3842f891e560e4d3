"""Read which clips of a music corpus a model is asked for: their ids and captions."""

from __future__ import annotations

from pathlib import Path

from codec.common.checked import parse_json
from codec.common.files import check_file
from codec.errors import SoundloomError

MANIFEST = "manifest.jsonl"


def read_captions(corpus: Path, split: str = "all", limit: int | None = None) -> list[tuple[str, str]]:
    """Return (id, caption) of a corpus' clips, in the order of its manifest; the caption is the manifest's text.

    Raises: SoundloomError where there are none of this split, or the manifest is not one of make_music_corpus.py.
    """
    manifest = corpus / MANIFEST
    check_file(manifest, missing="make_music_corpus.py writes it")
    found: list[tuple[str, str]] = []
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), 1):
        row = parse_json(line, f"{manifest}, line {number}")
        if not isinstance(row, dict) or not {"id", "text", "captions"} <= row.keys():
            raise SoundloomError(f"{manifest}, line {number}: expected a row of make_music_corpus.py, with captions")
        name = str(row["id"])
        if Path(name).name != name or name in ("", ".", ".."):
            raise SoundloomError(f"{manifest}, line {number}: the id cannot be the name of a file")
        if split in ("all", row.get("split")):
            found.append((name, str(row["text"])))
        if limit is not None and len(found) >= limit:
            break
    if not found:
        raise SoundloomError(f"{manifest}: no clips of the split {split!r}; --split all takes every clip")
    return found
