"""Read and encode the utterances of a shard, one piece after another or several of about the same length together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from codec.audio.files import audio_info, read_audio
from codec.common.files import sha256_file
from codec.common.read_ahead import read_ahead
from codec.errors import SoundloomError
from codec.store.measure import SourceChanged
from codec.store.plan import Fetch, Plan, Utterance, describe_unusable
from codec.store.previous import PreviousCodes

if TYPE_CHECKING:
    from codec.pretrained import AudioCodec

_CHANGED = "its audio changed after the plan was made"
_NO_CODES = np.empty((0, 0), np.int16)
_POOL = 8  # batches whose pieces are sorted by length before they are encoded
_READERS = 4  # threads that read files while a device other than the CPU encodes
#: called after each utterance with it and its reason if it was rejected, else ""
Progress = Callable[[Utterance, str], None]


class _Unusable(Exception):
    """An utterance that goes to the rejects; the message is the reason."""


@dataclass
class Found:
    """What is known of an utterance: its source's sha256, (codes int16 ``[T, K]``, samples) by piece, or a reason."""

    item: Utterance
    digest: str = ""
    reason: str = ""
    grids: list[tuple[np.ndarray, int]] = field(default_factory=list)

    def rows(self) -> list[tuple[Any, ...]]:
        """Return its rows of `SCHEMA`: one, or several where it was cut; none where it was rejected."""
        if self.reason:
            return []
        item, whole = self.item, len(self.grids) == 1
        # Which words a piece of a cut file holds is not known, so that its text is not either.
        common = item.text if whole else "", item.speaker, item.language, bytes.fromhex(self.digest)
        names = [item.id] if whole else [f"{item.id}#{number:03d}" for number in range(len(self.grids))]
        return [
            (name, grid.reshape(-1), len(grid), samples, *common)
            for name, (grid, samples) in zip(names, self.grids, strict=True)
        ]

    def reject(self) -> bytes:
        """Return its line for the rejects."""
        line = {"id": self.item.id, "source": self.item.source, "reason": self.reason}
        return json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n"


def read_shard(
    plan: Plan, index: int, codec: AudioCodec, fetch: Fetch, progress: Progress | None = None, batch: int = 1
) -> list[Found]:
    """Read and encode a shard's utterances; ``batch`` pieces together, with a device other than the CPU read ahead.

    Raises:
        SoundloomError: an I/O error, or a batch too large for the device's memory.
    """
    previous, items, encoder = PreviousCodes(plan), plan.shard(index), _Encoder(plan, codec, batch)
    if encoder.device is None or encoder.device.type == "cpu":
        readers = 0
    else:  # what is fetched from a row of a larger file is read in order
        plain = Path(plan.settings.root).is_dir() and all(item.row < 0 for item in items)
        readers = _READERS if plain and not previous else 1

    def begin(item: Utterance) -> tuple[Found, Iterator[Tensor]]:
        found = Found(item)
        pieces = _read_pieces(plan, found, fetch, previous)
        return found, chain([piece for piece in [next(pieces, None)] if piece is not None], pieces)

    shard = []
    for found, pieces in read_ahead(begin, items, readers, 2 * batch):
        for piece in pieces:
            encoder.add(found, piece)
            if found.reason:
                break
        shard.append(found)
        if progress is not None:
            progress(found.item, found.reason)
    encoder.finish()
    return shard


