"""Token grids and their texts as training batches, in an order that a step number alone determines.

    dataset = GridDataset(StoreReader(store), tokenizer, max_frames=1500)
    plan = BatchPlan(dataset.lengths, dataset.text_lengths, frames_per_batch=6000, seed=0)
    batch = dataset.batch(plan.rows(index), index)          # index = 0, 1, 2 … through as many epochs as wanted

Nothing here keeps a position: batch ``index`` depends on its number alone. A training that resumes at a step asks for
that step's batches; several processes ask for different indices.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from codec.common.devices import to_device
from codec.common.read_ahead import read_ahead
from codec.errors import SoundloomError
from lm.data.batch_plan import BatchPlan
from lm.data.pairs import speaker_pairs
from lm.data.texts import read_texts
from lm.prefix import PromptSpan
from lm.text.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from codec.store.reader import StoreReader


@dataclass(frozen=True)
class Example:
    """One utterance, or two of a speaker joined: its id, text_ids (a list of L numbers) and codes, integers [K, T].

    Of two, the first has ``first_units`` of the text and ``first_frames`` of the codes. If it is ``given``, the model
    learns to continue it, not to write it.
    """

    id: str
    text_ids: list[int]
    codes: Tensor
    first_units: int = 0
    first_frames: int = 0
    given: bool = False

    @property
    def prompt_frames(self) -> int:
        """Frames at the start that the loss leaves out."""
        return self.first_frames if self.given else 0


@dataclass(frozen=True)
class Batch:
    """text_ids long [B, L], text_lengths long [B], codes long [B, K, T], lengths long [B] (frames), ids of the B rows.

    ``span``: which part of each row is the first of two joined utterances; None if no row is joined.
    ``prompt_frames``: frames at each row's start that the loss leaves out, long [B]; None where there are none.
    Padding is the tokenizer's ``pad_id`` in text_ids and 0 in codes; only the lengths show what is padding. A row
    without text has text length 0.
    """

    text_ids: Tensor
    text_lengths: Tensor
    codes: Tensor
    lengths: Tensor
    ids: list[str]
    span: PromptSpan | None = None
    prompt_frames: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on ``device``."""
        return replace(
            self,
            text_ids=to_device(self.text_ids, device),
            text_lengths=to_device(self.text_lengths, device),
            codes=to_device(self.codes, device),
            lengths=to_device(self.lengths, device),
            span=None if self.span is None else self.span.to(device),
            prompt_frames=None if self.prompt_frames is None else to_device(self.prompt_frames, device),
        )


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """Pad examples to the longest text and the longest grid of the batch."""
    text_lengths = torch.tensor([len(example.text_ids) for example in examples])
    lengths = torch.tensor([example.codes.shape[1] for example in examples])
    B, K = len(examples), examples[0].codes.shape[0]
    text_ids = torch.full((B, int(text_lengths.max())), pad_id, dtype=torch.long)
    codes = torch.zeros((B, K, int(lengths.max())), dtype=torch.long)
    for i, example in enumerate(examples):
        text_ids[i, : len(example.text_ids)] = torch.tensor(example.text_ids, dtype=torch.long)
        codes[i, :, : example.codes.shape[1]] = example.codes
    frames = torch.tensor([example.first_frames for example in examples])
    span = PromptSpan(torch.tensor([example.first_units for example in examples]), frames) if frames.any() else None
    left_out = torch.tensor([example.prompt_frames for example in examples])
    prompt_frames = left_out if left_out.any() else None
    return Batch(text_ids, text_lengths, codes, lengths, [example.id for example in examples], span, prompt_frames)


