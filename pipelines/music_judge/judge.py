"""Judge music: everything that is found in a sound, and how it agrees with what was asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.common.checked import read_json
from codec.common.files import write_text
from codec.metrics import summarize
from pipelines.evaluation.report import Cell
from pipelines.music_judge.families import FamilyJudge
from pipelines.music_judge.faults import Faults, find_faults
from pipelines.music_judge.keys import Key, find_key, key_score
from pipelines.music_judge.musicnn import MusicNN
from pipelines.music_judge.notes import BasicPitch, FoundNote, onset_f1
from pipelines.music_judge.tempo import find_tempo, related_tempo, same_tempo

_VERSION = "1"  # part of the name of what is kept: raise it when a judge changes
_MOST_BYTES = 1 << 22


@dataclass(frozen=True)
class Finding:
    """What the judges find in a sound; ``notes`` are [start, end, pitch], in seconds."""

    tonic: int
    third: str
    tempo: float
    pitch_classes: list[float]
    notes: list[list[float]]
    tags: list[float]
    embedding: list[float]
    silent: float
    clipped: bool
    loop: float

    @property
    def key(self) -> Key:
        """The key that was found."""
        return Key(self.tonic, self.third)

    @property
    def faults(self) -> Faults:
        """The faults that were found."""
        return Faults(self.silent, self.clipped, self.loop)

    @property
    def found_notes(self) -> list[FoundNote]:
        """The notes that were found."""
        return [FoundNote(start, end, int(pitch)) for start, end, pitch in self.notes]


class MusicJudges:
    """All judges of one sound. Findings are kept in ``folder``, by the sound's SHA-256, so that a report resumes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pitch, self._tags = BasicPitch(), MusicNN()
        self.facts = {
            "notes": f"proxy: {self._pitch.description}; key by Krumhansl's profiles of its pitches",
            "instruments, distance": f"proxy: {self._tags.description}",
        }

    def __call__(self, wave: Tensor, sample_rate: int) -> Finding:
        """Return what is found in wave [N]."""
        digest = hashlib.sha256(f"{_VERSION}:{sample_rate}:".encode() + wave.numpy().tobytes()).hexdigest()
        path = self.folder / f"{digest[:20]}.json"
        if path.exists():
            return Finding(**read_json(path, _MOST_BYTES))
        finding = self._find(wave, sample_rate)
        write_text(path, json.dumps(asdict(finding)) + "\n")
        return finding

    def embedding(self, wave: Tensor, sample_rate: int) -> Tensor:
        """Return musicnn's embedding [D] of wave [N] alone, which is quick."""
        return self._tags(wave, sample_rate)[1]

    def _find(self, wave: Tensor, sample_rate: int) -> Finding:
        transcription = self._pitch(wave, sample_rate)
        classes = transcription.pitch_classes()
        key = find_key(classes)
        tags, embedding = self._tags(wave, sample_rate)
        faults = find_faults(wave, sample_rate)
        notes = [[round(float(n.start), 4), round(float(n.end), 4), n.pitch] for n in transcription.notes()]
        return Finding(
            tonic=key.tonic,
            third=key.third,
            tempo=find_tempo(wave, sample_rate),
            pitch_classes=[round(float(share), 6) for share in classes],
            notes=notes,
            tags=tags.tolist(),
            embedding=embedding.tolist(),
            silent=faults.silent,
            clipped=faults.clipped,
            loop=faults.loop,
        )


@dataclass(frozen=True)
class Asked:
    """What a clip should be: its attributes, its exact notes, and which attributes its caption names."""

    id: str
    text: str
    names: tuple[str, ...]
    attributes: dict[str, Any]
    notes: tuple[FoundNote, ...]

    @property
    def key(self) -> Key:
        """The key that was asked for."""
        return Key(self.attributes["tonic"], self.attributes["third"])

    @property
    def pitch_classes(self) -> np.ndarray:
        """How long each of the 12 pitch classes is played."""
        classes = np.zeros(12)
        for note in self.notes:
            classes[note.pitch % 12] += note.end - note.start
        return classes


#: by column: a finding's score for what was asked, and the attribute that a caption must name for it
SCORES: dict[str, tuple[Callable[[Finding, Asked], float], str]] = {
    "key": (lambda finding, asked: float(finding.key == asked.key), "key"),
    "key, weighted": (lambda finding, asked: key_score(finding.key, asked.key), "key"),
    "major or minor": (lambda finding, asked: float(finding.third == asked.key.third), "key"),
    "tempo": (lambda finding, asked: float(same_tempo(finding.tempo, asked.attributes["tempo"])), "tempo number"),
    "tempo or multiple": (
        lambda finding, asked: float(related_tempo(finding.tempo, asked.attributes["tempo"])),
        "tempo number",
    ),
}
#: scores of sounds that should play the very notes of the clip
NOTE_SCORES: dict[str, Callable[[Finding, Asked], float]] = {
    "notes (F1)": lambda finding, asked: onset_f1(finding.found_notes, asked.notes),
    "pitch content": lambda finding, asked: _cosine(np.array(finding.pitch_classes), asked.pitch_classes),
}


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0


def family_score(finding: Finding, asked: Asked, judge: FamilyJudge) -> float:
    """Return the share of the clip's n instrument families that are among the n likeliest ones."""
    true = asked.attributes["families"]
    found = judge.likeliest(torch.tensor(finding.embedding), len(true))
    return len(set(found) & set(true)) / len(true)


def score_row(
    name: str, findings: dict[str, Finding], asked: list[Asked], judge: FamilyJudge, *, named_only: bool
) -> list[Cell]:
    """Return a system's row: its name, `SCORES`, and instrument families.

    ``named_only``: count a clip only where its caption names the attribute.
    """
    pairs = [(findings[one.id], one) for one in asked if one.id in findings]
    cells: list[Cell] = [name]
    for score, attribute in SCORES.values():
        cells.append(summarize([score(f, a) for f, a in pairs if not named_only or attribute in a.names]))
    chosen = [(f, a) for f, a in pairs if not named_only or "instruments" in a.names]
    return [*cells, summarize([family_score(f, a, judge) for f, a in chosen])]


def shuffled(asked: list[Asked]) -> list[Asked]:
    """Return the clips with another clip's attributes each: what a model gets that ignores its caption."""
    half = len(asked) // 2
    others = [*asked[half:], *asked[:half]]
    return [replace(one, attributes=other.attributes) for one, other in zip(asked, others, strict=True)]
