"""A step of generation whose tensors have the same shapes and places at every step, so that a GPU can replay it.

A step of a small model is hundreds of short kernels, and starting them takes longer than running them. A CUDA graph
starts all of them at once, if nothing changes between steps but the numbers in memory. So the cache has all its room
from the start, each step attends to all of it under a mask, and the place in the sequence is a number on the device.

    model.fix_shapes(state)                  # a step takes over cache, tables and mask of a `StepState`
    scores = model.advance(state, inputs)    # the same numbers as without it, within rounding
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.transformer import KVCache

if TYPE_CHECKING:
    from lm.step_lm import StepState, Writer

_ROOM = 256  # positions: caches have a multiple of it, so that few graphs serve all requests
_MOST_KEPT = 4  # steps that wait for the next request; each holds a cache


class FixedCache(KVCache):
    """A cache with all its room from the start. While ``place`` is set, a step writes there and attends to all of it.

    Room that is not filled holds zeros or an earlier request's numbers; the step's mask hides both.
    """

    def __init__(self, layers: int, shape: tuple[int, int, int], room: int, like: Tensor) -> None:
        super().__init__(layers, shape, room, like)
        batch, heads, size = shape
        self.keys, self.values = (
            [torch.zeros(batch, heads, room, size, dtype=like.dtype, device=like.device) for _ in range(layers)]
            for _ in range(2)
        )
        self.place: Tensor | None = None  # long [1]

    def attend(self, layer: int, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Append keys and values, and attend with q [B, heads, S, size]; with ``place`` S is 1."""
        if self.place is None:
            return super().attend(layer, q, keys, values, mask)
        all_keys, all_values = self.keys[layer], self.values[layer]
        all_keys.index_copy_(2, self.place, keys)
        all_values.index_copy_(2, self.place, values)
        # Queries that share keys attend as if they were steps: kernels for grouped queries do not take a mask.
        grouped = q.unflatten(1, (keys.shape[1], -1)).squeeze(3)  # [B, kv_heads, heads / kv_heads, size]
        y = F.scaled_dot_product_attention(grouped, all_keys, all_values, mask)
        return y.flatten(1, 2).unsqueeze(2)


class FixedStep:
    """One step of a model for ``rows`` rows and up to ``room`` positions; `begin` gives it to a request."""

    def __init__(self, writer: Writer, rows: int, room: int) -> None:
        self.writer, self.rows, self.room = writer, rows, room
        norm, c = writer.transformer.norm, writer.transformer.config
        device = norm.device
        self.cache = FixedCache(c.num_layers, (rows, c.kv_heads, c.head_dim), room, norm)
        self.inputs = torch.zeros(rows, len(writer.offsets), 1, dtype=torch.long, device=device)
        self.place = torch.zeros(1, dtype=torch.long, device=device)
        self.index = torch.arange(room, device=device)
        shape = rows, room, 1, c.head_dim
        self.cos, self.sin = (torch.zeros(shape, dtype=norm.dtype, device=device) for _ in range(2))
        self.shown = torch.zeros(rows, 1, 1, room, dtype=norm.dtype, device=device)
        self.hidden = torch.full((), float("-inf"), dtype=norm.dtype, device=device)
        self.scores: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def begin(self, state: StepState) -> None:
        """Take over what a request has read so far; its state then uses this step's cache."""
        cache, filled = state.cache, state.cache.length
        for ours, theirs in ((self.cache.keys, cache.keys), (self.cache.values, cache.values)):
            for kept, given in zip(ours, theirs, strict=True):
                kept[:, :, :filled] = given[:, :, :filled]
        self.cache.length, self.cache.max_length, self.cache.place = filled, self.room, None
        for kept, table in zip((self.cos, self.sin), state.tables, strict=True):
            kept[:, : table.shape[-3]] = table
        self.shown.zero_()
        if state.mask is not None:
            self.shown[..., : state.mask.shape[-1]] = state.mask
        state.cache = self.cache

    def __call__(self, inputs: Tensor, place: int) -> Tensor:
        """Take the step at ``place``: input ids [B, levels, 1] -> scores [B, levels, outputs], valid until the next."""
        self.inputs.copy_(inputs)
        self.place.fill_(place)
        if self._graph is not None:
            self._graph.replay()
        elif self.place.device.type == "cuda":
            self._capture()
        else:
            self._run()
        self.cache.length = place + 1
        assert self.scores is not None
        return self.scores

    def _run(self) -> None:
        writer, place = self.writer, self.place
        cos, sin = (table.index_select(1, place) for table in (self.cos, self.sin))
        mask = torch.where(self.index > place, self.hidden, self.shown)
        self.cache.place = place
        try:
            last = writer.transformer(writer.embed(self.inputs, writer.offsets), cos, sin, mask, self.cache)[:, -1]
        finally:
            self.cache.place = None
        scores = writer.heads(last).view(self.rows, len(writer.offsets), -1)
        if self.scores is None:
            self.scores = torch.empty_like(scores)
        self.scores.copy_(scores)

    def _capture(self) -> None:
        """Take the step, and record it for the steps that follow."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose kernels and allocate at their first calls; the results are the same
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the GPU meanwhile
            self._run()
        graph.replay()
        self._graph = graph


class FixedSteps:
    """The fixed steps of a model's weights: lent to a request, taken back when its state is gone."""

    def __init__(self, make: Callable[[int, int], FixedStep]) -> None:
        self._make = make
        self._free: list[FixedStep] = []

    def lend(self, rows: int, positions: int) -> Loan:
        """Return a step for ``rows`` rows and at least ``positions`` positions."""
        room = -(-positions // _ROOM) * _ROOM
        for place, step in enumerate(self._free):
            if (step.rows, step.room) == (rows, room):
                return Loan(self, self._free.pop(place))
        with torch.inference_mode(False):  # tensors of inference mode could not be written outside of it
            return Loan(self, self._make(rows, room))

    def give_back(self, step: FixedStep) -> None:
        """Keep a step for the next request of its size."""
        self._free = [*self._free, step][-_MOST_KEPT:]


class Loan:
    """A step on loan, for as long as this lives."""

    def __init__(self, owner: FixedSteps, step: FixedStep) -> None:
        self._owner, self.step = owner, step

    def __del__(self) -> None:
        self._owner.give_back(self.step)
