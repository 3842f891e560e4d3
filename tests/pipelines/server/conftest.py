"""A small service in memory, and one that listens on a port of this machine."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from voice_helpers import tiny_voice

pytest.importorskip("starlette")
from pipelines.server.engine import Engine, EngineSettings
from pipelines.server.service import Service, ServiceSettings
from pipelines.voice.voice import Voice

#: Short sentences, since a model with random weights speaks until its cap.
GENERATION = {"guidance": 2.0, "cap_factor": 1.0, "cap_seconds": 0.5, "sampled_levels": 1}


@pytest.fixture(scope="session")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Voice:
    from lm.generation.request import GenerateConfig

    return tiny_voice(tmp_path_factory.mktemp("voice"), generation=GenerateConfig(**GENERATION))


@pytest.fixture
def new_service(voice: Voice) -> Callable[..., Service]:
    """Make a service: settings of the engine by name, and ``rules``, those of the service."""

    def new(rules: ServiceSettings | None = None, **settings: Any) -> Service:
        return Service(Engine(voice, EngineSettings(**settings)), rules or ServiceSettings())

    return new


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


@pytest.fixture(scope="module")
def live(voice: Voice) -> Iterator[Live]:
    with Live(Service(Engine(voice, EngineSettings(slots=4))), wyoming=True) as running:
        yield running
