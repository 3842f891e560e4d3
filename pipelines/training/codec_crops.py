"""Sample random pieces of audio for codec training: each batch is a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec.audio import audio_files, audio_info, read_audio
from codec.common.read_ahead import read_ahead
from codec.common.seeds import stable_seed
from codec.errors import SoundloomError
from pipelines.corpus.manifest import MANIFEST, read_manifest
from pipelines.training.codec_augment import AugmentSettings, augmented

HELD_OUT = 0.05  # of the files of a folder named by --corpus
_EMPTY_READS = 20


@dataclass(frozen=True)
class Source:
    """Where audio comes from.

    Args:
        path: a folder of audio files, or a corpus folder with a manifest.jsonl.
        weight: how often crops come from here, relative to the other sources.
        include: take only files whose path below the folder holds one of these words, separated by commas.
        exclude: leave out files whose path holds one of these words, separated by commas.
        split: of a corpus with a manifest: train, dev, test, or all.
        held_out: where there are no splits, the share of files that makes up the dev split and is left out of train.
    """

    path: str
    weight: float = 1.0
    include: str = ""
    exclude: str = ""
    split: str = "train"
    held_out: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise SoundloomError(f"sources: held_out must be at least 0 and under 1, not {self.held_out}")


@dataclass
class _Files:
    paths: list[Path]
    seconds: np.ndarray
    ends: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.ends = np.cumsum(self.seconds)


class Crops:
    """Batches [B, 1, N] of crops at ``sample_rate`` from weighted sources; files are sampled by their length.

    `batch` depends on the seed and the step alone, so that a run resumes exactly, and processes (``rank`` of
    ``world``) share the work without communication.
    """

    def __init__(
        self,
        sources: list[Source],
        sample_rate: int,
        seconds: float,
        batch_size: int,
        seed: int,
        augment: AugmentSettings | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not sources:
            raise SoundloomError("sources: name at least one folder of audio")
        self.sources = [_list_files(source) for source in sources]
        weights = np.array([source.weight for source in sources])
        if not (weights >= 0).all() or weights.sum() <= 0:
            raise SoundloomError("sources: weights must not be negative, and one must be over 0")
        self.weights = weights / weights.sum()
        self.sample_rate = sample_rate
        self.length = round(seconds * sample_rate)
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment
        self.rank = rank
        self.world = world

    @property
    def hours(self) -> float:
        """Return the hours of audio in all sources."""
        return float(sum(files.ends[-1] for files in self.sources) / 3600)

    def batch(self, step: int, rank: int | None = None) -> tuple[Tensor, list[str]]:
        """Return a step's batch [B, 1, N], this process's or another's, and the names of its files for messages."""
        crops, names = [], []
        for i in range(self.rank if rank is None else rank, self.batch_size * self.world, self.world):
            rng = np.random.default_rng(stable_seed(self.seed, "crop", step, i))
            crop, name = self._sample(rng, self.length)
            if self.augment:
                crop = augmented(crop, rng, self.augment, self.sample_rate, self._another)
            crops.append(crop)
            names.append(name)
        return torch.stack(crops), names

    def prefetched(self, first: int, last: int) -> Generator[tuple[Tensor, list[str]], None, None]:
        """Yield the batches of steps ``first`` to ``last - 1``, the next two of them read ahead by a thread."""
        return read_ahead(self.batch, range(first, last), ahead=2)

    def _another(self, rng: np.random.Generator, length: int) -> Tensor:
        return self._sample(rng, length)[0]

    def _sample(self, rng: np.random.Generator, length: int) -> tuple[Tensor, str]:
        """Return one crop [1, length] and its file; what is shorter is followed by other files of the same source."""
        files = self.sources[rng.choice(len(self.sources), p=self.weights)]
        pieces: list[Tensor] = []
        missing, name, empty = length, "", 0
        while missing > 0:
            index = min(int(np.searchsorted(files.ends, rng.random() * files.ends[-1])), len(files.paths) - 1)
            spare = files.seconds[index] - missing / self.sample_rate
            start = rng.random() * spare if spare > 0 else 0.0
            wave = read_audio(files.paths[index], self.sample_rate, 1, start, missing / self.sample_rate)
            empty = 0 if wave.shape[1] else empty + 1
            if empty == _EMPTY_READS:  # else a manifest that claims too much would be waited for without end
                raise SoundloomError(f"{files.paths[index]}: holds no sound at {start:.1f} s, where its length says so")
            pieces.append(wave[:, :missing])
            missing -= pieces[-1].shape[1]
            name = name or files.paths[index].name
        return torch.cat(pieces, 1), name


def _list_files(source: Source) -> _Files:
    """Return the files of a source with their lengths in seconds.

    Raises:
        SoundloomError: there are none, or the folder or its manifest is unusable.
    """
    root = Path(source.path)
    if not root.is_dir():
        raise SoundloomError(f"{root}: not a folder; a source is a folder of audio files or a corpus")
    manifest = root / MANIFEST
    rows = _manifest_rows(manifest) if manifest.is_file() else [_Row(n, -1.0, "") for n in _names_below(root)]
    rows = _in_split(rows, source)
    included = [word for word in source.include.split(",") if word]
    excluded = [word for word in source.exclude.split(",") if word]
    paths, seconds = [], []
    for row in rows:
        if (included and not any(word in row.name for word in included)) or any(word in row.name for word in excluded):
            continue
        duration = row.seconds if row.seconds >= 0 else audio_info(root / row.name).duration
        if duration > 0.05:
            paths.append(root / row.name)
            seconds.append(duration)
    if not paths:
        raise SoundloomError(f"{root}: holds no audio that fits include={source.include!r}, split={source.split!r}")
    return _Files(paths, np.array(seconds))


@dataclass(frozen=True)
class _Row:
    """One file of a source: its path below the folder, seconds (-1: not known yet), split (empty: there are none)."""

    name: str
    seconds: float
    split: str


def _names_below(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in audio_files(root)]


def _manifest_rows(manifest: Path) -> list[_Row]:
    return [_Row(row.audio, row.duration, row.split or "train") for row in read_manifest(manifest)]


def _in_split(rows: list[_Row], source: Source) -> list[_Row]:
    if source.split == "all":
        return rows
    if source.held_out and not any(row.split == "dev" for row in rows):
        # Chosen by a hash of the name: the same files in every run, and when files are added.
        order = sorted(rows, key=lambda row: stable_seed("held out", row.name))
        dev = order[: max(1, round(source.held_out * len(rows)))]
        names = {row.name for row in (dev if len(rows) > 1 else [])}
        return dev if source.split == "dev" else [row for row in rows if row.name not in names]
    return [row for row in rows if row.split in ("", source.split)]
