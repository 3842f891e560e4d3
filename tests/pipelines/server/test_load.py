"""Many requests, some that leave and some that are wrong: memory stays flat, nothing is lost (pytest -m slow)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest
from live_server import Live

psutil = pytest.importorskip("psutil")
httpx = pytest.importorskip("httpx")
TEXT = "Hello world. How are you?"
BAD = ("{", '{"input": ""}', '{"input": "x", "voice": "nobody"}', '{"input": "x", "speed": 99}', '{"input": "..."}')


async def one(client: httpx.AsyncClient, number: int) -> str:
    """Every tenth is wrong, two of ten leave midway."""
    if number % 10 == 0:
        answer = await client.post("/v1/audio/speech", content=BAD[number // 10 % len(BAD)])
        assert answer.status_code == 400 and set(answer.json()["error"]) == {"message", "type", "param", "code"}
        return "refused"
    leaves = number % 10 in (3, 7)
    body = {"input": " ".join([TEXT] * 10) if leaves else TEXT, "response_format": "pcm", "seed": number}
    size = 0
    async with client.stream("POST", "/v1/audio/speech", json=body) as answer:
        if answer.status_code == 429:
            return "busy"
        assert answer.status_code == 200
        async for data in answer.aiter_bytes():
            size += len(data)
            if leaves:
                return "left"
    assert size > 10_000
    return "spoken"


async def load(url: str, numbers: range, at_once: int) -> Counter[str]:
    places = asyncio.Semaphore(at_once)

    async def placed(client: httpx.AsyncClient, number: int) -> str:
        async with places:
            return await one(client, number)

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        return Counter(await asyncio.gather(*(placed(client, number) for number in numbers)))


@pytest.mark.slow
def test_a_thousand_requests_leave_no_trace(live: Live) -> None:
    engine, memory = live.service.engine, psutil.Process().memory_info
    asyncio.run(load(live.url, range(300), 12))
    before = memory().rss
    ends = asyncio.run(load(live.url, range(1000), 12))
    until = time.monotonic() + 20
    while (engine.active or engine.waiting) and time.monotonic() < until:
        time.sleep(0.05)
    assert dict(ends) == {"spoken": 700, "left": 200, "refused": 100}
    assert engine.active == engine.waiting == 0 and engine.metrics.failed == 0
    growth = memory().rss / before - 1
    print(f"memory grew by {100 * growth:.1f}% of {before / 2**20:.0f} MB")
    assert growth < 0.05
