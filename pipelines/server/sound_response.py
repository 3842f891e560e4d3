"""An answer whose body is sound while it is made: an error until it begins, and dropped when the client leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pipelines.server.errors import ApiError
from pipelines.server.metrics import Metrics

# No proxy may hold back what streams.
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class SoundResponse(Response):
    """Streams `parts`. Its status waits for the first part, so that an early failure is a proper error."""

    def __init__(self, metrics: Metrics, kind: str) -> None:
        super().__init__()
        self.metrics, self.kind = metrics, kind

    def parts(self) -> AsyncGenerator[bytes, None]:
        """Return the body in pieces; an ApiError before the first one is the answer."""
        raise NotImplementedError

    def more_headers(self) -> dict[str, str]:
        """Return headers that are known when the first part is."""
        return {}

    def leave(self) -> None:
        """Let go of the work: all is sent, or the client has left."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until all is said or the client leaves."""
        speaking = asyncio.ensure_future(self._send(scope, receive, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({speaking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if speaking.done():
                speaking.result()
        finally:
            self.leave()
            for task in (speaking, leaving):
                task.cancel()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        try:
            async with aclosing(self.parts()) as parts:
                async for part in parts:
                    if not started:
                        await send({"type": "http.response.start", "status": 200, "headers": self._raw_headers()})
                        started = True
                    if part:
                        await send({"type": "http.response.body", "body": part, "more_body": True})
        except ApiError as error:
            if started:
                return  # without an end: the connection breaks off, which is how a client of plain audio sees it
            self.metrics.error(error.status)
            await error.response()(scope, receive, send)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _raw_headers(self) -> list[tuple[bytes, bytes]]:
        headers = {**_HEADERS, "content-type": self.kind, **self.more_headers()}
        return [(name.encode(), value.encode()) for name, value in headers.items()]


def sse(data: dict[str, object]) -> bytes:
    """Return one server-sent event."""
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


async def _left(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
