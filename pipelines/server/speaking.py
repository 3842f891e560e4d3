"""One request on its way to sound: its text in sentences, each from ids to frames to chunks, as a stream of events.

This is the one file of the server that knows how `Voice` prepares and decodes a sentence.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codec.errors import SoundloomError
from lm.generation.generate import Frame
from lm.generation.request import make_request
from lm.text.tokenizer import split_sentences
from pipelines.server.rows import Row
from pipelines.voice.speech import Piece, verdict
from pipelines.voice.synthesis import ChunkDecoder, Job
from pipelines.voice.voice import Voice, _Start, sentence_seed

_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Order:
    """What a client wants spoken. ``prompt``: samples [C, N] at the voice's rate, with ``prompt_text``."""

    text: str
    seed: int = 0
    speaker: str | None = None
    levels: int | None = None
    speed: float = 1.0
    prompt: Tensor | None = None
    prompt_text: str | None = None


@dataclass(frozen=True)
class SentenceStarted:
    """Sentence ``index`` begins at sample ``start``; it is expected to take ``seconds``."""

    index: int
    text: str
    start: int
    seconds: float


@dataclass(frozen=True)
class Sound:
    """A chunk of sound, float32 [C, n], and the frames written since the last one, K codes each."""

    wave: Tensor
    codes: list[list[int]]


@dataclass(frozen=True)
class SentenceEnded:
    """Sentence ``index`` has ``samples`` samples; ``finish_reason`` as in `Speech`."""

    index: int
    samples: int
    finish_reason: str


@dataclass(frozen=True)
class Finished:
    """All is said: ``samples`` samples, ``frames`` frames, ``units`` text ids."""

    samples: int
    frames: int
    units: int


@dataclass(frozen=True)
class Failed:
    """The request ended early. ``code`` is "timeout", "stopped" or "internal"; ``message`` is fit for clients."""

    code: str
    message: str


Event = SentenceStarted | Sound | SentenceEnded | Finished | Failed


class Start:
    """What a speaker's first sentence continues; made once a speaker and kept, since it takes a codec's run."""

    def __init__(self, voice: Voice) -> None:
        self.voice = voice
        self._known: dict[tuple[str | None, int | None], Any] = {}
        self._lock = threading.Lock()

    def of(self, order: Order) -> Any:
        """Return the start for an order. Raises: SoundloomError for a speaker or a prompt that is not right."""
        config, levels, _ = self.voice._settings(order.levels, 0, {})
        parts = order.speaker, order.prompt, order.prompt_text, config, levels
        if order.prompt is not None:
            return self.voice._start(*parts)
        with self._lock:
            key = order.speaker, levels
            if key not in self._known:
                self._known[key] = self.voice._start(*parts)
            return self._known[key]


