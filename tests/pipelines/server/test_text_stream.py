"""The WebSocket takes text in pieces and gives the sound of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from pipelines.server.app import create_app
from pipelines.server.encoders import pcm16
from pipelines.server.growing_script import GrowingScript
from pipelines.server.service import Service, ServiceSettings
from pipelines.voice.sentences import MAX_PAUSES
from pipelines.voice.voice import Voice

PATH = "/v1/audio/speech/stream"
TEXT = "Hello world. How are you?"


@pytest.fixture
def client(new_service: Callable[..., Service]) -> Iterator[TestClient]:
    with TestClient(create_app(new_service())) as running:
        yield running


def receive(socket: Any) -> tuple[bytes, list[dict[str, Any]]]:
    """All audio and all events up to the last."""
    audio, events = b"", []
    while True:
        message = socket.receive()
        if message.get("bytes") is not None:
            audio += message["bytes"]
            continue
        if message["type"] == "websocket.close":
            return audio, events
        import json

        events.append(json.loads(message["text"]))
        if events[-1]["type"] in ("done", "error"):
            return audio, events


def test_pieces_sound_like_the_whole(client: TestClient, voice: Voice) -> None:
    with client.websocket_connect(PATH) as socket:
        socket.send_json({"type": "start", "voice": "alloy", "seed": 3, "include_codes": True})
        for piece in ("Hello", " world. Ho", "w are you", "?"):
            socket.send_json({"type": "text", "text": piece})
        socket.send_json({"type": "close"})
        audio, events = receive(socket)
    wanted = pcm16(voice.speak(TEXT, seed=3, retries=0).waveform)[:, 0]
    assert np.abs(np.frombuffer(audio, "<i2").astype(int) - wanted).max() <= 1
    kinds = [event["type"] for event in events]
    assert kinds[0] == "started" and kinds[-1] == "done" and kinds.count("speech.sentence.started") == 2
    assert "speech.codes" in kinds


def test_pauses_and_what_is_skipped_are_those_of_the_whole(client: TestClient, voice: Voice) -> None:
    text = "[pause:0.2s] Hello world. [pause:0.1s] [pause:300ms] \u4f60\u597d. How are you? [pause:0.4s]"
    with client.websocket_connect(PATH) as socket:
        socket.send_json({"type": "start", "voice": "alloy", "seed": 3})
        for first in range(0, len(text), 7):
            socket.send_json({"type": "text", "text": text[first : first + 7]})
        socket.send_json({"type": "close"})
        audio, events = receive(socket)
    speech = voice.speak(text, seed=3, retries=0)
    wanted = pcm16(speech.waveform)[:, 0]
    got = np.frombuffer(audio, "<i2").astype(int)
    assert got.shape == wanted.shape and np.abs(got - wanted).max() <= 1
    assert events[-1]["skipped"] == list(speech.skipped) == ["\u4f60\u597d."]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    "text", ["Hello [pause:0.3s] you. [pause:0s] Hello.", "[pause:1s] \u4f60. Hello. \u4f60.", TEXT]
)
def test_a_growing_text_is_cut_as_the_whole(voice: Voice, text: str, size: int) -> None:
    whole, script = voice.plan.cutter.cut(text), GrowingScript(voice.plan.cutter)
    for first in range(0, len(text), size):
        script.add(text[first : first + size])
    script.flush()
    assert [piece.pause for piece in script.pieces[:-1]] == [piece.pause for piece in whole.pieces[:-1]]
    assert script.trail == whole.pieces[-1].pause and script.lead == whole.lead
    assert script.skipped == list(whole.skipped)


def test_hours_of_silence_are_not_taken(voice: Voice) -> None:
    script = GrowingScript(voice.plan.cutter)
    for _ in range(200):
        script.add("Hello. [pause:10s] ")
    script.flush()
    assert len(script.pieces) == 200 and sum(piece.pause for piece in script.pieces) <= MAX_PAUSES + 200


def test_a_flush_speaks_what_has_come(client: TestClient) -> None:
    with client.websocket_connect(PATH) as socket:
        socket.send_json({"type": "start"})
        socket.send_json({"type": "text", "text": "Hello world"})
        socket.send_json({"type": "flush"})
        assert socket.receive_json()["type"] == "started"
        assert socket.receive_json()["text"] == "Hello world"


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"type": "text", "text": "x"}], "first message"),
        ([{"type": "start", "voice": "nobody"}], "no voice"),
        ([{"type": "start", "response_format": "aac"}], "mp3 or opus"),
        ([{"type": "start"}, {"type": "text", "text": 7}], "string"),
        ([{"type": "start"}, {"type": "dance"}], "expected text"),
        ([{"type": "start"}, {"type": "text", "text": "x" * 50_001}], "50,000"),
        ([[]], "JSON object"),
    ],
)
def test_errors(client: TestClient, messages: list[Any], said: str) -> None:
    with client.websocket_connect(PATH) as socket:
        for message in messages:
            socket.send_json(message)
        _, events = receive(socket)
    assert events[-1]["type"] == "error" and said in events[-1]["error"]["message"]


def test_pages_from_elsewhere_and_strangers_stay_out(client: TestClient, new_service: Callable[..., Service]) -> None:
    headers = {"origin": "https://evil.example"}
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(PATH, headers=headers):
        pass
    with TestClient(create_app(new_service(ServiceSettings(api_key="k")))) as closed:
        for start, end in (({}, "error"), ({"api_key": "no"}, "error"), ({"api_key": "k"}, "started")):
            with closed.websocket_connect(PATH) as socket:
                socket.send_json({"type": "start", **start})
                assert socket.receive_json()["type"] == end


def test_leaving_frees_the_place(client: TestClient, new_service: Callable[..., Service]) -> None:
    service = new_service()
    with TestClient(create_app(service)) as other:
        with other.websocket_connect(PATH) as socket:
            socket.send_json({"type": "start"})
            socket.send_json({"type": "text", "text": " ".join([TEXT] * 40)})
            while "bytes" not in socket.receive():
                pass
        while service.engine.active or service.engine.waiting:
            pass
        assert service.engine.metrics.cancelled == 1
