"""What clients ask before they speak: models, voices, health and metrics; and speakers by upload."""

from __future__ import annotations

import asyncio
import io

import soundfile
import torch
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from torch import Tensor

from codec.audio.signal import resample
from codec.errors import SoundloomError, quoted
from pipelines.server.errors import ApiError
from pipelines.server.music_routes import has_music
from pipelines.server.orders import MODEL, MODEL_ALIASES
from pipelines.server.service import Service
from pipelines.server.speaking import Order
from pipelines.voice.prompts import MAX_SECONDS

_KINDS = {"WAV", "FLAC", "OGG", "MP3", "AIFF"}


def list_routes(service: Service) -> list[BaseRoute]:
    """Return the routes."""
    voice = service.engine.voice

    def model(name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": service.began, "owned_by": "soundloom"}

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model(MODEL), model(MODEL_ALIASES[0])]})

    async def one_model(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in (MODEL, *MODEL_ALIASES, voice.name):
            raise ApiError(404, f"no model {quoted(name)}; expected {MODEL}", "model", "model_not_found")
        return JSONResponse(model(name))

    async def voices(request: Request) -> Response:
        found = service.voice_list()
        if request.query_params.get("legacy", "").lower() == "true":
            return JSONResponse({"voices": [one["id"] for one in found]})
        return JSONResponse({"voices": found})

    async def audio_models(request: Request) -> Response:
        return JSONResponse({"models": [{"id": MODEL, "name": MODEL}, {"id": MODEL_ALIASES[0], "name": "alias"}]})

    async def health(request: Request) -> Response:
        engine = service.engine
        return JSONResponse({"status": "ok", "waiting": engine.waiting, "active": engine.active})

    async def metrics(request: Request) -> Response:
        engine = service.engine
        text = engine.metrics.text(engine.waiting, engine.active)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def info(request: Request) -> Response:
        facts = {
            "voice": voice.name,
            "sample_rate": voice.sample_rate,
            "frame_rate": voice.frame_rate,
            "levels": voice.num_levels,
            "default_levels": voice.config.levels or voice.num_levels,
            "codebook_size": voice.lm.codec_facts.codebook_size,
            "cloning": service.settings.allow_cloning,
            "max_input": 4096,
            "music": has_music(service.settings.music),
        }
        return JSONResponse(facts)

    async def add_voice(request: Request) -> Response:
        return await _add_voice(service, request)

    return [
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", one_model),
        Route("/v1/audio/voices", voices, methods=["GET"]),
        Route("/v1/audio/voices", add_voice, methods=["POST"]),
        Route("/v1/audio/models", audio_models),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/api/info", info),
    ]


async def _add_voice(service: Service, request: Request) -> Response:
    if not service.settings.allow_cloning:
        raise ApiError(403, "cloning is off; the server's owner can start it with --allow-cloning", code="cloning_off")
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "expected multipart/form-data with audio_sample and text")
    async with request.form(max_files=1, max_fields=4, max_part_size=64 * 1024) as form:
        sample, text, name = form.get("audio_sample"), form.get("text"), form.get("name")
        if not isinstance(sample, UploadFile):
            raise ApiError(400, "audio_sample: expected a file with a recording", "audio_sample")
        if not isinstance(text, str) or not text.strip() or len(text) > 1000:
            raise ApiError(400, "text: expected the words that the recording says, at most 1,000 characters", "text")
        data = await sample.read()
    shown = (name.strip()[:60] if isinstance(name, str) else "") or "uploaded"
    try:
        wave = await asyncio.to_thread(read_upload, data, service.engine.voice.sample_rate)
        # Everything that a voice checks about a prompt is checked here, not at the first request.
        await asyncio.to_thread(service.engine.starts.of, Order("", prompt=wave, prompt_text=text))
    except SoundloomError as error:
        raise ApiError(400, str(error), "audio_sample") from None
    key = service.add_clone(shown, wave, text)
    return JSONResponse({"id": key, "object": "audio.voice", "name": shown}, 201)


def read_upload(data: bytes, sample_rate: int) -> Tensor:
    """Decode an uploaded recording to float32 [1, N]; no more than the limit is ever decoded.

    Raises: SoundloomError.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            if sound.format not in _KINDS or not 1 <= sound.channels <= 8 or not 4000 <= sound.samplerate <= 192_000:
                raise SoundloomError("audio_sample: expected WAV, FLAC, Ogg or MP3 at 4 to 192 kHz")
            most = int(MAX_SECONDS * sound.samplerate)
            samples = sound.read(most + 1, dtype="float32", always_2d=True)
            rate = sound.samplerate
    except soundfile.LibsndfileError:
        raise SoundloomError("audio_sample: no audio file that can be read; expected WAV, FLAC, Ogg or MP3") from None
    if len(samples) > most:
        raise SoundloomError(f"audio_sample: longer than {MAX_SECONDS:g} s; cut it and its text; three to ten are good")
    wave = torch.from_numpy(samples).mean(1)[None]
    if not bool(torch.isfinite(wave).all()):
        raise SoundloomError("audio_sample: holds numbers that are not finite")
    return resample(wave, rate, sample_rate)