class GridDataset:
    """The usable rows of a token store with their texts as ids.

    Texts are encoded once at the start, or those of a large store when a batch is made (`lm.data.texts`).
    Rows over ``max_frames`` and rows whose text cannot be spoken are left out; ``dropped`` holds the reason. Rows
    without any text stay, as examples of unconditional audio.

    Args:
        reader: the store; its ``num_levels`` decides how many levels a batch has.
        max_frames: the longest row that is used; 0 = any.
        spell_probability: share of known words that are spelled instead of pronounced, sampled anew for every batch.
        join: pairs of utterances of one speaker to add for each utterance; the second continues in the voice of the
            first, as after a prompt.
        speakers: whose voices the model is to have without a prompt; None = all. Rows of others then appear only in
            pairs, whose first utterance is a prompt and is not scored.
        prompted: number of such pairs for each row of the others.
        seed: decides which pairs.

    Raises: SoundloomError where no row is left, or none is of ``speakers``.
    """

    def __init__(
        self,
        reader: StoreReader,
        tokenizer: TextTokenizer,
        *,
        max_frames: int = 0,
        spell_probability: float = 0.0,
        join: float = 0.0,
        speakers: Sequence[str] | None = None,
        prompted: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.reader = reader
        self.tokenizer = tokenizer
        self.spell_probability = spell_probability
        self.seed = seed
        self._texts = texts = read_texts(reader, tokenizer, max_frames)
        self.dropped = texts.dropped
        if not len(texts.rows):
            why = next(iter(self.dropped.values()), "it is empty")
            raise SoundloomError(f"{reader.path}: no row can be used for training, first reason: {why}")
        self.rows = texts.rows  # place in the store
        self._units = texts.units
        self._frames = np.asarray(reader.num_frames, dtype=np.int64)[self.rows]
        self._lay_out(join, speakers, prompted, max_frames)

    def _lay_out(self, join: float, speakers: Sequence[str] | None, prompted: float, max_frames: int) -> None:
        """Decide which rows are examples alone and which stand in pairs."""
        needed = speakers is not None or join > 0
        numbers, names = self.reader.speakers() if needed else (np.zeros(len(self.reader), np.int64), [""])
        numbers = numbers[self.rows]
        wanted = [number for number, name in enumerate(names) if speakers is None or name in speakers]
        own = np.isin(numbers, wanted)
        if not own.any():
            has = ", ".join(names[number] for number in np.unique(numbers)[:10].tolist())
            raise SoundloomError(f"{self.reader.path}: has no speaker {', '.join(speakers or [])}; it has {has}")
        pairs = partial(
            speaker_pairs,
            speakers=numbers,
            frames=self._frames,
            units=self._units,
            max_frames=max_frames,
            seed=self.seed,
        )
        self._alone = np.flatnonzero(own)  # places in ``rows`` of those that are examples by themselves
        joined = pairs(round(join * int(own.sum())), own)
        given = pairs(round(prompted * int((~own).sum())), ~own)
        self.pairs = np.concatenate([joined, given])  # [pairs, 2], places in ``rows``
        self._first_given = len(self._alone) + len(joined)  # the first example whose first utterance is a prompt
        #: frames and text units of each example, the rows, then the pairs; and the frames that the loss counts
        self.lengths = np.concatenate([self._frames[self._alone], self._frames[self.pairs].sum(1)])
        self.text_lengths = np.concatenate([self._units[self._alone], self._units[self.pairs].sum(1)])
        self.scored = self.lengths.copy()
        self.scored[self._first_given :] = self._frames[given[:, 1]]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def pace(self) -> tuple[float, float]:
        """Frames per text unit and frames around the text: the line through frames over text units of rows with text.

        Where the rows make no rising line that starts at 0 or above, the mean ratio and 0; (1.0, 0.0) without text.
        """
        measured = self._texts.measured
        spoken = measured[self._units[measured] > 0]
        if not len(spoken):
            return 1.0, 0.0
        units, frames = self._units[spoken], self._frames[spoken]
        ratio = float(frames.sum() / units.sum())
        if len(units) < 10 or units.std() < 1:
            return ratio, 0.0
        slope, start = (float(value) for value in np.polyfit(units, frames, 1))
        return (slope, start) if slope > 0.1 * ratio and start >= 0 else (ratio, 0.0)

    def example(self, index: int, draw: int = 0) -> Example:
        """Return example ``index``: a row, or after all rows a pair; (seed, draw, row's id) decide the spelling."""
        if index < len(self._alone):
            return self._row(int(self._alone[index]), draw)
        first, second = (self._row(int(place), draw) for place in self.pairs[index - len(self._alone)])
        text_ids, codes = first.text_ids + second.text_ids, torch.cat([first.codes, second.codes], dim=1)
        identity = f"{first.id}+{second.id}"
        given = index >= self._first_given
        return Example(identity, text_ids, codes, len(first.text_ids), first.codes.shape[1], given)

    def last_id(self, index: int) -> str:
        """The id of example ``index``'s utterance, of a pair the second's."""
        place = index - len(self._alone)
        row = self._alone[index] if place < 0 else self.pairs[place][1]
        return self.reader.id(int(self.rows[row]))

    def _row(self, index: int, draw: int) -> Example:
        row = int(self.rows[index])
        identity = self.reader.id(row)
        text_ids = self._texts.ids(index)
        if self.spell_probability > 0 and text_ids:
            # Seeding with a string hashes it with SHA-512: the same in every process, on every machine.
            rng = random.Random(f"{self.seed}/{draw}/{identity}")
            text_ids = self.tokenizer.encode(self.reader.text(row), self.spell_probability, rng)
        return Example(identity, text_ids, self.reader.codes(row))

    def batch(self, indices: Iterable[int], draw: int = 0) -> Batch:
        """Read and pad the examples ``indices``; ``draw`` (a batch's number) seeds the spelling."""
        examples = [self.example(int(index), draw) for index in indices]
        return collate(examples, self.tokenizer.pad_id)


def prefetch(
    dataset: GridDataset, plan: BatchPlan, numbers: Iterable[int], threads: int = 1
) -> Generator[Batch, None, None]:
    """Yield the batches ``numbers`` in order, made ahead by threads (no processes: rows are memory-mapped).

    ``threads`` 0 makes each batch when it is asked for. Errors come out where the batch would have.
    """

    def make(number: int) -> Batch:
        return dataset.batch(plan.rows(number), number)

    return read_ahead(make, numbers, threads)
