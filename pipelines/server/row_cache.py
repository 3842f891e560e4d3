"""Keys and values of sentences that share a running batch, each at a length of its own.

Attention at one step reads every key and value once, and memory bounds it. So rows of about the same length are
attended together, and no row is read far beyond its own end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.step_lm import DelayLM
from lm.transformer import additive_mask

_GROW = 256  # positions by which the memory grows
_CALL = 96  # a call of the attention costs as much as reading about this many positions of one row


@dataclass
class Run:
    """Rows ``first`` to ``last`` of a step, at cache row ``place`` on, which are attended together up to ``end``.

    ``mask`` [rows, 1, 1, end] hides what is beyond each row's own end; None where all have the same.
    """

    first: int
    last: int
    place: int
    end: int
    mask: Tensor | None = None


class RowCache:
    """Keys and values of ``copies`` times ``capacity`` rows; copy c of place p is row ``c * capacity + p``.

    A layer's keys are [rows, kv_heads, head_dim, positions], since products read them faster that way round, and its
    values [rows, kv_heads, positions, head_dim]. It stands where a `KVCache` stands in the packed transformer;
    ``length`` is only there to be counted up.
    """

    def __init__(self, model: DelayLM, capacity: int, copies: int) -> None:
        c = model.config.transformer
        like = model.heads
        self.capacity, self.copies = capacity, copies
        self.kv_heads, self.size, self.room = c.kv_heads, c.head_dim, _GROW
        shape = (capacity * copies, c.kv_heads, _GROW, c.head_dim)
        self.values = [torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(c.num_layers)]
        self.keys = [values.transpose(2, 3).contiguous() for values in self.values]
        self.lengths = [0] * (capacity * copies)
        self.length = 0
        self.used: list[int] = []
        self.runs: list[Run] = []
        self.key_index = self.value_index = torch.zeros(0, dtype=torch.long)

    def begin_step(self, places: int) -> None:
        """Make room for one more position of the first ``places`` places' copies."""
        used = [copy * self.capacity + place for copy in range(self.copies) for place in range(places)]
        if used != self.used or not self.runs:
            self.used, self.runs = used, self._runs(places)
        self._grow(max(self.lengths[row] for row in used) + 1)
        device, room = self.values[0].device, self.room
        at = torch.tensor([self.lengths[row] for row in used], device=device)
        rows = torch.tensor(used, device=device)
        heads = (rows[:, None] * self.kv_heads + torch.arange(self.kv_heads, device=device)).flatten()
        at_heads = at.repeat_interleave(self.kv_heads)
        self.value_index = heads * room + at_heads
        channels = torch.arange(self.size, device=device)
        self.key_index = ((heads[:, None] * self.size + channels) * room + at_heads[:, None]).flatten()
        for run in self.runs:
            lengths = self.lengths[run.place : run.place + run.last - run.first]
            run.end, run.mask = max(lengths) + 1, None
            if min(lengths) + 1 < run.end:
                shown = torch.arange(run.end, device=device) <= at[run.first : run.last, None]
                run.mask = additive_mask(shown, self.keys[0].dtype)[:, None, None]

    def attend(self, layer: int, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Write each row's next position, [rows, kv_heads, 1, head_dim], and attend with q [rows, heads, 1, head_dim].

        Rows are the places of the first copy, then those of the second. ``mask`` is not used: runs have their own.
        """
        R, H, _, size = q.shape
        self._write(layer, keys, values)
        q = (q * size**-0.5).view(R, keys.shape[1], -1, size)  # [rows, kv_heads, heads that share them, head_dim]
        parts = []
        for run in self.runs:
            rows = slice(run.place, run.place + run.last - run.first)
            scores = _product(q[run.first : run.last], self.keys[layer][rows, ..., : run.end])
            weights = (scores if run.mask is None else scores.add_(run.mask)).softmax(dim=-1)
            parts.append(_product(weights, self.values[layer][rows, :, : run.end]))
        return torch.cat(parts).view(R, H, 1, size)

    def _write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write keys and values [rows, kv_heads, 1, head_dim] of one position, each row at its own."""
        self.keys[layer].view(-1).index_copy_(0, self.key_index, keys.flatten())
        self.values[layer].view(-1, self.size).index_copy_(0, self.value_index, values.reshape(-1, self.size))

    def end_step(self) -> None:
        """Count the position that every used row has taken."""
        for row in self.used:
            self.lengths[row] += 1

    def load(self, place: int, copy: int, keys: list[Tensor], values: list[Tensor]) -> None:
        """Fill a copy of a place with what one row of another cache holds, [kv_heads, n, head_dim] a layer."""
        row, n = copy * self.capacity + place, keys[0].shape[1]
        self._grow(n)
        for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
            self.keys[layer][row, :, :, :n] = key.transpose(1, 2)
            self.values[layer][row, :, :n] = value
        self.lengths[row] = n
        self.runs = []

    def move(self, source: int, target: int) -> None:
        """Copy a place onto another."""
        for copy in range(self.copies):
            row = copy * self.capacity + source
            n = self.lengths[row]
            keys = [key[row, :, :, :n].transpose(1, 2) for key in self.keys]
            self.load(target, copy, keys, [value[row, :, :n] for value in self.values])

    def _runs(self, places: int) -> list[Run]:
        runs = []
        for copy in range(self.copies):
            row = copy * self.capacity
            for first, last in split(self.lengths[row : row + places]):
                runs.append(Run(copy * places + first, copy * places + last, row + first, 0))
        return runs

    def _grow(self, positions: int) -> None:
        if positions <= self.room:
            return
        more = -(-(positions - self.room) // _GROW) * _GROW
        self.room += more
        self.keys = [F.pad(keys, (0, more)) for keys in self.keys]
        self.values = [F.pad(values, (0, 0, 0, more)) for values in self.values]


def split(lengths: list[int]) -> list[tuple[int, int]]:
    """Return the cheapest split of neighbours into runs (first, last): each run costs its longest for every row."""
    best: list[tuple[int, int]] = [(0, 0)]  # of the first n rows: cost, and where the last run begins
    for last in range(1, len(lengths) + 1):
        longest, options = 0, []
        for first in range(last - 1, -1, -1):
            longest = max(longest, lengths[first])
            options.append((best[first][0] + (last - first) * longest + _CALL, first))
        best.append(min(options))
    runs, last = [], len(lengths)
    while last:
        runs.append((best[last][1], last))
        last = best[last][1]
    return runs[::-1]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply [rows, heads, n, k] by [rows, heads, k, m]."""
    return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).view(*a.shape[:3], -1)
