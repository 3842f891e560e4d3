"""The Wyoming protocol, by which Home Assistant asks for speech: whole texts, or text as it is written.

Its pieces come from the ``wyoming`` package (extra: wyoming); this file maps them onto the engine.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from codec.common.extras import install_hint
from codec.errors import SoundloomError
from pipelines.server.encoders import pcm16
from pipelines.server.errors import ApiError
from pipelines.server.orders import MAX_INPUT, SpeechFields
from pipelines.server.service import Events, Service, failure
from pipelines.server.speaking import Failed, Finished, Sound

try:
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.error import Error
    from wyoming.event import Event
    from wyoming.info import Attribution, Describe, Info, TtsProgram, TtsVoice, TtsVoiceSpeaker
    from wyoming.ping import Ping, Pong
    from wyoming.server import AsyncEventHandler, AsyncServer
    from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped
except ImportError as missing:
    raise SoundloomError(f"{missing.name} is missing; {install_hint('wyoming')}") from None

log = logging.getLogger("soundloom.server")
MAX_TEXT = 50_000  # characters between synthesize-start and synthesize-stop


async def serve_wyoming(service: Service, host: str, port: int) -> None:
    """Serve until cancelled."""
    server = AsyncServer.from_uri(f"tcp://{host}:{port}")
    log.info("Wyoming at tcp://%s:%d", host, port)
    await server.run(partial(WyomingHandler, service))


def describe(service: Service) -> Info:
    """Return what this server can say, and in which voices: Home Assistant asks for no others."""
    source = Attribution("soundloom", "https://github.com/soundloom/soundloom")
    voice = service.engine.voice

    def one(name: str) -> Any:
        parts: dict[str, Any] = {"name": name, "attribution": source, "installed": True, "version": None}
        return TtsVoice(**parts, description=name, languages=[voice.config.language], speakers=[TtsVoiceSpeaker(name)])

    program = TtsProgram(
        name="soundloom",
        attribution=source,
        installed=True,
        description="a small speech model on the CPU",
        version="1",
        voices=[one(name) for name in service.speakers],
        supports_synthesize_streaming=True,
    )
    return Info(tts=[program])


class WyomingHandler(AsyncEventHandler):
    """One connection."""

    def __init__(self, service: Service, *parts: Any) -> None:
        super().__init__(*parts)
        self.service = service
        self.events: Events | None = None  # of the text that is still coming
        self.sending: asyncio.Task[None] | None = None
        self.characters = 0

    async def handle_event(self, event: Event) -> bool:
        """Take one event; return whether the connection stays."""
        try:
            return await self._handle(event)
        except (ConnectionError, asyncio.IncompleteReadError):
            return False
        except ApiError as error:
            self._drop()
            await self.write_event(Error(error.message, error.code).event())
            return True

    async def disconnect(self) -> None:
        """Free what the client's requests held."""
        self._drop()

    async def _handle(self, event: Event) -> bool:
        if Describe.is_type(event.type):
            await self.write_event(describe(self.service).event())
        elif Ping.is_type(event.type):
            await self.write_event(Pong(Ping.from_event(event).text).event())
        elif Synthesize.is_type(event.type):
            if self.events is None:  # within a stream of text it is a copy for old servers
                whole = Synthesize.from_event(event)
                await self._synthesize(whole.text, whole.voice)
        elif SynthesizeStart.is_type(event.type):
            self._drop()
            self.characters = 0
            order = self._order("", SynthesizeStart.from_event(event).voice)
            self.events = await self.service.speak(order, open_text=True)
            self.sending = asyncio.ensure_future(self._send(self.events))
        elif SynthesizeChunk.is_type(event.type) and self.events is not None:
            await self._add(SynthesizeChunk.from_event(event).text)
        elif SynthesizeStop.is_type(event.type) and self.events is not None:
            await self._stop()
        return True

    async def _add(self, text: str) -> None:
        assert self.events is not None
        self.characters += len(text)
        if self.characters > MAX_TEXT:
            raise ApiError(413, f"more than {MAX_TEXT:,} characters; send the text in parts")
        if await asyncio.to_thread(self.events.speaking.add_text, text):
            self.service.engine.more(self.events.speaking)

    async def _stop(self) -> None:
        assert self.events is not None and self.sending is not None
        await asyncio.to_thread(self.events.speaking.close)
        self.service.engine.more(self.events.speaking)
        sending, self.sending, self.events = self.sending, None, None
        await sending
        await self.write_event(SynthesizeStopped().event())

    async def _synthesize(self, text: str, voice: Any) -> None:
        if len(text) > 10 * MAX_INPUT:
            raise ApiError(413, f"the text has {len(text):,} characters; expected at most {10 * MAX_INPUT:,}")
        await self._send(await self.service.speak(self._order(text, voice)))

    def _order(self, text: str, voice: Any) -> Any:
        name = "" if voice is None else (voice.speaker or voice.name or "")
        return self.service.order(SpeechFields(text, name))

    async def _send(self, events: Events) -> None:
        voice = self.service.engine.voice
        form = {"rate": voice.sample_rate, "width": 2, "channels": voice.codec.channels}
        try:
            await self.write_event(AudioStart(**form).event())
            while not isinstance(event := await events.next(), Finished):
                if isinstance(event, Failed):
                    error = failure(event)
                    await self.write_event(Error(error.message, error.code).event())
                    break
                if isinstance(event, Sound) and event.wave.shape[-1]:
                    await self.write_event(AudioChunk(**form, audio=pcm16(event.wave).tobytes()).event())
            await self.write_event(AudioStop().event())
        finally:
            events.cancel()

    def _drop(self) -> None:
        if self.events is not None:
            self.events.cancel()
        if self.sending is not None:
            self.sending.cancel()
        self.events = self.sending = None
