"""The HTTP API's shapes, limits and rules, without a socket."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
import torch
from starlette.testclient import TestClient

from codec.audio.files import encode_audio
from pipelines.server.app import create_app
from pipelines.server.encoders import pcm16
from pipelines.server.service import Service, ServiceSettings
from pipelines.server.speech_routes import skipped_header
from pipelines.voice.voice import Voice

SPEECH = "/v1/audio/speech"
TEXT = "Hello world. How are you?"


@pytest.fixture
def client(new_service: Callable[..., Service]) -> Iterator[TestClient]:
    with TestClient(create_app(new_service())) as running:
        yield running


def ask(client: TestClient, **fields: Any) -> Any:
    return client.post(SPEECH, json={"model": "tts-1", "input": TEXT, "voice": "alloy", **fields})


def error_of(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status
    body = answer.json()
    assert list(body) == ["error"] and set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] and "\n" not in body["error"]["message"]
    found: dict[str, Any] = body["error"]
    return found


def test_pcm_is_what_the_voice_speaks(client: TestClient, voice: Voice) -> None:
    answer = ask(client, response_format="pcm", seed=5)
    assert answer.status_code == 200 and answer.headers["content-type"] == "audio/pcm"
    got = np.frombuffer(answer.content, "<i2")
    wanted = pcm16(voice.speak(TEXT, seed=5, retries=0).waveform)[:, 0]
    assert got.shape == wanted.shape and np.abs(got.astype(int) - wanted).max() <= 1


def test_speed_and_pauses_are_the_voices_own(client: TestClient, voice: Voice) -> None:
    text = "[pause:0.3s] Hello world. [pause:0.2s]"
    got = np.frombuffer(ask(client, input=text, response_format="pcm", speed=1.5).content, "<i2")
    wanted = pcm16(voice.speak(text, speed=1.5, retries=0).waveform)[:, 0]
    assert got.shape == wanted.shape and np.abs(got.astype(int) - wanted).max() <= 1


def test_what_cannot_be_spoken_is_named_in_a_header(client: TestClient) -> None:
    assert "x-soundloom-skipped" not in ask(client, response_format="pcm").headers
    for stream in ("audio", "sse"):
        answer = ask(client, input="Hello \u4f60\u597d. World, \u4e16.", response_format="pcm", stream_format=stream)
        parts = answer.headers["x-soundloom-skipped"].split(",")
        assert [unquote(part) for part in parts] == ["\u4f60\u597d.", "\u4e16."]
        assert answer.headers["x-soundloom-skipped-count"] == "2"
    header = skipped_header(["\n\U0001f600" * 1000] * 1000)
    assert max(map(len, header.values())) < 8000 and header["x-soundloom-skipped"].isascii()
    assert "\n" not in header["x-soundloom-skipped"] and header["x-soundloom-skipped-count"] == "1000"


@pytest.mark.parametrize(
    ("form", "kind"), [(None, "audio/mpeg"), ("opus", "audio/ogg"), ("flac", "audio/flac"), ("wav", "audio/wav")]
)
def test_formats(client: TestClient, form: str | None, kind: str) -> None:
    answer = ask(client, response_format=form)
    assert answer.status_code == 200 and answer.headers["content-type"] == kind
    assert answer.headers["cache-control"] == "no-cache" and answer.headers["x-accel-buffering"] == "no"
    samples, rate = soundfile.read(io.BytesIO(answer.content))
    assert rate == 24_000 and len(samples) > 10_000


def test_server_sent_events_hold_the_same_sound(client: TestClient) -> None:
    whole = ask(client, response_format="pcm").content
    answer = ask(client, response_format="pcm", stream_format="sse", include_codes=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line]
    deltas = [event for event in events if event["type"] == "speech.audio.delta"]
    assert set(deltas[0]) == {"type", "audio"}
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas) == whole
    done = events[-1]
    assert done["type"] == "speech.audio.done" and set(done["usage"]) == {
        "input_tokens",
        "output_tokens",
        "total_tokens",
    }
    grid = [event for event in events if event["type"] == "speech.codes"]
    assert sum(len(event["codes"]) for event in grid) * len(grid[0]["codes"][0]) == done["usage"]["output_tokens"]
    words = [event["words"] for event in events if event["type"] == "speech.words"]
    assert len(words) == 2 and [words[0][0]["word"], words[1][0]["word"]] == ["Hello", "How"]
    assert words[1][0]["start"] > words[0][0]["end"]
    texts = [event["text"] for event in events if event["type"] == "speech.sentence.started"]
    assert texts == ["Hello world.", "How are you?"]


def test_plain_server_sent_events_are_only_openais(client: TestClient) -> None:
    answer = ask(client, response_format="pcm", stream_format="sse")
    kinds = {json.loads(line[6:])["type"] for line in answer.text.split("\n\n") if line}
    assert kinds == {"speech.audio.delta", "speech.audio.done"}


@pytest.mark.parametrize(
    "fields",
    [
        {"voice": {"id": "nova"}},
        {"voice": "tiny"},
        {"voice": None},
        {"instructions": None},
        {"instructions": "cheerfully"},
        {"speed": 1},
        {"model": "gpt-4o-mini-tts"},
        {"model": "soundloom"},
        {"response_format": None, "stream_format": None, "seed": None, "levels": 2},
        {"something": "else"},
    ],
)
def test_what_clients_send_is_accepted(client: TestClient, fields: dict[str, Any]) -> None:
    assert ask(client, **fields).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"input": ""}, "input", "empty"),
        ({"input": " \n"}, "input", "empty"),
        ({"input": "..."}, "input", "speak"),
        ({"input": None}, "input", "string"),
        ({"input": 7}, "input", "string"),
        ({"input": "a" * 4097}, "input", "4,096"),
        ({"input": "\ud800"}, "input", "surrogate"),
        ({"voice": "nobody"}, "voice", "tiny"),
        ({"voice": 7}, "voice", "name"),
        ({"voice": {"name": []}, "response_format": "aac"}, "response_format", "mp3 or opus"),
        ({"response_format": "mov"}, "response_format", "expected one of"),
        ({"speed": 5}, "speed", "0.5 to 2"),
        ({"speed": "fast"}, "speed", "number"),
        ({"speed": True}, "speed", "number"),
        ({"seed": -1}, "seed", "whole number"),
        ({"seed": 0.5}, "seed", "whole number"),
        ({"levels": 9}, "levels", "1 to 3"),
        ({"stream_format": "video"}, "stream_format", "sse"),
        ({"include_codes": True}, "include_codes", "sse"),
        ({"instructions": "x" * 5000}, "instructions", "4,096"),
    ],
)
def test_errors_name_the_field(client: TestClient, fields: dict[str, Any], param: str, said: str) -> None:
    body = json.dumps({"model": "tts-1", "input": TEXT, "voice": "alloy", **fields})
    error = error_of(client.post(SPEECH, content=body), 400)
    assert error["type"] == "invalid_request_error" and error["param"] == param and said in error["message"]
    assert len(error["message"]) < 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"speed": ' + b"9" * 5000])
def test_bodies_that_are_no_object(client: TestClient, body: bytes) -> None:
    assert "JSON" in error_of(client.post(SPEECH, content=body), 400)["message"]


def test_numbers_that_are_not_finite(client: TestClient) -> None:
    for number in ("NaN", "Infinity", "1e999", "9" * 400):
        body = f'{{"input": "x", "speed": {number}}}'
        assert error_of(client.post(SPEECH, content=body), 400)["param"] == "speed"


def test_errors_of_the_framework_have_the_shape(client: TestClient) -> None:
    assert error_of(client.get("/nothing"), 404)["code"] == "not_found"
    answer = client.get(SPEECH)
    assert error_of(answer, 405)["code"] == "method_not_allowed" and "POST" in answer.headers["allow"]
    assert error_of(ask(client, model="gpt-9"), 404)["code"] == "model_not_found"
    assert error_of(client.get("/v1/models/gpt-9"), 404)["code"] == "model_not_found"
    assert error_of(client.get("/static/../app.py"), 404) and error_of(client.get("/static/%2e%2e/app.py"), 404)


def test_bodies_are_bounded(client: TestClient) -> None:
    assert error_of(client.post(SPEECH, content=b"x" * 300_000), 413)["code"] == "request_too_large"

    def endless() -> Iterator[bytes]:
        for _ in range(400):
            yield b"x" * 1000

    assert error_of(client.post(SPEECH, content=endless()), 413)


def test_a_bug_is_an_error_in_shape_without_details(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = TestClient(client.app, raise_server_exceptions=False)
    monkeypatch.setattr(Service, "order", lambda *_: 1 / 0)
    error = error_of(ask(quiet), 500)
    assert error["type"] == "server_error" and "division" not in error["message"]


def test_a_full_queue_is_429(new_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    service = new_service(slots=1, queue=0)
    with TestClient(create_app(service)) as client:
        monkeypatch.setattr(type(service.engine), "waiting", 99)
        answer = ask(client)
        assert error_of(answer, 429)["type"] == "rate_limit_error" and answer.headers["retry-after"]


def test_lists(client: TestClient) -> None:
    models = client.get("/v1/models").json()
    assert models["object"] == "list"
    assert all(set(one) == {"id", "object", "created", "owned_by"} for one in models["data"])
    assert client.get("/v1/models/tts-1").json()["id"] == "tts-1"
    assert client.get("/v1/audio/voices").json() == {"voices": [{"id": "tiny", "name": "tiny"}]}
    assert client.get("/v1/audio/voices?legacy=true").json() == {"voices": ["tiny"]}
    assert "id" in client.get("/v1/audio/models").json()["models"][0]
    assert client.get("/health").json()["status"] == "ok"


def test_metrics_count(client: TestClient) -> None:
    ask(client)
    client.get("/nothing")
    text = client.get("/metrics").text
    assert "soundloom_requests_finished_total 1\n" in text and 'soundloom_http_errors_total{status="404"} 1' in text
    assert 'soundloom_first_sound_seconds_bucket{le="+Inf"} 1\n' in text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(len(line.rsplit(" ", 1)) == 2 and float(line.rsplit(" ", 1)[1]) >= 0 for line in lines)


def test_one_line_of_log_a_request_without_its_text(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "soundloom.server"):
        ask(client, input="A secret word.")
        client.get("/%0Aforged?secret=1")
    lines = [record.getMessage() for record in caplog.records if record.name == "soundloom.server"]
    assert len(lines) == 2 and "POST /v1/audio/speech 200" in lines[0]
    assert "secret" not in "".join(lines) and "\n" not in "".join(lines)


def test_a_key_closes_all_but_health_and_pages(new_service: Callable[..., Service]) -> None:
    with TestClient(create_app(new_service(ServiceSettings(api_key="s3cret")))) as client:
        for path in ("/v1/models", "/v1/audio/voices", "/metrics", "/api/info"):
            assert error_of(client.get(path), 401)["code"] == "invalid_api_key"
        for header in ("Bearer nope", "Bearer", "s3cret", "Basic s3cret", "Bearer \u00e9"):
            assert client.get("/v1/models", headers={"authorization": header.encode("latin-1")}).status_code == 401
        assert client.get("/v1/models", headers={"authorization": "Bearer s3cret"}).status_code == 200
        assert client.get("/health").status_code == client.get("/").status_code == 200


def test_other_names_and_other_pages_stay_out(new_service: Callable[..., Service]) -> None:
    with TestClient(create_app(new_service(ServiceSettings(hosts=("localhost",))))) as client:
        assert error_of(client.get("/health", headers={"host": "evil.example"}), 403)
        assert client.get("/health", headers={"host": "localhost:8000"}).status_code == 200
        answer = client.get("/health", headers={"host": "localhost", "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers
    with TestClient(create_app(new_service(ServiceSettings(origins=("https://good.example",))))) as client:
        for origin, admitted in (("https://good.example", True), ("https://evil.example", False)):
            answer = client.get("/health", headers={"origin": origin})
            assert ("access-control-allow-origin" in answer.headers) == admitted


def test_pages_forbid_everything_from_elsewhere(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


# --- cloning ----------------------------------------------------------------------------------------------------------


def upload(client: TestClient, data: bytes, text: str = "Hello world.") -> Any:
    return client.post(
        "/v1/audio/voices", files={"audio_sample": ("../../me.wav", data)}, data={"text": text, "name": "me"}
    )


def recording(seconds: float) -> bytes:
    return encode_audio(0.1 * torch.randn(round(seconds * 16_000)), 16_000)


def test_cloning_is_off_unless_enabled(client: TestClient) -> None:
    assert error_of(upload(client, recording(2)), 403)["code"] == "cloning_off"


def test_an_uploaded_speaker_can_be_asked_for(new_service: Callable[..., Service]) -> None:
    with TestClient(create_app(new_service(ServiceSettings(allow_cloning=True)))) as client:
        answer = upload(client, recording(2))
        assert answer.status_code == 201
        key = answer.json()["id"]
        assert {"id": key, "name": "me"} in client.get("/v1/audio/voices").json()["voices"]
        assert ask(client, voice=key, response_format="pcm").content != ask(client, response_format="pcm").content
        for data, said in (
            (b"no audio", "no audio file"),
            (recording(21), "longer than 20 s"),
            (recording(0.05), "shorter"),
        ):
            assert said in error_of(upload(client, data), 400)["message"]
        assert error_of(upload(client, recording(2), " "), 400)["param"] == "text"
        assert error_of(client.post("/v1/audio/voices", json={}), 400)
        assert error_of(upload(client, b"x" * 7_000_000), 413)
        for _ in range(20):
            upload(client, recording(0.5))
        assert len(client.get("/v1/audio/voices").json()["voices"]) == 17
        assert error_of(ask(client, voice=key), 400)["code"] == "voice_not_found"


def test_nothing_is_written_or_read_elsewhere(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ask(client, voice="/etc/passwd")
    ask(client)
    assert not list(tmp_path.iterdir())
