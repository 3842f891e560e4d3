"""The sounds of a report: held-out renderings, the codec's copies of them, and what a model made of their captions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.audio import read_audio
from codec.common.checked import parse_json, read_json
from codec.common.files import check_file
from codec.errors import SoundloomError
from codec.metrics import mel_distance
from pipelines.music_judge.judge import Asked, Finding, MusicJudges
from pipelines.music_judge.notes import FoundNote

SAMPLE_RATE = 24_000
RENDERINGS = "renderings"
_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_MOST_BYTES = 1 << 24


@dataclass
class System:
    """The findings of a system by clip, its sounds [N] for those clips that are listened to, and mel distances."""

    name: str
    findings: dict[str, Finding] = field(default_factory=dict)
    sounds: dict[str, Tensor] = field(default_factory=dict)
    mel: list[float] = field(default_factory=list)


def read_asked(corpus: Path, split: str, limit: int | None) -> list[tuple[Asked, Path]]:
    """Return the clips of a music corpus, in the order of its manifest, and their files.

    Raises: SoundloomError where it has none of this split, or was not made by make_music_corpus.py.
    """
    manifest = corpus / "manifest.jsonl"
    check_file(manifest)
    found: list[tuple[Asked, Path]] = []
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), 1):
        row = parse_json(line, f"{manifest}, line {number}")
        if not isinstance(row, dict) or not {"attributes", "captions", "notes"} <= row.keys():
            raise SoundloomError(f"{manifest}, line {number}: expected a row of make_music_corpus.py, with attributes")
        if split in ("all", row.get("split")):
            found.append((_asked(corpus, row), corpus / row["audio"]))
        if limit is not None and len(found) >= limit:
            break
    if not found:
        raise SoundloomError(f"{manifest}: no clips of the split {split!r}; --split all takes every clip")
    return found


def _asked(corpus: Path, row: dict[str, Any]) -> Asked:
    listed = read_json(corpus / row["notes"], _MOST_BYTES)
    notes = tuple(
        FoundNote(start, start + length, pitch)
        for part in listed["parts"]
        if part["instrument"] != "drums"
        for start, length, pitch, _ in part["notes"]
    )
    return Asked(row["id"], row["text"], tuple(row["captions"][0]["names"]), row["attributes"], notes)


def judge_clips(
    clips: Iterable[tuple[Asked, Path]], judges: MusicJudges, codec: Any, levels: list[int], keep: set[str]
) -> list[System]:
    """Judge the renderings and the codec's copies at each number of levels; keep the sounds of some clips.

    ``codec``: None leaves the copies out.
    """
    rendered = System(RENDERINGS)
    copies = {n: System(f"codec, {n} levels") for n in levels} if codec is not None else {}
    for asked, path in clips:
        wave = read_audio(path, SAMPLE_RATE)
        _add(rendered, asked.id, wave[0], judges, keep)
        codes = _encode(codec, wave) if copies else None
        for n, system in copies.items():
            assert codes is not None
            with torch.no_grad():
                copy = codec.decode(codes[:, :n])[0, 0, : wave.shape[1]].cpu()
            _add(system, asked.id, copy, judges, keep)
            system.mel.append(mel_distance(wave[0], copy, SAMPLE_RATE))
    return [rendered, *copies.values()]


def _encode(codec: Any, wave: Tensor) -> Tensor:
    if codec.sample_rate != SAMPLE_RATE:
        raise SoundloomError(f"the codec works at {codec.sample_rate} Hz; expected {SAMPLE_RATE}, that of the corpus")
    with torch.no_grad():
        codes: Tensor = codec.encode(wave[None])
    return codes


def _add(system: System, name: str, wave: Tensor, judges: MusicJudges, keep: set[str]) -> None:
    system.findings[name] = judges(wave, SAMPLE_RATE)
    if name in keep:
        system.sounds[name] = wave


def judge_outputs(folder: Path, asked: Iterable[Asked], judges: MusicJudges, keep: set[str]) -> System:
    """Judge a model's sounds: ``folder`` holds a file for each clip, called as its id.

    Raises: SoundloomError where it holds none.
    """
    system = System(folder.name or "model")
    example = "0123456789abcdef"
    for one in asked:
        example = one.id
        path = next((folder / f"{one.id}{s}" for s in _SUFFIXES if (folder / f"{one.id}{s}").is_file()), None)
        if path is not None:
            _add(system, one.id, read_audio(path, SAMPLE_RATE)[0], judges, keep)
    if not system.findings:
        raise SoundloomError(f"{folder}: no file is called as a clip's id; expected such as {example}.wav")
    return system


def reference_embeddings(clips: Iterable[tuple[Asked, Path]], judges: MusicJudges) -> tuple[Tensor, list[list[str]]]:
    """Return the embeddings [N, D] of reference renderings, and the instrument families of each."""
    embeddings, families = [], []
    kept = judges.folder / "reference.jsonl"
    known = _read_known(kept)
    with open(kept, "a", encoding="utf-8") as file:
        for asked, path in clips:
            if asked.id not in known:
                known[asked.id] = judges.embedding(read_audio(path, SAMPLE_RATE)[0], SAMPLE_RATE).tolist()
                file.write(json.dumps({"id": asked.id, "embedding": known[asked.id]}) + "\n")
            embeddings.append(known[asked.id])
            families.append(list(asked.attributes["families"]))
    return torch.tensor(embeddings), families


def _read_known(path: Path) -> dict[str, list[float]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, list[float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        if line.endswith("}"):  # the last line of a killed run may be cut
            record = parse_json(line, str(path))
            known[record["id"]] = record["embedding"]
    return known
