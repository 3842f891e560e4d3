"""The texts of a store's rows as ids: all encoded at the start, or of a large store each when its batch is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from codec.errors import SoundloomError
from lm.text.tokenizer import MAX_CHARACTERS, TextTokenizer

if TYPE_CHECKING:
    from codec.store.reader import StoreReader

#: a store with more rows is not encoded at the start: that would take minutes, in every process
MANY_ROWS = 200_000
_SAMPLE = 2000
_HIGH = 0.95  # the share of sampled texts that have at most the estimated units for their bytes


class Texts(Protocol):
    """Texts of the rows that can be used, by their place among them.

    ``rows``: their places in the store. ``units``: text units of each, 0 without text. ``measured``: places whose units
    are no estimates. ``dropped``: id and reason of what cannot be used.
    """

    rows: np.ndarray
    units: np.ndarray
    measured: np.ndarray
    dropped: dict[str, str]

    def ids(self, place: int) -> list[int]:
        """Return one row's text as ids, empty without text."""


@dataclass
class EncodedTexts:
    """Texts that were encoded at the start, about 0.1 ms each."""

    rows: np.ndarray
    units: np.ndarray
    measured: np.ndarray
    dropped: dict[str, str]
    _flat: np.ndarray
    _ends: np.ndarray

    @classmethod
    def read(cls, reader: StoreReader, tokenizer: TextTokenizer, max_frames: int) -> EncodedTexts:
        """Encode the texts of all rows; those that cannot be spoken, and those over ``max_frames``, are dropped."""
        rows: list[int] = []
        texts: list[np.ndarray] = []
        dropped: dict[str, str] = {}
        for row, frames in enumerate(reader.num_frames.tolist()):
            try:
                if 0 < max_frames < frames:
                    raise SoundloomError(_too_long(frames, max_frames))
                text = reader.text(row)
                ids = tokenizer.encode(text) if text.strip() else []
            except SoundloomError as error:
                dropped[reader.id(row)] = str(error)
                continue
            rows.append(row)
            texts.append(np.array(ids, dtype=np.int32))
        units = np.array([len(ids) for ids in texts], dtype=np.int64)
        flat = np.concatenate([np.empty(0, np.int32), *texts])
        places = np.array(rows, dtype=np.int64)
        return cls(places, units, np.arange(len(rows)), dropped, flat, np.cumsum(units))

    def ids(self, place: int) -> list[int]:
        """Return one row's text as ids, empty without text."""
        end = int(self._ends[place])
        ids: list[int] = self._flat[end - int(self.units[place]) : end].tolist()
        return ids


@dataclass
class LaterTexts:
    """Texts that are encoded when they are asked for; their units are estimated from their bytes and a sample.

    A text that cannot be spoken counts as none: its row becomes an example of audio without text.
    """

    rows: np.ndarray
    units: np.ndarray
    measured: np.ndarray
    reader: StoreReader
    tokenizer: TextTokenizer
    dropped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, reader: StoreReader, tokenizer: TextTokenizer, max_frames: int) -> LaterTexts:
        """Estimate the units of all texts; rows over ``max_frames`` are dropped."""
        frames = reader.num_frames
        fits = frames <= max_frames if max_frames > 0 else np.ones(len(frames), bool)
        dropped = {reader.id(row): _too_long(int(frames[row]), max_frames) for row in np.flatnonzero(~fits).tolist()}
        rows = np.flatnonzero(fits)
        length = reader.text_bytes[rows]
        texts = cls(rows, np.zeros(len(rows), np.int64), np.empty(0, np.int64), reader, tokenizer, dropped)
        spoken = np.flatnonzero((length > 0) & (length <= 4 * MAX_CHARACTERS))
        sample = spoken[np.linspace(0, len(spoken) - 1, min(_SAMPLE, len(spoken))).astype(np.int64)]
        counts = np.array([len(texts.ids(place)) for place in sample.tolist()], dtype=np.int64)
        if counts.any():
            ratio = float(np.quantile(counts / length[sample], _HIGH))
            texts.units[spoken] = np.ceil(length[spoken] * ratio).astype(np.int64)
        texts.units[sample] = counts
        texts.measured = sample
        return texts

    def ids(self, place: int) -> list[int]:
        """Return one row's text as ids, empty without text or where it cannot be spoken."""
        text = self.reader.text(int(self.rows[place]))
        try:
            return self.tokenizer.encode(text) if text.strip() else []
        except SoundloomError:
            return []


def read_texts(reader: StoreReader, tokenizer: TextTokenizer, max_frames: int) -> Texts:
    """Return the texts of a store's usable rows; those of more than `MANY_ROWS` rows are encoded later."""
    kind = LaterTexts if len(reader) > MANY_ROWS else EncodedTexts
    return kind.read(reader, tokenizer, max_frames)


def _too_long(frames: int, max_frames: int) -> str:
    return f"{frames} frames, over max_frames {max_frames}"
