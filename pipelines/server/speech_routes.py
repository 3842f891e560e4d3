"""``POST /v1/audio/speech``: text in, audio out while it is made, plain or as server-sent events."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence
from urllib.parse import quote

import torch
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from codec.errors import SoundloomError, quoted
from pipelines.server.encoders import MEDIA_TYPES, Encoding
from pipelines.server.errors import ApiError
from pipelines.server.orders import MODEL, MODEL_ALIASES, SpeechFields, json_object, parse_speech
from pipelines.server.service import Events, Service, failure
from pipelines.server.sound_response import SoundResponse, sse
from pipelines.server.speaking import Failed, Finished, SentenceEnded, SentenceStarted, Sound
from pipelines.voice.speech import Sentence, Speech
from pipelines.voice.voice import Voice
from pipelines.voice.word_times import word_times

_MOST_SHOWN, _LONGEST_SHOWN = 10, 40  # of skipped parts, and characters of each: a header must stay small


def speech_routes(service: Service) -> list[BaseRoute]:
    """Return the routes."""

    async def speech(request: Request) -> Response:
        body = await request.body()
        fields = parse_speech(body)
        model = json_object(body).get("model") or MODEL
        if model not in (MODEL, *MODEL_ALIASES, service.engine.voice.name):
            message = f"no model {quoted(model)}; expected {MODEL}"
            raise ApiError(404, message, "model", "model_not_found")
        return SpeechResponse(service, await service.speak(service.order(fields)), fields)

    return [Route("/v1/audio/speech", speech, methods=["POST"])]


class SpeechResponse(SoundResponse):
    """Streams a request's speech."""

    def __init__(self, service: Service, events: Events, fields: SpeechFields) -> None:
        super().__init__(service.engine.metrics, "text/event-stream" if fields.sse else MEDIA_TYPES[fields.format])
        self.service, self.events, self.fields = service, events, fields

    def parts(self) -> AsyncGenerator[bytes, None]:
        """Return the body, plain or as events."""
        return self._events() if self.fields.sse else self._audio()

    def more_headers(self) -> dict[str, str]:
        """Return what could not be spoken."""
        return skipped_header(self.events.speaking.skipped)

    def leave(self) -> None:
        """Drop the request, if it still runs."""
        self.events.cancel()

    async def _audio(self) -> AsyncGenerator[bytes, None]:
        voice = self.service.engine.voice
        encoding = Encoding(self.fields.format, voice.sample_rate, voice.codec.channels)
        while not isinstance(event := await self.events.next(), Finished):
            if isinstance(event, Failed):
                raise failure(event)
            if isinstance(event, Sound):
                yield await encoding.push(event.wave)
        yield await encoding.finish()

    async def _events(self) -> AsyncGenerator[bytes, None]:
        voice = self.service.engine.voice
        encoding = Encoding(self.fields.format, voice.sample_rate, voice.codec.channels)
        started, frame = False, 0
        while not isinstance(event := await self.events.next(), Finished):
            if isinstance(event, Failed):
                error = failure(event)
                if not started:
                    raise error
                yield sse({"type": "speech.audio.error", **error.body()})
                return
            if self.fields.codes and isinstance(event, (SentenceStarted, SentenceEnded)):
                yield sse(sentence_event(event, voice.sample_rate))
            if self.fields.codes and isinstance(event, SentenceEnded):
                words = await asyncio.to_thread(times_of_words, voice, event.sentence)
                yield sse({"type": "speech.words", "index": event.index, "words": words})
            if isinstance(event, Sound):
                if self.fields.codes and event.codes:
                    yield sse({"type": "speech.codes", "frame": frame, "codes": event.codes})
                    frame += len(event.codes)
                yield _delta(await encoding.push(event.wave))
            started = True
        yield _delta(await encoding.finish())
        levels = voice.num_levels
        usage = {"input_tokens": event.units, "output_tokens": event.frames * levels}
        usage["total_tokens"] = sum(usage.values())
        yield sse({"type": "speech.audio.done", "usage": usage})


def skipped_header(skipped: Sequence[str]) -> dict[str, str]:
    """Return a header with the parts of a text that cannot be spoken: percent-encoded UTF-8, between commas."""
    if not skipped:
        return {}
    shown = [quote(part[:_LONGEST_SHOWN], safe="") for part in skipped[:_MOST_SHOWN]]
    return {"x-soundloom-skipped": ",".join(shown), "x-soundloom-skipped-count": str(len(skipped))}


def sentence_event(event: SentenceStarted | SentenceEnded, sample_rate: int) -> dict[str, object]:
    """Return a sentence's begin or end as clients get it; times are seconds."""
    if isinstance(event, SentenceStarted):
        times = {"start": event.start / sample_rate, "expected_seconds": round(event.seconds, 3)}
        return {"type": "speech.sentence.started", "index": event.index, "text": event.text, **times}
    seconds = event.sentence.num_samples / sample_rate
    reason = event.sentence.finish_reason
    return {"type": "speech.sentence.ended", "index": event.index, "seconds": seconds, "finish_reason": reason}


def times_of_words(voice: Voice, sentence: Sentence) -> list[dict[str, object]]:
    """Return a sentence's words with begin and end in seconds of the whole sound; none for a model without attention.

    The words are those that were spoken: "$5" is "five", "dollars".
    """
    one = Speech.of(torch.zeros(1, 0), voice.sample_rate, [sentence])
    try:
        words = word_times(voice, one)
    except SoundloomError:
        return []
    return [{"word": word.word, "start": word.start, "end": word.end} for word in words]


def _delta(audio: bytes) -> bytes:
    return sse({"type": "speech.audio.delta", "audio": base64.b64encode(audio).decode()}) if audio else b""
