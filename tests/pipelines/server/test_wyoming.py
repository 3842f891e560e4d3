"""Wyoming's own client: what Home Assistant asks, whole texts, and text as it is written."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from live_server import Live

from pipelines.server.encoders import pcm16
from pipelines.voice.voice import Voice

pytest.importorskip("wyoming")
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped, SynthesizeVoice

TEXT = "Hello world. How are you?"


def talk(live: Live, events: list[Event], last: str) -> list[Event]:
    """Send events; return the answers up to one of the type ``last``."""

    async def run() -> list[Event]:
        answers: list[Event] = []
        async with AsyncTcpClient("127.0.0.1", live.wyoming_port) as client:
            for event in events:
                await client.write_event(event)
            while not answers or answers[-1].type != last:
                answer = await asyncio.wait_for(client.read_event(), 20)
                assert answer is not None
                answers.append(answer)
        return answers

    return asyncio.run(run())


def samples(answers: list[Event]) -> Any:
    chunks = [AudioChunk.from_event(event) for event in answers if AudioChunk.is_type(event.type)]
    assert chunks and all((chunk.rate, chunk.width, chunk.channels) == (24_000, 2, 1) for chunk in chunks)
    return np.frombuffer(b"".join(chunk.audio for chunk in chunks), "<i2").astype(int)


def test_describe(live: Live) -> None:
    (answer,) = talk(live, [Describe().event()], "info")
    (program,) = Info.from_event(answer).tts
    assert program.supports_synthesize_streaming and [voice.name for voice in program.voices] == ["tiny"]
    assert program.voices[0].languages == ["en"] and program.voices[0].installed


def test_synthesize(live: Live, voice: Voice) -> None:
    answers = talk(live, [Synthesize(TEXT, voice=SynthesizeVoice(name="tiny")).event()], "audio-stop")
    assert AudioStart.is_type(answers[0].type) and AudioStop.is_type(answers[-1].type)
    assert np.abs(samples(answers) - pcm16(voice.speak(TEXT, retries=0).waveform)[:, 0]).max() <= 1


def test_text_in_pieces_with_the_copy_for_old_servers(live: Live, voice: Voice) -> None:
    pieces = [SynthesizeChunk(piece).event() for piece in ("Hello wo", "rld. How", " are you?")]
    events = [SynthesizeStart().event(), *pieces, Synthesize(TEXT).event(), SynthesizeStop().event()]
    answers = talk(live, events, "synthesize-stopped")
    assert SynthesizeStopped.is_type(answers[-1].type)
    assert [answer.type for answer in answers].count("audio-start") == 1
    assert np.abs(samples(answers) - pcm16(voice.speak(TEXT, retries=0).waveform)[:, 0]).max() <= 1


def test_errors_are_events_and_the_connection_stays(live: Live) -> None:
    bad = Synthesize(TEXT, voice=SynthesizeVoice(name="nobody")).event()
    answers = talk(live, [bad, Synthesize("Hello.").event()], "audio-stop")
    assert answers[0].type == "error" and "nobody" in answers[0].data["text"]
    assert talk(live, [Synthesize(" ").event()], "error")
