"""``POST /v1/audio/music``: a description in, music out while it is made. The address is ours; OpenAI has none.

The body is JSON: ``prompt``, ``seconds`` (at most 30), ``seed``, ``response_format``, ``stream_format`` and
``include_codes`` as for speech. One piece is written at a time, a chunk in each turn of `Turns`.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from torch import Tensor

from codec.errors import SoundloomError
from pipelines.music_model.folder import find_music
from pipelines.server.encoders import MEDIA_TYPES, Encoding
from pipelines.server.errors import ApiError
from pipelines.server.orders import answer_form, json_object, number_of, string_of, whole_of
from pipelines.server.service import Service
from pipelines.server.sound_response import SoundResponse, sse
from pipelines.server.turns import Turns

if TYPE_CHECKING:
    from pipelines.music_model.model import MusicModel
    from pipelines.music_model.stream import MusicStream

MOST_SECONDS, USUAL_SECONDS = 30.0, 8.0
MOST_WAITING = 4  # pieces, besides the one that is written
_MISSING = "this server has no music model; its owner can start it with --music FOLDER"


@dataclass(frozen=True)
class MusicFields:
    """What a client asked for."""

    prompt: str
    seconds: float
    seed: int
    format: str
    sse: bool
    codes: bool


def parse_music(body: bytes) -> MusicFields:
    """Read the body of a request for music. Raises: ApiError."""
    fields = json_object(body)
    prompt = string_of(fields, "prompt", 1000)
    if not prompt.strip():
        raise ApiError(400, "prompt is empty; say what the music should be like", "prompt")
    form, events, codes = answer_form(fields)
    seconds = number_of(fields, "seconds", USUAL_SECONDS, 0.5, MOST_SECONDS)
    return MusicFields(prompt, seconds, whole_of(fields, "seed", 0, 0, 2**63 - 1) or 0, form, events, codes)


def has_music(name: str | None) -> bool:
    """Return whether there is a music model, without opening it."""
    try:
        return bool(find_music(name))
    except SoundloomError:
        return False


class MusicDesk:
    """The music model, opened when first asked for, and the place of the one piece that is being written."""

    def __init__(self, name: str | None, turns: Turns) -> None:
        self.name, self.turns = name, turns
        self.writing = asyncio.Lock()
        self.waiting = 0
        self._model: MusicModel | None = None

    def check(self) -> None:
        """Raises: ApiError where there is no model, or too many wait."""
        if not has_music(self.name):
            raise ApiError(404, _MISSING, code="no_music_model")
        if self.waiting > MOST_WAITING:
            self.turns.engine.metrics.refused += 1
            raise ApiError(429, f"{self.waiting} pieces of music are waiting; try again later")

    def begin(self, fields: MusicFields) -> tuple[MusicModel, MusicStream]:
        """Open the model if need be, and start a piece. Raises: SoundloomError."""
        if self._model is None:
            from pipelines.music_model.model import load_music

            self._model = load_music(self.name)
        return self._model, self._model.stream(fields.prompt, fields.seconds, seed=fields.seed)


def music_routes(service: Service) -> list[BaseRoute]:
    """Return the routes."""
    desk = MusicDesk(service.settings.music, service.turns)

    async def music(request: Request) -> Response:
        fields = parse_music(await request.body())
        desk.check()
        return MusicResponse(desk, fields)

    return [Route("/v1/audio/music", music, methods=["POST"])]


class MusicResponse(SoundResponse):
    """Streams a piece."""

    def __init__(self, desk: MusicDesk, fields: MusicFields) -> None:
        super().__init__(desk.turns.engine.metrics, "text/event-stream" if fields.sse else MEDIA_TYPES[fields.format])
        self.desk, self.fields = desk, fields

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """Yield the body, plain or as events."""
        desk, events = self.desk, self.fields.sse
        desk.waiting += 1
        try:
            async with desk.writing:
                async for part in self._events() if events else self._audio():
                    yield part
        finally:
            desk.waiting -= 1

    async def _begin(self) -> tuple[MusicModel, MusicStream, Encoding]:
        try:
            model, stream = await self.desk.turns.run(self.desk.begin, self.fields)
            return model, stream, Encoding(self.fields.format, model.codec.sample_rate, model.channels)
        except SoundloomError as error:
            raise ApiError(400, str(error), "prompt") from None

    async def _audio(self) -> AsyncGenerator[bytes, None]:
        _, stream, encoding = await self._begin()
        while (wave := await self._next(stream)) is not None:
            yield await encoding.push(wave)
        yield await encoding.finish()

    async def _events(self) -> AsyncGenerator[bytes, None]:
        model, stream, encoding = await self._begin()
        codec, frame = model.codec, 0
        facts = {"sample_rate": codec.sample_rate, "frame_rate": codec.frame_rate, "channels": model.channels}
        sizes = {"levels": model.levels, "codebook_size": codec.codebook_size}
        yield sse({"type": "music.started", **facts, **sizes, "seconds": self.fields.seconds})
        while (wave := await self._next(stream)) is not None:
            codes = [one.tolist() for one in stream.written[frame:]]
            if self.fields.codes and codes:
                yield sse({"type": "music.codes", "frame": frame, "codes": codes})
            frame += len(codes)
            yield _delta(await encoding.push(wave))
        yield _delta(await encoding.finish())
        reason = stream.music.finish_reason if stream.music is not None else "end"
        yield sse({"type": "music.audio.done", "finish_reason": reason, "frames": frame})

    async def _next(self, stream: MusicStream) -> Tensor | None:
        """Return the next chunk of sound, in a turn of its own: others may compute between two chunks."""

        def step() -> Tensor | None:
            with torch.inference_mode():
                return next(stream, None)

        return await self.desk.turns.run(step, admitted=True)


def _delta(audio: bytes) -> bytes:
    return sse({"type": "music.audio.delta", "audio": base64.b64encode(audio).decode()}) if audio else b""
