"""The explorer's small API: the codec and the language model, one step at a time, for the page at /explore.

    GET  /api/codec                    the codec's numbers
    GET  /api/samples                  names of the sounds that come with the voice; /api/samples/NAME is one, as WAV
    POST /api/encode                   audio file -> {"codes": [[…], …]}, K lists of T codes
    POST /api/decode                   {"codes", "levels"?, "decoder"?} -> WAV
    POST /api/levels                   audio file -> what each level adds
    POST /api/smaller?size=&levels=    audio file -> figures and sound with smaller codebooks
    GET  /api/codebook?level=&size=    a codebook in the plane of its two widest directions
    GET  /api/tone?level=&code=        the sound of one code, as WAV
    POST /api/opus?kbps=               audio file -> the same through Opus, as WAV; header X-Kbps is its true bitrate
    POST /api/generate                 {"text", "seed"?} -> server-sent events: tokens, step …, speech

Audio files are bodies as they are (no form); any format that soundfile reads, `figures.MAX_SECONDS` at most.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from torch import Tensor

import codec
import lm
from codec.audio import encode_audio, read_audio
from codec.errors import SoundloomError, quoted
from pipelines.server.errors import ApiError
from pipelines.server.figures import MAX_SECONDS, Explorer
from pipelines.server.page import HEADERS, static_file
from pipelines.server.turns import Turns

T = TypeVar("T")
MAX_JSON = 1_000_000  # bytes: codes of `MAX_SECONDS` fit several times
MAX_TEXT = 200
SOURCES = {  # the code behind each figure, which the page links to
    "model": Path(str(codec.__file__)).parent / "model.py",
    "quantize": Path(str(codec.__file__)).parent / "quantize.py",
    "discriminators": Path(str(codec.__file__)).parent / "discriminators.py",
    "delay": Path(str(lm.__file__)).parent / "delay.py",
    "figures": Path(__file__).parent / "figures.py",
    "explorer": Path(__file__),
}


def routes(explorer: Explorer, samples: dict[str, Path], turns: Turns) -> list[BaseRoute]:
    """Return the routes of the explorer's page and API; ``turns`` bounds what computes and what waits."""
    api = _Api(explorer, samples, turns)
    return [
        Route("/api/codec", api.codec),
        Route("/api/samples", api.samples),
        Route("/api/samples/{name}", api.sample),
        Route("/api/encode", api.encode, methods=["POST"]),
        Route("/api/decode", api.decode, methods=["POST"]),
        Route("/api/levels", api.levels, methods=["POST"]),
        Route("/api/smaller", api.smaller, methods=["POST"]),
        Route("/api/codebook", api.codebook),
        Route("/api/tone", api.tone),
        Route("/api/opus", api.opus, methods=["POST"]),
        Route("/api/generate", api.generate, methods=["POST"]),
        Route("/explore/source/{name}", _source),
        Route("/explore", _page),
        Route("/explore/", _page),
        Route("/explore/{name}", _page),
    ]


