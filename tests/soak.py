"""Run a server through a day of use in some minutes, and report what became of it: requests, errors, memory.

    python tests/soak.py --minutes 20            # 24 hours, each in 50 seconds; a small voice with random weights
    python tests/soak.py --minutes 3 --peak 6    # shorter, and at most 6 arrivals a second at the busiest hour

Arrivals follow the hours of a day. Most requests are spoken to the end, in all formats; some clients leave midway,
some send what is malformed, some use the explorer. Exit code: 1 where a request is lost, an error is not in shape, or
memory grows by 5% or more after the first quarter. Needs the extras serve and test.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

import httpx  # noqa: E402 - the paths come first
import psutil  # noqa: E402
from live_server import Live  # noqa: E402
from voice_helpers import tiny_voice  # noqa: E402

from lm.generation.request import GenerateConfig  # noqa: E402
from pipelines.server.engine import Engine, EngineSettings  # noqa: E402
from pipelines.server.service import Service  # noqa: E402

GROWTH = 0.05
FORMATS = ("pcm", "pcm", "mp3", "opus", "wav", "flac")
TEXTS = ("Hello world.", "Hello world. How are you?", " ".join(["Yes, it is. Is it?"] * 4))
BAD = ("{", '{"input": ""}', '{"input": "x", "voice": "nobody"}', '{"input": "x", "speed": 99}', '{"input": "..."}')
SHARES = {"spoken": 70, "left": 15, "malformed": 10, "explored": 5}  # percent of the requests


def rate(day: float, peak: float) -> float:
    """Return arrivals a second at ``day`` (0 to 1): few at night, two peaks, as people use such a thing."""
    return peak * (0.08 + 0.92 * max(0.0, math.sin(math.pi * (day * 24 - 7) / 16)) * (0.75 + 0.25 * math.cos(day * 25)))


class Soak:
    """One run: what was asked and what came of it."""

    def __init__(self, url: str, seed: int) -> None:
        self.client = httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=200))
        self.random = random.Random(seed)
        self.ends: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def one(self) -> None:
        """Send one request of a kind by chance, and count how it ended."""
        kind = self.random.choices(list(SHARES), list(SHARES.values()))[0]
        try:
            self.ends[await getattr(self, f"_{kind}")()] += 1
        except (httpx.HTTPError, AssertionError, ValueError) as error:
            self.ends["lost"] += 1
            self.wrong.append(f"{kind}: {type(error).__name__} {str(error)[:100]}")

    async def _spoken(self, leave: bool = False) -> str:
        form = self.random.choice(FORMATS)
        text = TEXTS[-1] if leave else self.random.choice(TEXTS)
        body = {"input": text, "response_format": form, "seed": self.random.randrange(1000)}
        size = 0
        async with self.client.stream("POST", "/v1/audio/speech", json=body) as answer:
            if answer.status_code == 429:
                await answer.aread()
                return self._in_shape(answer, 429) and "busy"
            assert answer.status_code == 200, answer.status_code
            async for data in answer.aiter_bytes():
                size += len(data)
                if leave:
                    return "left"
        assert size > 500, f"{size} bytes of {form}"
        return "spoken"

    async def _left(self) -> str:
        return await self._spoken(leave=True)

    async def _malformed(self) -> str:
        answer = await self.client.post("/v1/audio/speech", content=self.random.choice(BAD))
        return self._in_shape(answer, 400) and "malformed"

    async def _explored(self) -> str:
        codes = [[self.random.randrange(16) for _ in range(50)] for _ in range(3)]
        answer = await self.client.post("/api/decode", json={"codes": codes})
        if answer.status_code == 429:
            return self._in_shape(answer, 429) and "busy"
        assert answer.status_code == 200 and answer.content[:4] == b"RIFF", answer.status_code
        return "explored"

    @staticmethod
    def _in_shape(answer: httpx.Response, status: int) -> Any:
        assert answer.status_code == status, f"{answer.status_code}, expected {status}"
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, "an error out of shape"
        return True

    async def arrive(self, seconds: float, peak: float, on_hour: Any) -> None:
        """Let clients come for a simulated day that takes ``seconds``; call ``on_hour`` 24 times."""
        began, hour = time.monotonic(), 0
        while (day := (time.monotonic() - began) / seconds) < 1:
            if day * 24 >= hour + 1:
                hour += 1
                on_hour(hour)
            task = asyncio.ensure_future(self.one())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            await asyncio.sleep(min(self.random.expovariate(rate(day, peak)), seconds / 24))
        await asyncio.gather(*self.tasks)
        on_hour(24)
        await self.client.aclose()


def run(service: Service, url: str, seconds: float, peak: float, seed: int) -> int:
    """Run a day, print a row an hour, and return the exit code."""
    process, memory = psutil.Process(), [psutil.Process().memory_info().rss]
    soak = Soak(url, seed)
    engine = service.engine

    def on_hour(hour: int) -> None:
        memory.append(process.memory_info().rss)
        ends = "  ".join(f"{name} {count}" for name, count in sorted(soak.ends.items()))
        print(f"{hour:2d} h  {memory[-1] / 2**20:6.0f} MB  waiting {engine.waiting}  {ends}", flush=True)

    asyncio.run(soak.arrive(seconds, peak, on_hour))
    until = time.monotonic() + 20
    while (engine.active or engine.waiting) and time.monotonic() < until:
        time.sleep(0.05)
    growth = memory[-1] / memory[len(memory) // 4] - 1
    left = engine.active + engine.waiting + len(engine._all)
    print(f"{sum(soak.ends.values())} requests, {soak.ends['lost']} lost, {left} left in the engine")
    print(f"memory after the first quarter: {100 * growth:+.1f}%; failures of the engine: {engine.metrics.failed}")
    print(*soak.wrong[:10], sep="\n", end="\n" if soak.wrong else "")
    return int(bool(soak.ends["lost"] or left or engine.metrics.failed or growth >= GROWTH))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="what the simulated day takes (default: 20)")
    parser.add_argument("--peak", type=float, default=4.0, help="arrivals a second at the busiest hour (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another day (default: 0)")
    options = parser.parse_args(argv)
    if not 0 < options.minutes <= 1440 or not 0 < options.peak <= 1000:
        parser.error("expected more than 0 and at most 1440 minutes, and at most 1000 arrivals a second")
    limits = {"guidance": 2.0, "cap_factor": 1.0, "cap_seconds": 0.5, "sampled_levels": 1}
    with tempfile.TemporaryDirectory() as folder:
        voice = tiny_voice(Path(folder), generation=GenerateConfig(**limits))
        service = Service(Engine(voice, EngineSettings(slots=8, lanes=2)))
        with Live(service) as live:
            return run(service, live.url, 60 * options.minutes, options.peak, options.seed)


if __name__ == "__main__":
    raise SystemExit(main())
