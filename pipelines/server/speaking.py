"""One request on its way to sound: its text in sentences, each from ids to frames to chunks, as a stream of events.

This is the one file of the server that knows how `Voice` prepares and decodes a sentence.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from codec.common.seeds import sentence_seed, turn_seed
from codec.errors import SoundloomError
from lm.generation.generate import Frame
from lm.text.tokenizer import NothingToSpeak
from pipelines.server.growing_script import GrowingScript
from pipelines.server.rows import Row
from pipelines.voice.request import SpeakOptions, Style, VoicePrompt
from pipelines.voice.sentences import Piece
from pipelines.voice.speech import Sentence
from pipelines.voice.ssml import is_ssml, read_ssml
from pipelines.voice.synthesis import SentenceDecoder, decode_together, lm_request
from pipelines.voice.timescale import FASTEST, SLOWEST
from pipelines.voice.turns import manners, usual_pause
from pipelines.voice.voice import Voice

_NUMBERS = itertools.count(1)
# A listener who has this many seconds in hand gets the next ones in larger chunks, which cost less to decode.
_IN_HAND, _LARGE_CHUNK = 1.5, 0.64


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
    """Sentence ``index`` is said; ``sentence`` has its codes, its place in the sound, and its finish reason."""

    index: int
    sentence: Sentence


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


def options_of(order: Order) -> SpeakOptions:
    """Return an order as options of a voice; nothing is tried again, since sound that was sent cannot be taken back."""
    speed = min(max(order.speed, SLOWEST), FASTEST)  # a turn of SSML multiplies the request's, which is in the range
    return SpeakOptions(order.speaker, order.prompt, order.prompt_text, order.levels, 0, speed)


@dataclass(frozen=True)
class _Turn:
    """How the pieces of a turn are spoken, and what the first continues."""

    style: Style
    start: VoicePrompt | None
    seed: int


class Start:
    """What a speaker's first sentence continues; made once a speaker and kept, since it takes a codec's run."""

    def __init__(self, voice: Voice) -> None:
        self.voice = voice
        self._lock = threading.Lock()

    def of(self, order: Order) -> VoicePrompt | None:
        """Return the start for an order. Raises: SoundloomError for a speaker or a prompt that is not right."""
        options = options_of(order)
        style = self.voice.plan.style(options)
        if order.prompt is not None:
            return self.voice.plan.prompt(options, style)
        with self._lock:
            return self.voice.plan.prompt(options, style)  # which keeps the prompts of the voice's speakers


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
        self.style = voice.plan.style(options_of(order))
        sentence_seed(order.seed, 0)  # a bad seed fails here
        self.start = starts.of(order)
        self._turns: dict[int, _Turn] = {}  # by the piece that each begins with
        self._turn_seed, self._turn_begin = order.seed, 0
        self.open = open_text
        self.cancelled = self.ended = False
        self.created = time.monotonic()
        self.deadline = self.created + max_seconds
        self.samples = self.frames = self.units = 0
        self.first_sound: float | None = None
        self._trail = 0.0  # seconds of silence after all
        self._index = 0
        self._lock = threading.Lock()
        self._decoder: SentenceDecoder | None = None
        self._fresh: list[list[int]] = []
        self.script = GrowingScript(voice.plan.cutter)
        if open_text:
            self.add_text(order.text)
        elif is_ssml(order.text):
            self._add_turns(starts)
        else:
            self._take_whole(order.text)

    def _add_turns(self, starts: Start) -> None:
        """Take a document of SSML: what `stream_turns` would speak. Raises: SoundloomError."""
        voice, order, script = self.voice, self.order, self.script
        document = read_ssml(order.text, voice.lm.tokenizer.language)
        for place, (turn, own) in enumerate(zip(document.turns, manners(voice, document.turns, {}), strict=True)):
            try:
                cut = voice.plan.cutter.cut(turn.text)
            except NothingToSpeak:
                continue
            speed = order.speed * turn.speed
            one = replace(order, speed=speed)
            if turn.speaker is not None:
                one = replace(one, speaker=own["speaker"], prompt=None, prompt_text=None)
            style = voice.plan.style(options_of(one))
            self._turns[len(script.pieces)] = _Turn(style, starts.of(one), turn_seed(order.seed, place))
            self._pause(cut.lead)
            last = cut.pieces[-1]
            script.pieces += [*cut.pieces[:-1], replace(last, pause=last.pause or usual_pause(voice, turn))]
            script.skipped += cut.skipped
            self._trail = last.pause
        if not script.pieces:
            raise SoundloomError("input holds nothing to speak: expected words or numbers")

    def _pause(self, seconds: float) -> None:
        """Add silence before the next piece."""
        pieces = self.script.pieces
        if pieces:
            pieces[-1] = replace(pieces[-1], pause=pieces[-1].pause + seconds)
        else:
            self.script.lead += seconds

    # --- text -----------------------------------------------------------------------------------------------------

    def _take_whole(self, text: str) -> None:
        whole = self.voice.plan.cutter.cut(text)
        self.script.pieces, self.script.lead = list(whole.pieces), whole.lead
        self.script.skipped, self._trail = list(whole.skipped), whole.pieces[-1].pause

    def add_text(self, text: str) -> bool:
        """Take more text; return whether a whole sentence is now waiting."""
        with self._lock:
            self.script.add(text)
            return self.waiting

    def flush(self) -> bool:
        """Let what has come so far be spoken, though its sentence may not have ended."""
        with self._lock:
            self.script.flush()
            return self.waiting

    def close(self) -> bool:
        """Take no more text; return whether something is still to be spoken."""
        with self._lock:
            self.script.flush()
            self._trail = self.script.trail
            self.open = False
            return self.waiting

    @property
    def pieces(self) -> list[Piece]:
        """The sentences so far, as they are spoken."""
        return self.script.pieces

    @property
    def skipped(self) -> list[str]:
        """Parts of the text that cannot be spoken, in order."""
        return self.script.skipped

    @property
    def waiting(self) -> bool:
        """Whether a sentence waits to be begun."""
        return self._decoder is None and self._index < len(self.pieces)

    @property
    def idle(self) -> bool:
        """Whether no sentence is being written or decoded, and none waits."""
        return self._decoder is None and self._index >= len(self.pieces)

    # --- a sentence -----------------------------------------------------------------------------------------------

    def begin(self) -> Row:
        """Begin the next sentence: the row that the batch writes."""
        piece = self.pieces[self._index]
        pause = self.pieces[self._index - 1].pause if self._index else self.script.lead
        self._sound(self.voice.silence(pause), [])
        turn = self._turns.get(self._index)
        if turn is not None:
            self.style, self.start, self._turn_seed, self._turn_begin = turn.style, turn.start, turn.seed, self._index
        seed = sentence_seed(self._turn_seed, self._index - self._turn_begin)
        request = self.voice.plan.request(piece, self.start, seed, self.style)
        self._decoder, self._fresh = SentenceDecoder(request), []
        self.units += len(piece.ids)
        self.emit(SentenceStarted(self._index, piece.text, self.samples, request.expected_seconds or 0.0))
        return Row(lm_request(self.voice.lm, [request]), self, self.style.levels)

    def take(self, frames: list[Frame]) -> None:
        """Take a sentence's next frames, which `sound_together` decodes when they are enough."""
        decoder = self._decoder
        assert decoder is not None
        if self._in_hand() > _IN_HAND:
            decoder.size = decoder.largest = round(_LARGE_CHUNK * self.voice.frame_rate)
        for frame in frames:
            self._fresh.append(frame.codes.tolist())
            decoder.add(frame)

    def end(self, finish_reason: str) -> None:
        """Decode the rest of a sentence and end it."""
        decoder = self._decoder
        assert decoder is not None
        self._sound(decoder.finish(), self._taken())
        sentence = decoder.sentence(finish_reason)
        self.start = self.voice.carry(self.start, sentence, self.pieces[self._index])
        self.emit(SentenceEnded(self._index, replace(sentence, start=self.samples - sentence.num_samples)))
        with self._lock:
            self._decoder = None
            self._index += 1

    def finish(self) -> None:
        """Emit the end of the whole."""
        self._sound(self.voice.silence(self._trail), [])
        self.emit(Finished(self.samples, self.frames, self.units))

    # --- events ---------------------------------------------------------------------------------------------------

    def emit(self, event: Event) -> None:
        """Hand an event to the client, unless it has left or the request has ended."""
        if self.cancelled or self.ended:
            return
        self.ended = isinstance(event, (Finished, Failed))
        self._emit(event)

    def _in_hand(self) -> float:
        """Seconds of sound that a client has not played yet, if it plays as it gets them."""
        if self.first_sound is None:
            return 0.0
        played = time.monotonic() - self.created - self.first_sound
        return self.samples / self.voice.sample_rate - played

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


def sound_together(speaking: Sequence[Speaking]) -> None:
    """Decode and emit what has enough frames waiting, all at once, since decoders share the reading of weights.

    Where one has, those with half of theirs join it. So sentences that are written side by side fall into step.
    """
    waiting = [(one, one._decoder) for one in speaking if one._decoder is not None]
    if not any(decoder.due for _, decoder in waiting):
        return
    ready = [(one, decoder) for one, decoder in waiting if decoder.half_due]
    waves = decode_together([decoder for _, decoder in ready])
    for (one, _), wave in zip(ready, waves, strict=True):
        one._sound(wave, one._taken())
