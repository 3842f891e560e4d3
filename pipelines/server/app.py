"""The HTTP application: all routes, and the rules that hold for each request."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codec.errors import SoundloomError, quoted
from codec.model import Codec
from pipelines.server import explorer
from pipelines.server.errors import ApiError, on_api_error, on_bad_input, on_failure, on_http_error
from pipelines.server.figures import Explorer
from pipelines.server.list_routes import list_routes
from pipelines.server.music_routes import music_routes
from pipelines.server.page import page_routes
from pipelines.server.service import Service
from pipelines.server.speech_routes import speech_routes
from pipelines.server.text_stream import text_stream_routes

log = logging.getLogger("soundloom.server")


def explorer_routes(service: Service) -> list[BaseRoute]:
    """Return the explorer's routes; its samples are the recordings of the voice's speakers."""
    voice = service.engine.voice
    if not isinstance(voice.codec, Codec):
        return []
    samples = {name: speaker.audio for name, speaker in voice.speakers.items()}
    return explorer.routes(Explorer(voice), samples, service.turns)


#: Each gives the routes of one subject; a new subject is one file and one entry here.
ROUTE_LISTS: tuple[Callable[[Service], list[BaseRoute]], ...] = (
    speech_routes,
    text_stream_routes,
    list_routes,
    music_routes,
    page_routes,
    explorer_routes,
)
_OPEN = ("/health", "/", "/static/", "/explore")  # no key: health, and pages, which hold no data


def create_app(service: Service) -> Starlette:
    """Return the application; the engine is started and stopped with it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.engine.start()
        yield
        service.engine.stop()

    middleware = [Middleware(Rules, service=service)]
    if service.settings.origins:
        origins, headers = list(service.settings.origins), ["authorization", "content-type"]
        allowed: dict[str, Any] = {"allow_origins": origins, "allow_headers": headers, "allow_methods": ["GET", "POST"]}
        shown = ["x-soundloom-skipped", "x-soundloom-skipped-count", "retry-after"]
        middleware.insert(0, Middleware(CORSMiddleware, **allowed, expose_headers=shown))
    handlers = {ApiError: on_api_error, SoundloomError: on_bad_input, HTTPException: on_http_error}
    return Starlette(
        routes=[route for routes in ROUTE_LISTS for route in routes(service)],
        middleware=middleware,
        exception_handlers={**handlers, Exception: on_failure},
        lifespan=lifespan,
    )


class Rules:
    """Who may come in, how much they may send, and one line of log for each request, without what it says."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, seen = time.perf_counter(), {"status": 500, "bytes": 0}

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
            seen["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, self._limited(scope, receive), counted)
        except ApiError as error:
            await error.response()(scope, receive, counted)
        finally:
            if seen["status"] >= 400:
                self.service.engine.metrics.error(seen["status"])
            client = (scope.get("client") or ("-",))[0]
            taken = (time.perf_counter() - began) * 1000
            path = scope["path"].encode("unicode_escape").decode("ascii")[:80]  # no line breaks of a client's
            log.info("%s %s %s %d %d B %.0f ms", client, scope["method"], path, seen["status"], seen["bytes"], taken)

    def _check(self, scope: Scope) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        check_host(self.service, headers.get(b"host", ""))
        path = scope["path"]
        is_open = any(path == place or (len(place) > 1 and path.startswith(place)) for place in _OPEN)
        if not is_open and not self.service.admits(headers.get(b"authorization")):
            raise ApiError(401, "this server wants its API key: send Authorization: Bearer KEY")
        length = headers.get(b"content-length", "0")
        if length.isdigit() and int(length) > self._most(scope):
            raise ApiError(413, f"the body is larger than {self._most(scope):,} bytes")

    def _most(self, scope: Scope) -> int:
        upload = scope["path"] == "/v1/audio/voices" or scope["path"].startswith("/api/")
        return self.service.settings.max_upload if upload else self.service.settings.max_body

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Count a body that states no length."""
        seen, most = 0, self._most(scope)

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise ApiError(413, f"the body is larger than {most:,} bytes")
            return message

        return limited


def check_host(service: Service, host: str) -> None:
    """Refuse names that are not ours: a page elsewhere may point its own name at this machine (DNS rebinding).

    Raises: ApiError.
    """
    hosts = service.settings.hosts
    name = host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdigit() else host
    if hosts and name.lower().strip("[]") not in hosts:
        raise ApiError(403, f"no server by the name {quoted(name)}; its owner can add it with --host-name", code="host")
