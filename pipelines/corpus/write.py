"""Write a corpus: manifest.jsonl, rejects.jsonl and corpus.json next to its FLAC files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codec.common.checked import read_json
from codec.common.files import write_text
from codec.errors import SoundloomError
from pipelines.corpus.manifest import MANIFEST, Row

__all__ = [
    "FACTS",
    "MANIFEST",
    "REJECTS",
    "Reject",
    "Row",
    "read_facts",
    "remove_leftovers",
    "split_of",
    "write_corpus",
]

FORMAT = "soundloom-corpus-1"
REJECTS, FACTS = "rejects.jsonl", "corpus.json"
_FACTS_BYTES = 64 << 20  # it counts utterances by speaker


@dataclass(frozen=True)
class Reject:
    """One text or file that could not be used, and why."""

    id: str
    text: str
    reason: str


def split_of(key: str) -> str:
    """Return test (1%), dev (1%) or train, by the sha256 of ``key`` alone: the same in every corpus."""
    share = int(hashlib.sha256(key.encode()).hexdigest()[-8:], 16) / 2**32
    return "test" if share < 0.01 else "dev" if share < 0.02 else "train"


def write_corpus(folder: Path, rows: Iterable[Row], rejects: Iterable[Reject], facts: dict[str, Any]) -> dict[str, Any]:
    """Write the three files, the facts last (they say that the rest is whole), and return the facts."""
    rows, rejects = sorted(rows, key=lambda row: row.id), sorted(rejects, key=lambda reject: reject.id)
    write_text(folder / MANIFEST, "".join(_line(row) for row in rows))
    write_text(folder / REJECTS, "".join(_line(reject) for reject in rejects))
    facts = {
        "format": FORMAT,
        **facts,
        "utterances": len(rows),
        "rejects": len(rejects),
        "hours": round(sum(row.duration for row in rows) / 3600, 3),
        "splits": dict(sorted(Counter(row.split for row in rows).items())),
        "speakers": dict(sorted(Counter(row.speaker for row in rows).items())),
    }
    write_text(folder / FACTS, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    return facts


def _line(record: Row | Reject) -> str:
    return json.dumps(asdict(record), ensure_ascii=False) + "\n"


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the facts of the corpus in ``folder``; empty where it has none yet.

    Raises:
        SoundloomError: the file is broken.
    """
    path = folder / FACTS
    facts = read_json(path, _FACTS_BYTES) if path.exists() else {}
    if facts and facts.get("format") != FORMAT:
        raise SoundloomError(f'{path}: expected the facts of a corpus, with "format": "{FORMAT}"')
    return facts


def remove_leftovers(folder: Path) -> int:
    """Remove temporary files that a killed run left behind; returns how many."""
    leftovers = [path for path in folder.glob("*/.*.flac") if path.is_file()]
    leftovers += list(folder.glob("*/*.flac.part"))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)
