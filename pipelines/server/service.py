"""What all protocols share: the engine, who may use it, and which voices there are."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from codec.errors import SoundloomError, quoted
from pipelines.server.engine import Busy, Engine
from pipelines.server.errors import ApiError
from pipelines.server.orders import VOICE_ALIASES, SpeechFields, alias
from pipelines.server.speaking import Event, Failed, Order, Speaking
from pipelines.server.turns import Turns

MAX_CLONES = 16  # uploaded speakers that are kept, in memory only; the one used longest ago goes first
CLONE_SECONDS = 3600.0


@dataclass(frozen=True)
class ServiceSettings:
    """``allow_cloning``: take uploaded recordings; ``origins``: web pages of other addresses that may use the server.

    ``hosts``: names by which browsers may address it (empty: any). ``music``: the music model (None: the shipped one).
    """

    api_key: str | None = field(default=None, repr=False)
    allow_cloning: bool = False
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    music: str | None = None
    max_body: int = 256 * 1024
    max_upload: int = 6 * 1024 * 1024


@dataclass
class Clone:
    """An uploaded speaker: the recording [C, N] and what it says."""

    name: str
    wave: Tensor
    text: str
    used: float


@dataclass
class Service:
    """The engine with its rules; every protocol has one of it."""

    engine: Engine
    settings: ServiceSettings = field(default_factory=ServiceSettings)
    clones: OrderedDict[str, Clone] = field(default_factory=OrderedDict)
    began: int = field(default_factory=lambda: int(time.time()))
    turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        self.turns = Turns(self.engine)

    def admits(self, authorization: str | None) -> bool:
        """Whether this Authorization header may use the server; compared in constant time."""
        if self.settings.api_key is None:
            return True
        kind, _, key = (authorization or "").partition(" ")
        return kind.lower() == "bearer" and self.has_key(key.strip())

    def has_key(self, key: str) -> bool:
        """Whether this is the key."""
        wanted = self.settings.api_key
        return wanted is None or hmac.compare_digest(key.encode("utf-8", "replace"), wanted.encode())

    # --- voices ---------------------------------------------------------------------------------------------------

    @property
    def speakers(self) -> list[str]:
        """The names of the voice and its speakers, the voice's own first."""
        return [self.engine.voice.name, *self.engine.voice.speakers]

    def voice_list(self) -> list[dict[str, str]]:
        """Return all voices that can be asked for, uploaded ones last."""
        self._forget()
        voices = [{"id": name, "name": name} for name in self.speakers]
        return voices + [{"id": key, "name": clone.name} for key, clone in self.clones.items()]

    def order(self, fields: SpeechFields) -> Order:
        """Return the order for a request. Raises: ApiError where its voice or its levels are not known."""
        most = self.engine.voice.num_levels
        if fields.levels is not None and fields.levels > most:
            raise ApiError(400, f"levels: expected a whole number from 1 to {most}", "levels")
        order = Order(fields.text, fields.seed, None, fields.levels, fields.speed)
        return self._with_voice(order, fields.voice)

    def _with_voice(self, order: Order, name: str) -> Order:
        voice = self.engine.voice
        if name in ("", "default", voice.name):
            return order
        if name in voice.speakers:
            return Order(order.text, order.seed, name, order.levels, order.speed)
        self._forget()
        if name in self.clones:
            clone = self.clones[name]
            clone.used = time.monotonic()
            self.clones.move_to_end(name)
            return Order(order.text, order.seed, None, order.levels, order.speed, clone.wave, clone.text)
        if name.lower() in VOICE_ALIASES:
            speaker = alias(name.lower(), list(voice.speakers))
            return Order(order.text, order.seed, speaker, order.levels, order.speed)
        known = ", ".join(self.speakers)
        raise ApiError(400, f"no voice {quoted(name)}; expected one of {known}", "voice", "voice_not_found")

    def add_clone(self, name: str, wave: Tensor, text: str) -> str:
        """Keep an uploaded speaker in memory; return the id to ask for it by."""
        self._forget()
        while len(self.clones) >= MAX_CLONES:
            self.clones.popitem(last=False)
        key = f"clone_{secrets.token_urlsafe(9)}"
        self.clones[key] = Clone(name, wave, text, time.monotonic())
        return key

    def _forget(self) -> None:
        oldest = time.monotonic() - CLONE_SECONDS
        for key in [key for key, clone in self.clones.items() if clone.used < oldest]:
            del self.clones[key]

    # --- requests -------------------------------------------------------------------------------------------------

    async def speak(self, order: Order, open_text: bool = False) -> Events:
        """Begin a request. Raises: ApiError where it cannot be spoken, or too many wait."""
        events = Events(self.engine)
        try:
            self.engine.check_room()
            events.speaking = await asyncio.to_thread(self.engine.open, order, events.emit, open_text)
            self.engine.submit(events.speaking)
        except Busy as error:
            raise ApiError(429, str(error)) from None
        except SoundloomError as error:
            raise ApiError(400, str(error), "input") from None
        return events


class Events:
    """A request's events for asyncio: an iterator that ends after the last. Leave it with `cancel`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.speaking: Any = None
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()

    def emit(self, event: Event) -> None:
        """Take an event from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def next(self) -> Event:
        """Return the next event."""
        return await self._queue.get()

    def cancel(self) -> None:
        """Drop the request, if it still runs."""
        if isinstance(self.speaking, Speaking):
            self.engine.cancel(self.speaking)


def failure(event: Failed) -> ApiError:
    """Return the error that a client gets for a failed request."""
    if event.code == "invalid":
        return ApiError(400, event.message, "input")
    return ApiError({"timeout": 503, "stopped": 503}.get(event.code, 500), event.message, code=event.code)