class _Api:
    def __init__(self, explorer: Explorer, samples: dict[str, Path], turns: Turns) -> None:
        self.explorer, self.files, self.turns = explorer, samples, turns

    async def codec(self, request: Request) -> Response:
        return JSONResponse(self.explorer.describe())

    async def samples(self, request: Request) -> Response:
        return JSONResponse({"samples": sorted(self.files)})

    async def sample(self, request: Request) -> Response:
        path = self.files.get(request.path_params["name"])
        if path is None:
            raise SoundloomError(f"sample: choose one of {', '.join(sorted(self.files))}")
        return self._wav(await self._run(read_audio, path, self.explorer.codec.sample_rate, 1))

    async def encode(self, request: Request) -> Response:
        codes = await self._run(self.explorer.encode, await self._wave(request))
        return JSONResponse({"codes": codes.tolist()})

    async def decode(self, request: Request) -> Response:
        body = await _json(request)
        codes = _grid(body.get("codes"), self.explorer)
        levels = _whole(body.get("levels"), "levels", 1, codes.shape[0], codes.shape[0])
        wave = await self._run(self.explorer.decode, codes, levels, str(body.get("decoder", "shipped")))
        return self._wav(wave)

    async def levels(self, request: Request) -> Response:
        return JSONResponse({"levels": await self._run(self.explorer.levels, await self._wave(request))})

    async def smaller(self, request: Request) -> Response:
        most = self.explorer.codec.num_levels
        size = _whole(request.query_params.get("size"), "size", 1, 1 << 16, 256)
        levels = _whole(request.query_params.get("levels"), "levels", 1, most, most)
        report, wave = await self._run(self.explorer.smaller, await self._wave(request), size, levels)
        return JSONResponse(report | {"wav": base64.b64encode(self._wav(wave).body).decode()})

    async def codebook(self, request: Request) -> Response:
        level = _whole(request.query_params.get("level"), "level", 0, self.explorer.codec.num_levels - 1, 0)
        size = _whole(request.query_params.get("size"), "size", 1, 1 << 16, self.explorer.codec.codebook_size)
        return JSONResponse(await self._run(self.explorer.codebook, level, size))

    async def tone(self, request: Request) -> Response:
        level = _whole(request.query_params.get("level"), "level", 0, self.explorer.codec.num_levels - 1, 0)
        code = _whole(request.query_params.get("code"), "code", 0, self.explorer.codec.codebook_size - 1, 0)
        return self._wav(await self._run(self.explorer.tone, level, code))

    async def opus(self, request: Request) -> Response:
        kbps = _whole(request.query_params.get("kbps"), "kbps", 6, 256, 8)
        wave, rate = await self._wave(request), self.explorer.codec.sample_rate

        def through_opus() -> tuple[bytes, Tensor]:
            data = encode_audio(wave, rate, ".opus", kbps * 1000)
            return data, read_audio(io.BytesIO(data), rate, 1)[:, : wave.shape[1]]

        data, made = await self._run(through_opus)
        response = self._wav(made)
        response.headers["X-Kbps"] = f"{len(data) * 8 * rate / wave.shape[1] / 1000:.2f}"
        return response

    async def generate(self, request: Request) -> Response:
        body = await _json(request)
        text = body.get("text")
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT:
            raise SoundloomError(f"text: write 1 to {MAX_TEXT} characters")
        seed = _whole(body.get("seed"), "seed", 0, (1 << 31) - 1, 0)
        steps = self.explorer.steps(text, seed)
        first = await self._run(next, steps)  # errors of the text come before the stream begins
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(first, steps), media_type="text/event-stream", headers=headers)

    async def _events(self, first: dict[str, Any], steps: Iterator[dict[str, Any]]) -> AsyncIterator[str]:
        speech = first.pop("speech")
        yield _event("tokens", first)
        while (step := await self.turns.run(next, steps, None, admitted=True)) is not None:
            yield _event("step", step)
        wav = base64.b64encode(self._wav(speech.waveform).body).decode()
        yield _event("speech", {"finish_reason": speech.finish_reason, "wav": wav})

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self.turns.run(function, *arguments)

    async def _wave(self, request: Request) -> Tensor:
        self.turns.check_room()  # before a body is taken that nobody would look at
        file, rate = io.BytesIO(await request.body()), self.explorer.codec.sample_rate
        wave = await self._run(read_audio, file, rate, 1, 0.0, MAX_SECONDS)
        if wave.shape[1] == 0:
            raise SoundloomError("the sound is empty; send an audio file as the body")
        return wave

    def _wav(self, wave: Tensor) -> Response:
        return Response(encode_audio(wave, self.explorer.codec.sample_rate, ".wav"), media_type="audio/wav")


async def _page(request: Request) -> Response:
    if request.url.path == "/explore":
        return RedirectResponse("/explore/")  # the page's own addresses are relative
    return static_file(f"explore/{request.path_params.get('name') or 'index.html'}")


async def _source(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in SOURCES:
        raise ApiError(404, f"no source {quoted(name)}; expected one of {', '.join(SOURCES)}")
    return FileResponse(SOURCES[name], media_type="text/plain; charset=utf-8", headers=HEADERS)


async def _json(request: Request) -> dict[str, Any]:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_JSON:
            raise ApiError(413, f"the body is larger than {MAX_JSON:,} bytes")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise SoundloomError("the body is not JSON") from None
    if not isinstance(body, dict):
        raise SoundloomError("the body must be a JSON object")
    return body


def _whole(value: Any, name: str, low: int, high: int, default: int) -> int:
    if value is None or value == "":
        return default
    try:
        number = int(value) if not isinstance(value, (bool, float)) else None
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or not low <= number <= high:
        raise SoundloomError(f"{name}: must be a whole number from {low} to {high}")
    return number


def _grid(value: Any, explorer: Explorer) -> Tensor:
    """JSON codes -> long [K, T], checked. Raises: SoundloomError."""
    codec, most = explorer.codec, round(MAX_SECONDS * explorer.codec.frame_rate)
    rows = value if isinstance(value, list) else []
    whole = all(isinstance(row, list) and all(type(code) is int for code in row) for row in rows)
    if not 1 <= len(rows) <= codec.num_levels or not whole or len({len(row) for row in rows}) != 1:
        raise SoundloomError(f"codes: must be 1 to {codec.num_levels} lists of whole numbers, equally long")
    if not 1 <= len(rows[0]) <= most:
        raise SoundloomError(f"codes: must have 1 to {most} frames, not {len(rows[0])}")
    if not all(0 <= code < codec.codebook_size for row in rows for code in row):
        raise SoundloomError(f"codes: must be 0 to {codec.codebook_size - 1}")
    return torch.tensor(rows)


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
