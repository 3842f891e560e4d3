"""Continuous batching: sentences join and leave one running batch of a step model, frame by frame.

Each sentence starts alone, as `lm.generation.generate` starts it, until its prompt is read and no input is given any
more. Then its keys and values move into the batch, where every row stands at a step of its own. Seeds belong to the
sentences, so a sentence gets the codes that it would get alone, up to samples within rounding of a border.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from codec.errors import SoundloomError
from lm.generation.generate import Frame
from lm.generation.grid_writer import UNKNOWN, GridWriter, guided
from lm.generation.latents import level_vectors
from lm.generation.request import GenerateConfig, Request
from lm.generation.sampling import sample
from lm.step_lm import DelayLM
from pipelines.server.row_cache import RowCache

PREFILL_STEPS = 96  # of a prompt, read at once: about 50 ms on one core, in which the others wait
_GROW = 256  # steps by which the batch's memory grows


@dataclass(eq=False)
class Row:
    """A sentence in the batch: who asked for it (``owner``), its decoded levels, and what it has written."""

    request: Request
    owner: Any
    levels: int
    next_frame: int = 0
    generator: torch.Generator | None = None
    frames: list[Frame] = field(default_factory=list)
    finish_reason: str | None = None

    def taken(self) -> list[Frame]:
        """Return the frames since the last call."""
        frames, self.frames = self.frames, []
        return frames


class RowBatch:
    """Up to ``capacity`` sentences that one model writes side by side, each at a step of its own; one config for all.

    ``vectors`` float [K, V, D]: the codec's codebooks, where latents are wanted (`GenerateConfig.sampled_levels`).
    """

    def __init__(self, model: DelayLM, config: GenerateConfig, capacity: int, vectors: Tensor | None = None) -> None:
        if not isinstance(model, DelayLM):
            raise SoundloomError(f"a running batch needs a delay model, not a {type(model).__name__}")
        self.model, self.config, self.capacity, self.vectors = model, config, capacity, vectors
        self.copies = 1 if config.guidance == 1.0 else 2
        self.rows: list[Row] = []
        self.pattern = model.pattern
        device, K = model.heads.device, self.pattern.levels
        self.cache = RowCache(model, capacity, self.copies)
        self.levels = torch.arange(K, device=device)
        self.first_frames = self.pattern.frames_at(0, device)  # of a step s, level k scores frame s + first_frames[k]
        self.places = torch.arange(capacity, device=device)
        self.periods = torch.arange(1, config.loop_period + 1, device=device)
        limit = torch.tensor(config.loop_seconds * model.config.frame_rate, device=device)
        self.loop_limit = torch.maximum(self.periods * 3, limit)
        self.temperatures = config.temperatures(K).to(device)
        dim = 1 if vectors is None else vectors.shape[2]

        def numbers(*shape: int) -> Tensor:
            return torch.zeros(capacity, *shape, dtype=torch.long, device=device)

        # A row's own numbers; all are moved when a place is freed.
        self.state = {
            "step": numbers(),
            "least": numbers(),
            "most": numbers(),
            "length": numbers(),
            "prompt": numbers(),
            "levels": numbers(),
            "runs": numbers(config.loop_period),
            "inputs": numbers(K, _GROW),
            "latents": torch.zeros(capacity, _GROW, dim, device=device),
        }
        self.writer: Any = None
        self.tables: tuple[Tensor, Tensor] = (torch.zeros(0), torch.zeros(0))

    @property
    def full(self) -> bool:
        """Whether every place is taken."""
        return len(self.rows) >= self.capacity

    # --- joining and leaving --------------------------------------------------------------------------------------

    def start(self, row: Row) -> Iterator[None]:
        """Read a sentence's text and prompt, write its first frames alone, and let it join the batch.

        It pauses after each piece of work of some 50 ms, so that the batch can take steps between them.
        """
        request = row.request
        with torch.inference_mode():
            run = GridWriter(self.model, request)
        row.next_frame, row.generator = int(request.prompt_lengths[0]), run.generators[0]
        free = int(self.pattern.free_of(request.prompt_lengths)[0])
        yield
        while run.taken + PREFILL_STEPS < run.step:
            with torch.inference_mode():
                self._read_prompt(run, run.taken + PREFILL_STEPS)
            yield
        # Until all of a frame's levels are written by the model itself, inputs are given and guidance hides them.
        while run.step < free and not bool(run.done.all()):
            with torch.inference_mode():
                run.advance()
        with torch.inference_mode():
            self._collect(
                row, run.step, int(run.lengths[0]), run.inputs[0], run.latents[0] if self._wants(row) else None
            )
            if bool(run.done.all()):
                row.finish_reason = run.reasons[0]
            else:
                self._join(row, run)

    def leave(self, row: Row) -> None:
        """Take a sentence out; the last one moves into its place."""
        place, last = self.rows.index(row), len(self.rows) - 1
        if place != last:
            for values in self.state.values():
                values[place] = values[last]
            self.cache.move(last, place)
            self.rows[place] = self.rows[last]
        self.rows.pop()

    def _wants(self, row: Row) -> bool:
        return row.request.vectors is not None

    def _read_prompt(self, run: GridWriter, end: int) -> None:
        """Take the given steps up to ``end`` whose scores nobody needs."""
        new = run.inputs[:, :, run.taken : end]
        hidden = None
        if self.copies == 2:
            new = torch.cat([new, new])
        if run.taken < run.hidden_until:
            lost = self.pattern.reads(run.request.prompt_lengths, run.taken, end)
            hidden = torch.cat([torch.zeros_like(lost), lost])
        self.model.advance(run.state, new, hidden)
        run.taken = end

    def _join(self, row: Row, run: GridWriter) -> None:
        place = len(self.rows)
        self.writer = run.state.writer
        steps = run.inputs.shape[2]
        self._room(steps)
        self.state["step"][place], self.state["levels"][place] = run.step, row.levels
        own = {"least": run.least, "most": run.most, "length": run.lengths, "runs": run.runs}
        for name, value in {**own, "prompt": run.request.prompt_lengths}.items():
            self.state[name][place] = value[0]
        self.state["inputs"][place].fill_(self.model.config.end_id)
        self.state["inputs"][place, :, :steps] = run.inputs[0]
        self.state["latents"][place].zero_()
        if self._wants(row):
            self.state["latents"][place, :steps] = run.latents[0]
        text = run.state.text_length
        cache, end = run.state.cache, run.state.text_length + run.taken
        for copy in range(self.copies):
            # Without text, all that can be seen of the prefix is its first position; the hidden ones are left out.
            shown = torch.arange(end, device=self.levels.device)
            if copy == 1 or int(run.request.text_lengths[0]) == 0:
                shown = torch.cat([shown[:1], shown[text:]])
            keys = [layer[copy][:, shown] for layer in cache.keys]
            values = [layer[copy][:, shown] for layer in cache.values]
            self.cache.load(place, copy, keys, values)
        self.rows.append(row)

    def _room(self, steps: int) -> None:
        have = self.state["inputs"].shape[2]
        if steps + 1 > have:
            more = -(-(steps + 1 - have) // _GROW) * _GROW
            self.state["inputs"] = torch.nn.functional.pad(self.state["inputs"], (0, more))
            self.state["latents"] = torch.nn.functional.pad(self.state["latents"], (0, 0, 0, more))
        if self.tables[0].shape[0] < self.state["inputs"].shape[2]:
            positions = torch.arange(self.state["inputs"].shape[2], device=self.levels.device, dtype=torch.float32)
            self.tables = self.writer.transformer.tables(positions)

    # --- a step ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Take one step of every row; return the rows, those that ended with their ``finish_reason``, now gone."""
        n = len(self.rows)
        rows, step = list(self.rows), self.state["step"][:n].clone()
        scores = self._scores(n, step)
        logits = guided(scores, self.config.guidance).float()
        codes, reasons = self._write(n, logits.clone(), step)
        if self.vectors is not None:
            self._add_latents(n, scores[:n], codes, step, self.vectors)
        self.state["step"][:n] += 1
        lengths = self.state["length"][:n].tolist()
        for place, (row, s) in enumerate(zip(rows, step.tolist(), strict=True)):
            latents = self.state["latents"][place] if self._wants(row) else None
            self._collect(row, s + 1, lengths[place], self.state["inputs"][place], latents)
            row.finish_reason = reasons[place] or row.finish_reason
        ends = [self.pattern.steps(length) for length in lengths]
        ended = [row for row, s, end in zip(rows, step.tolist(), ends, strict=True) if s + 1 >= end]
        for row in rows:
            if row in ended:
                self.leave(row)
        return [row for row in rows if row.frames or row in ended]

    def _scores(self, n: int, step: Tensor) -> Tensor:
        """Score the next codes of all rows, then of their copies without text: [copies * n, K, outputs]."""
        new = self.state["inputs"][self.places[:n], :, step].repeat(self.copies, 1)
        x = self.model.embed(new[..., None], self.writer.offsets)
        at = step.repeat(self.copies)
        cos, sin = (table[at][:, None] for table in self.tables)
        self.cache.begin_step(n)
        hidden = self.writer.transformer(x, cos, sin, None, self.cache)[:, -1]
        self.cache.end_step()
        return self.writer.heads(hidden).view(self.copies * n, self.pattern.levels, -1)

    def _write(self, n: int, logits: Tensor, step: Tensor) -> tuple[Tensor, list[str]]:
        """Sample the codes of a step [n, K] and write them as the next step's inputs; say which rows ended, and why."""
        config, end = self.config, self.model.config.end_id
        length, inputs = self.state["length"][:n], self.state["inputs"]
        logits[:, 1:, end] = float("-inf")
        logits[:, 0, end].masked_fill_(step < self.state["least"][:n], float("-inf"))
        generators = [row.generator for row in self.rows if row.generator is not None]
        codes = sample(logits, generators, config, self.temperatures)
        unended = length == UNKNOWN
        capped = unended & (step >= self.state["most"][:n])
        ended = unended & ~capped & (codes[:, 0] == end)
        length[capped | ended] = step[capped | ended]
        codes = torch.where(step[:, None] + self.first_frames < length[:, None], codes, end)
        inputs[self.places[:n], :, step + 1] = codes
        looped = unended & ~capped & ~ended & self._loops(n, step)
        length[looped] = step[looped] + 1
        flags = torch.stack([capped, ended, looped], 1).tolist()
        return codes, ["cap" if c else "end" if e else "loop" if x else "" for c, e, x in flags]

    def _loops(self, n: int, step: Tensor) -> Tensor:
        """Rows whose level 0 has now repeated one cycle for long: bool [n]."""
        if self.config.loop_seconds == 0:
            return torch.zeros(n, dtype=torch.bool, device=step.device)
        level, runs = self.state["inputs"][:n, 0], self.state["runs"]
        before = (step[:, None] + 1 - self.periods).clamp(min=0)  # column 0 is START, which equals no code
        same = level.gather(1, step[:, None] + 1) == level.gather(1, before)
        runs[:n] = torch.where(same, runs[:n] + 1, 0)
        return (runs[:n] >= self.loop_limit).any(dim=1)

    def _add_latents(self, n: int, scores: Tensor, codes: Tensor, step: Tensor, vectors: Tensor) -> None:
        levels = self.levels[: len(vectors)]
        frames = step[:, None] + self.first_frames[levels]
        new = (frames >= self.state["prompt"][:n, None]) & (frames < self.state["length"][:n, None])
        new &= levels < self.state["levels"][:n, None]
        added = level_vectors(codes, scores, vectors, self.config.sampled_levels) * new[..., None]
        self.state["latents"].index_put_((self.places[:n, None], frames.clamp(min=0)), added, accumulate=True)

    def _collect(self, row: Row, step: int, length: int, inputs: Tensor, latents: Tensor | None) -> None:
        """Hand a row the frames that are whole before ``step``: inputs [K, steps], latents [steps, D]."""
        while self.pattern.steps(row.next_frame + 1) <= step and row.next_frame < length:
            frame = row.next_frame
            codes = self.pattern.frame_of(inputs, frame)
            row.frames.append(Frame(codes, None if latents is None else latents[frame].clone()))
            row.next_frame += 1
