"""Turns for what is computed outside the engine, as the explorer's figures are: one at a time, few waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from pipelines.server.engine import Engine
from pipelines.server.errors import ApiError

T = TypeVar("T")


class Turns:
    """Lets one computation run at a time. Those that wait share the bound of the engine's queue."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.waiting = 0  # and the one that runs; changed in the event loop only
        self._one = anyio.CapacityLimiter(1)  # who waits does so in the event loop, without a thread
        self._lock = threading.Lock()  # the step of a client that has left may still run

    def check_room(self) -> None:
        """Raises: ApiError (429) where too many wait."""
        if self.waiting + self.engine.waiting > self.engine.settings.queue:
            self.engine.metrics.refused += 1
            raise ApiError(429, f"{self.waiting + self.engine.waiting} requests are waiting; try again in some seconds")

    async def run(self, function: Callable[..., T], *arguments: object, admitted: bool = False) -> T:
        """Return what the function returns, called in a thread when it is its turn.

        ``admitted``: for the next step of what has begun, which is never refused. Raises: ApiError (429).
        """
        if not admitted:
            self.check_room()

        def locked() -> T:
            with self._lock:
                return function(*arguments)

        self.waiting += 1
        try:
            return await anyio.to_thread.run_sync(locked, limiter=self._one)
        finally:
            self.waiting -= 1