def cut_on_silence(wave: torch.Tensor, sample_rate: int, shortest: int, longest: int) -> int:
    """Find where to cut ``wave`` ``[C, N]``: the quietest 0.2 s between ``shortest`` and ``longest`` samples.

    Returns: a number of samples, ``longest`` at most; the same for the same samples on every machine.
    """
    longest = min(longest, wave.shape[1])
    window = max(1, sample_rate // 5)
    if longest - shortest <= window:
        return longest
    # Whole numbers: sums of floats may differ in their last bit from one machine to the next, and move the cut.
    power = (wave.detach().cpu().numpy().astype(np.float64) * 32768).round().astype(np.int64)
    total = np.concatenate([[0], np.cumsum((power**2).sum(axis=0))])
    energy = total[shortest + window : longest + 1] - total[shortest : longest + 1 - window]
    return shortest + int(energy.argmin()) + window // 2


def _read_pieces(plan: Plan, found: Found, fetch: Fetch, previous: PreviousCodes) -> Iterator[Tensor]:
    """Yield the waves to encode, and set what is known of the utterance otherwise."""
    item = found.item
    try:
        if item.problem:
            raise _Unusable(item.problem)
        with fetch(item) as path:
            found.digest = sha256_file(path) if item.size in (0, path.stat().st_size) else ""
            if not found.digest or not found.digest.startswith(item.sha256):
                raise _Unusable(_CHANGED)
            found.grids = previous.find(item, found.digest)
            if not found.grids:
                yield from _cut_file(plan, item, path)
    except _Unusable as error:
        found.reason = str(error)
    except SourceChanged:
        found.reason = _CHANGED
    except (OSError, ValueError) as error:
        problem = describe_unusable(error) if Path(plan.settings.root).exists() or item.row >= 0 else ""
        if not problem:
            raise SoundloomError(f"{item.source}: cannot be read ({error}); run again when the disk is well") from error
        found.reason = problem


def _cut_file(plan: Plan, item: Utterance, path: Path) -> Iterator[Tensor]:
    """Yield a file in pieces of at most ``max_seconds``, float ``[C, N]``."""
    rate, settings = plan.facts.sample_rate, plan.settings
    longest = max(1, round(settings.max_seconds * rate))
    shortest = max(1, round(settings.min_seconds * rate))
    try:
        end = item.start + item.duration if item.duration else audio_info(path).duration
        # Positions count samples from the start; a piece and the rest after it are both long enough to be kept.
        position, last, first = 0, round((end - item.start) * rate), True
        while first or position < last:
            room = last - position
            is_rest = room <= longest
            # The rest of a file is read to where it really ends: a header may be a little off.
            seconds = (longest if not is_rest else room) / rate if item.duration or not is_rest else None
            wave = read_audio(path, rate, plan.facts.channels, item.start + position / rate, seconds)
            if wave.shape[1] < (shortest if is_rest else longest) or wave.shape[1] > longest + rate:
                reason = f"{position / rate + wave.shape[1] / rate:.3f} s long, expected "
                said = f"the {end - item.start:.3f} s of its header"
                raise _Unusable(reason + (f"at least {settings.min_seconds} s" if first and is_rest else said))
            if not is_rest:
                wave = wave[:, : cut_on_silence(wave, rate, longest // 2, min(longest, room - shortest))]
            yield wave
            position, first = last if is_rest else position + wave.shape[1], False
    except SoundloomError as error:
        raise _Unusable(_without_path(error, item, path)) from error


def _without_path(error: SoundloomError, item: Utterance, path: Path) -> str:
    return str(error).replace(f"{path}: ", "").replace(str(path), item.source)


class _Encoder:
    """Encodes pieces and puts their codes into what was found of their utterances."""

    def __init__(self, plan: Plan, codec: AudioCodec, batch: int) -> None:
        self.facts, self.codec, self.batch = plan.facts, codec, batch
        parameters = getattr(codec, "parameters", None)
        self.device = next((parameter.device for parameter in parameters()), None) if parameters else None
        self._waiting: list[tuple[Found, int, Tensor]] = []

    def add(self, found: Found, wave: Tensor) -> None:
        """Take a piece ``[C, N]``; with a batch it may be encoded later, at the latest by `finish`."""
        found.grids.append((_NO_CODES, wave.shape[1]))
        self._waiting.append((found, len(found.grids) - 1, wave))
        if self.batch == 1 or len(self._waiting) >= _POOL * self.batch:
            self.finish()

    def finish(self) -> None:
        """Encode what waits, pieces of similar lengths together."""
        # Those of utterances that turned out to be unusable are encoded too: what a batch holds follows from the plan.
        waiting = sorted(self._waiting, key=lambda piece: piece[2].shape[1])
        self._waiting = []
        for first in range(0, len(waiting), self.batch):
            self._encode(waiting[first : first + self.batch])

    def _encode(self, pieces: list[tuple[Found, int, Tensor]]) -> None:
        try:
            codes = self._codes([wave for _, _, wave in pieces])
        except SoundloomError as error:
            if len(pieces) > 1:  # one of them is at fault
                for piece in pieces:
                    self._encode([piece])
                return
            found = pieces[0][0]
            found.reason = found.reason or str(error)
            return
        except torch.OutOfMemoryError as error:
            raise SoundloomError(
                f"the device's memory does not hold {len(pieces)} pieces of {pieces[-1][2].shape[1]} samples together; "
                "lower --batch"
            ) from error
        for (found, number, wave), own in zip(pieces, codes, strict=True):
            found.grids[number] = (self._grid(own, wave.shape[1]), wave.shape[1])

    def _codes(self, waves: list[Tensor]) -> list[Tensor]:
        codec: Any = self.codec
        with torch.inference_mode():
            if len(waves) > 1 and hasattr(codec, "encode_rows"):
                return [codes.cpu() for codes in codec.encode_rows(waves)]
            inputs = [wave[None] if self.device is None else wave[None].to(self.device) for wave in waves]
            return [self._only(codec.encode(wave)).cpu() for wave in inputs]

    def _only(self, codes: Tensor) -> Tensor:
        if codes.dim() != 3 or len(codes) != 1:
            raise RuntimeError(f"codec gave codes of shape {list(codes.shape)}, expected one row")
        return codes[0]

    def _grid(self, codes: Tensor, samples: int) -> np.ndarray:
        """Return codes ``[K, T]`` of a piece as they are stored, int16 ``[T, levels]``, after checking them."""
        facts, frames = self.facts, -(-samples // self.facts.hop_length)
        K, T = codes.shape
        if facts.num_levels > K or frames != T:
            raise RuntimeError(f"codec gave [{K}, {T}] codes, expected [{facts.num_levels}, {frames}]")
        grid = codes[: facts.num_levels].T.numpy()
        if grid.min() < 0 or grid.max() >= facts.codebook_size:
            raise RuntimeError(f"codec gave codes outside 0..{facts.codebook_size - 1}")
        return np.ascontiguousarray(grid, np.int16)
