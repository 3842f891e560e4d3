"""A speech server in a thread of the test, on a port of this machine."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.server.service import Service


class Live:
    """A server in a thread; ``url`` is its address."""

    def __init__(self, service: Service, wyoming: bool = False) -> None:
        import uvicorn

        from pipelines.server.app import create_app

        self.service = service
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            self.port, self.wyoming_port = one.getsockname()[1], two.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(create_app(service), port=self.port, log_level="warning", access_log=False)
        self.server = uvicorn.Server(config)
        self.wyoming = wyoming
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        other = None
        if self.wyoming:
            from pipelines.server.wyoming_port import serve_wyoming

            other = asyncio.ensure_future(serve_wyoming(self.service, "127.0.0.1", self.wyoming_port))
        await self.server.serve()
        if other is not None:
            other.cancel()

    def __enter__(self) -> Live:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            self.thread.join(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()
