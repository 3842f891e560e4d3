"""The official client of OpenAI against a server on a port: speech, streaming, errors, and leaving midway."""

from __future__ import annotations

import asyncio
import io
import time
from typing import Any

import numpy as np
import pytest
import soundfile
from live_server import Live

from pipelines.server.encoders import pcm16
from pipelines.voice.voice import Voice

openai = pytest.importorskip("openai")
TEXT = "Hello world. How are you?"


@pytest.fixture
def client(live: Live) -> Any:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="anything", max_retries=0)


def test_speech(client: Any) -> None:
    answer = client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT)
    samples, rate = soundfile.read(io.BytesIO(answer.read()))
    assert answer.response.headers["content-type"] == "audio/mpeg" and rate == 24_000 and len(samples)


def test_streaming_gives_what_the_voice_speaks(client: Any, voice: Voice) -> None:
    options = {"model": "gpt-4o-mini-tts", "voice": "coral", "input": TEXT, "response_format": "pcm"}
    with client.audio.speech.with_streaming_response.create(**options, extra_body={"seed": 7}) as answer:
        data = b"".join(answer.iter_bytes())
        assert answer.headers["transfer-encoding"] == "chunked"
    wanted = pcm16(voice.speak(TEXT, seed=7, retries=0).waveform)[:, 0]
    assert np.abs(np.frombuffer(data, "<i2").astype(int) - wanted).max() <= 1


def test_the_first_bytes_come_before_the_last_are_made(client: Any, live: Live) -> None:
    options = {"model": "tts-1", "voice": "alloy", "input": " ".join([TEXT] * 30), "response_format": "pcm"}
    done = live.service.engine.metrics.done
    with client.audio.speech.with_streaming_response.create(**options) as answer:
        next(answer.iter_bytes(960))
        assert live.service.engine.metrics.done == done
    wait_until_idle(live)
    assert live.service.engine.metrics.done == done, "leaving has cancelled the rest"


def test_models(client: Any) -> None:
    assert "soundloom" in [model.id for model in client.models.list()]
    assert client.models.retrieve("tts-1").id == "tts-1"


def test_errors_are_the_clients_own(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.speech.create(model="tts-1", voice="nobody", input=TEXT)
    assert caught.value.param == "voice" and "nobody" in caught.value.message
    with pytest.raises(openai.NotFoundError) as missing:
        client.audio.speech.create(model="gpt-9", voice="alloy", input=TEXT)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="mp3 or opus"):
        client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT, response_format="aac")


def test_many_at_once_and_some_that_leave(live: Live) -> None:
    async def one(client: Any, number: int) -> str:
        options = {"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": "pcm"}
        if number % 5 == 0:
            options["input"] = ""
        try:
            async with client.audio.speech.with_streaming_response.create(**options) as answer:
                async for _ in answer.iter_bytes(4096):
                    if number % 5 == 1:
                        return "left"
            return "spoken"
        except openai.BadRequestError:
            return "refused"

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="k", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(20)))

    ends = asyncio.run(all_of_them())
    assert [ends.count(end) for end in ("spoken", "left", "refused")] == [12, 4, 4]
    wait_until_idle(live)
    assert live.service.engine.waiting == 0


def wait_until_idle(live: Live) -> None:
    until = time.monotonic() + 10
    while live.service.engine.active and time.monotonic() < until:
        time.sleep(0.01)
    assert live.service.engine.active == 0
