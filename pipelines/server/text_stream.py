"""``WebSocket /v1/audio/speech/stream``: text in pieces, as a language model writes it; audio out by the sentence.

The client sends JSON: ``{"type": "start", "voice", "response_format", "speed", "seed", "levels", "include_codes",
"api_key"}``, then any number of ``{"type": "text", "text"}``, ``{"type": "flush"}`` (speak what has come) and last
``{"type": "close"}``. It gets JSON events and, in binary messages, the audio.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from pipelines.server.encoders import Encoding
from pipelines.server.errors import ApiError
from pipelines.server.orders import parse_speech
from pipelines.server.service import Events, Service, failure
from pipelines.server.speaking import Failed, Finished, SentenceEnded, SentenceStarted, Sound
from pipelines.server.speech_routes import sentence_event

MAX_TEXT = 50_000  # characters of one connection
IDLE_SECONDS = 60.0  # without a message while nothing is being spoken


def text_stream_routes(service: Service) -> list[BaseRoute]:
    """Return the route."""

    async def stream(socket: WebSocket) -> None:
        await TextStream(service, socket).run()

    return [WebSocketRoute("/v1/audio/speech/stream", stream)]


class TextStream:
    """One connection."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self.service, self.socket = service, socket
        self.characters = 0

    async def run(self) -> None:
        """Serve the connection to its end."""
        if not self._same_origin():
            await self.socket.close(1008)
            return
        await self.socket.accept()
        events: Events | None = None
        try:
            events, encoding, codes = await self._start()
            reading = asyncio.ensure_future(self._read(events))
            writing = asyncio.ensure_future(self._write(events, encoding, codes))
            done, left = await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_EXCEPTION)
            for task in left:
                task.cancel()
            for task in done:
                task.result()
            await self.socket.close()
        except ApiError as error:
            self.service.engine.metrics.error(error.status)
            await self._fail(error)
        except (WebSocketDisconnect, RuntimeError):
            pass  # the client left, perhaps while we were sending
        finally:
            if events is not None:
                events.cancel()

    def _same_origin(self) -> bool:
        """Whether it is no browser, or a page of ours or an allowed one: browsers ask no one before they connect."""
        origin = self.socket.headers.get("origin")
        host = self.socket.headers.get("host", "")
        own = origin is None or origin.split("://", 1)[-1] == host
        return own or origin in self.service.settings.origins or "*" in self.service.settings.origins

    async def _fail(self, error: ApiError) -> None:
        try:
            await self.socket.send_json({"type": "error", **error.body()})
            await self.socket.close(1008 if error.status < 500 else 1011)
        except (WebSocketDisconnect, RuntimeError):
            pass

    async def _message(self) -> dict[str, Any]:
        try:
            text = await asyncio.wait_for(self.socket.receive_text(), IDLE_SECONDS)
        except asyncio.TimeoutError:
            raise ApiError(408, f"no message for {IDLE_SECONDS:g} s", code="idle") from None
        except KeyError:
            raise ApiError(400, "a binary message; expected JSON in text messages") from None
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise ApiError(400, "a message that is no JSON object; expected one with type")
        return message

    async def _start(self) -> tuple[Events, Encoding, bool]:
        message = await self._message()
        if message.get("type") != "start":
            raise ApiError(400, 'the first message: expected {"type": "start", ...}')
        key = message.pop("api_key", None)
        admitted = self.service.admits(self.socket.headers.get("authorization"))
        if not admitted and not (isinstance(key, str) and self.service.has_key(key)):
            raise ApiError(401, "this server wants its API key: send api_key with the start")
        codes = bool(message.pop("include_codes", False))
        # The rules are those of a whole request, with PCM as the default and its text still to come.
        fields = parse_speech(json.dumps({"response_format": "pcm"} | message | {"input": "x"}).encode())
        order = self.service.order(fields)
        voice = self.service.engine.voice
        encoding = Encoding(fields.format, voice.sample_rate, voice.codec.channels)
        events = await self.service.speak(type(order)(**{**vars(order), "text": ""}), open_text=True)
        facts = {"sample_rate": voice.sample_rate, "response_format": fields.format}
        await self.socket.send_json({"type": "started", **facts})
        return events, encoding, codes

    async def _read(self, events: Events) -> None:
        speaking, engine = events.speaking, self.service.engine
        while not speaking.ended:
            message = await self._message()
            kind = message.get("type")
            if kind == "text":
                text = message.get("text")
                if not isinstance(text, str):
                    raise ApiError(400, "text: expected a string", "text")
                self.characters += len(text)
                if self.characters > MAX_TEXT:
                    raise ApiError(413, f"more than {MAX_TEXT:,} characters; open another connection", "text")
                ready = await asyncio.to_thread(speaking.add_text, text)
            elif kind == "flush":
                ready = await asyncio.to_thread(speaking.flush)
            elif kind == "close":
                await asyncio.to_thread(speaking.close)
                engine.more(speaking)
                return
            else:
                raise ApiError(400, f"type {str(kind)[:20]!r}: expected text, flush or close", "type")
            if ready:
                engine.more(speaking)

    async def _write(self, events: Events, encoding: Encoding, codes: bool) -> None:
        rate, frame = self.service.engine.voice.sample_rate, 0
        while not isinstance(event := await events.next(), Finished):
            if isinstance(event, Failed):
                raise failure(event)
            if isinstance(event, (SentenceStarted, SentenceEnded)):
                await self.socket.send_json(sentence_event(event, rate))
            elif isinstance(event, Sound):
                if codes and event.codes:
                    await self.socket.send_json({"type": "speech.codes", "frame": frame, "codes": event.codes})
                    frame += len(event.codes)
                await self._audio(await encoding.push(event.wave))
        await self._audio(await encoding.finish())
        skipped = {"skipped": events.speaking.skipped} if events.speaking.skipped else {}
        await self.socket.send_json({"type": "done", "seconds": event.samples / rate, **skipped})

    async def _audio(self, data: bytes) -> None:
        if data:
            await self.socket.send_bytes(data)