class Speaking:
    """A request in progress. ``emit`` gets its events, in order, from the engine's threads.

    With ``open_text`` more text may follow (`add_text`) until `close`.
    Raises: SoundloomError where the order cannot be spoken.
    """

    def __init__(
        self,
        voice: Voice,
        starts: Start,
        order: Order,
        emit: Callable[[Event], None],
        max_seconds: float = 600.0,
        open_text: bool = False,
    ) -> None:
        self.voice, self.order, self._emit = voice, order, emit
        self.number = next(_NUMBERS)
        self.config, self.levels, _ = voice._settings(order.levels, 0, {})
        sentence_seed(order.seed, 0)  # a bad seed fails here
        self.start = starts.of(order)
        self.pieces: list[Piece] = []
        self.open = open_text
        self.cancelled = self.ended = False
        self.created = time.monotonic()
        self.deadline = self.created + max_seconds
        self.samples = self.frames = self.units = 0
        self.first_sound: float | None = None
        self._index = 0
        self._rest = ""
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._decoder: Any = None
        self._fresh: list[list[int]] = []
        self._heard: list[Tensor] = []
        if open_text:
            self.add_text(order.text)
        else:
            self.pieces = voice._pieces(order.text)

    # --- text -----------------------------------------------------------------------------------------------------

    def add_text(self, text: str) -> bool:
        """Take more text; return whether a whole sentence is now waiting."""
        with self._lock:
            self._rest += text
            *whole, rest = split_sentences(self._rest) or [""]
            if whole:
                self._rest = rest + (" " if self._rest[-1:].isspace() else "")
            self._add(whole)
            return self.waiting

    def flush(self) -> bool:
        """Let what has come so far be spoken, though its sentence may not have ended."""
        with self._lock:
            rest, self._rest = self._rest, ""
            self._add([rest])
            return self.waiting

    def close(self) -> bool:
        """Take no more text; return whether something is still to be spoken."""
        waiting = self.flush()
        self.open = False
        return waiting

    def _add(self, sentences: list[str]) -> None:
        for sentence in sentences:
            try:
                self.pieces = self.pieces + self.voice._pieces(sentence)
            except SoundloomError:
                continue  # nothing in it to speak; what follows may still be speech

    @property
    def waiting(self) -> bool:
        """Whether a sentence waits to be begun."""
        return self._job is None and self._index < len(self.pieces)

    @property
    def idle(self) -> bool:
        """Whether no sentence is being written or decoded, and none waits."""
        return self._job is None and self._index >= len(self.pieces)

    # --- a sentence -----------------------------------------------------------------------------------------------

    def begin(self) -> Row:
        """Begin the next sentence: the row that the batch writes."""
        piece = self.pieces[self._index]
        if self._index:
            pause = self.voice._pause(self.pieces[self._index - 1], False)
            self._sound(pause, [])
        seed = sentence_seed(self.order.seed, self._index)
        job = self._job = self.voice._job(piece, self.start, seed, self.config, self.levels)
        self._decoder = ChunkDecoder(self.voice._player(job), job)
        self._fresh, self._heard = [], []
        self.units += len(job.text_ids) - job.prompt_units
        self.emit(SentenceStarted(self._index, piece.text, self.samples, job.expected_seconds))
        prompt = None if job.prompt is None else job.prompt[None]
        said = torch.tensor([job.prompt_units])
        request = make_request(
            self.voice.lm.model.config,
            job.text_ids[None],
            None,
            prompt,
            None,
            [job.seed],
            job.config,
            said,
            job.vectors,
        )
        return Row(request, self, job.levels)

    def take(self, frames: list[Frame], finish_reason: str | None) -> None:
        """Decode a sentence's next frames, and its end where there is a reason."""
        assert self._job is not None
        for frame in frames:
            self._fresh.append(frame.codes.tolist())
            wave = self._decoder.push(frame)
            if wave is not None:
                self._heard.append(wave)
                self._sound(wave, self._taken())
        if finish_reason is not None:
            self._end(self._job, finish_reason)

    def _end(self, job: Job, finish_reason: str) -> None:
        wave = self._decoder.finish()
        self._heard.append(wave)
        self._sound(wave, self._taken())
        whole = torch.cat(self._heard, dim=-1)
        reason = verdict(finish_reason, whole, self.voice.sample_rate, job.expected_seconds)
        if self.start is None and self.voice.config.carry and reason == "end":
            self.start = _Start(self._decoder.codes(), job.piece.text)
        self.emit(SentenceEnded(self._index, whole.shape[-1], reason))
        with self._lock:
            self._job, self._decoder, self._heard = None, None, []
            self._index += 1

    def finish(self) -> None:
        """Emit the end of the whole."""
        self.emit(Finished(self.samples, self.frames, self.units))

    # --- events ---------------------------------------------------------------------------------------------------

    def emit(self, event: Event) -> None:
        """Hand an event to the client, unless it has left or the request has ended."""
        if self.cancelled or self.ended:
            return
        self.ended = isinstance(event, (Finished, Failed))
        self._emit(event)

    def _taken(self) -> list[list[int]]:
        codes, self._fresh = self._fresh, []
        self.frames += len(codes)
        return codes

    def _sound(self, wave: Tensor, codes: list[list[int]]) -> None:
        if wave.shape[-1] == 0 and not codes:
            return
        if self.first_sound is None:
            self.first_sound = time.monotonic() - self.created
        self.samples += wave.shape[-1]
        self.emit(Sound(wave, codes))
