"""Music over HTTP: what the model streams, as a file or as events, with limits, and a clear answer without a model."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from music_models import CAPTIONS, tiny_music
from starlette.testclient import TestClient

from pipelines.music_model.model import load_music
from pipelines.server import music_routes
from pipelines.server.app import create_app
from pipelines.server.encoders import pcm16
from pipelines.server.service import Service, ServiceSettings

ASKED = {"prompt": CAPTIONS[0], "seconds": 1.2, "seed": 3, "response_format": "pcm"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("music")
    tiny_music(place / "text", stride_seconds=1.0, window_seconds=1.0).save_pretrained(place / "tiny")
    return place / "tiny"


@pytest.fixture
def client(new_service: Callable[..., Service], folder: Path) -> Iterator[TestClient]:
    service = new_service(ServiceSettings(music=str(folder)))
    with TestClient(create_app(service)) as client:
        yield client


def expected(folder: Path) -> Any:
    stream = load_music(folder).stream(CAPTIONS[0], 1.2, seed=3)
    for _ in stream:
        pass
    assert stream.music is not None
    return stream.music


def events_of(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(one.removeprefix("data: ")) for one in answer.text.split("\n\n") if one]


def test_the_sound_is_what_the_model_streams(client: TestClient, folder: Path) -> None:
    answer = client.post("/v1/audio/music", json=ASKED)
    assert answer.status_code == 200 and answer.headers["content-type"] == "audio/pcm"
    wanted = pcm16(expected(folder).waveform)[:, 0].astype(int)
    got = np.frombuffer(answer.content, "<i2").astype(int)
    assert got.shape == wanted.shape and np.abs(got - wanted).max() <= 1


def test_events_carry_sound_and_codes(client: TestClient, folder: Path) -> None:
    answer = client.post("/v1/audio/music", json=ASKED | {"stream_format": "sse", "include_codes": True})
    events, music = events_of(answer), expected(folder)
    assert [events[0]["type"], events[-1]["type"]] == ["music.started", "music.audio.done"]
    assert events[0]["levels"] == music.codes.shape[0] and events[0]["sample_rate"] == music.sample_rate
    codes = [frame for event in events if event["type"] == "music.codes" for frame in event["codes"]]
    assert codes == music.codes.T.tolist() and events[-1]["frames"] == len(codes)
    sound = b"".join(base64.b64decode(event["audio"]) for event in events if event["type"] == "music.audio.delta")
    assert len(sound) == 2 * music.waveform.shape[1]
    assert len([event for event in events if event["type"] == "music.audio.delta"]) > 2, "sound comes while it is made"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "x" * 1001}, "prompt"),
        ({"seconds": 31}, "seconds"),
        ({"seconds": "2"}, "seconds"),
        ({"seed": -1}, "seed"),
        ({"response_format": "aac"}, "response_format"),
        ({"include_codes": True}, "include_codes"),
    ],
)
def test_bad_fields_are_named(client: TestClient, fields: dict[str, Any], param: str) -> None:
    answer = client.post("/v1/audio/music", json=ASKED | fields)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def test_a_prompt_that_the_model_cannot_read_is_an_error_in_words(client: TestClient) -> None:
    answer = client.post("/v1/audio/music", json=ASKED | {"prompt": "piano " * 160})
    assert answer.status_code == 400 and "describe it shorter" in answer.json()["error"]["message"]


def test_too_many_pieces_get_429(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(music_routes, "MOST_WAITING", -1)
    answer = client.post("/v1/audio/music", json=ASKED)
    assert answer.status_code == 429 and answer.json()["error"]["code"] == "queue_full"
    monkeypatch.undo()
    assert client.post("/v1/audio/music", json=ASKED | {"seconds": 0.5}).status_code == 200


def test_without_a_model_it_is_off_and_says_so(new_service: Callable[..., Service], tmp_path: Path) -> None:
    with TestClient(create_app(new_service(ServiceSettings(music=str(tmp_path / "none"))))) as client:
        answer = client.post("/v1/audio/music", json=ASKED)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "no_music_model"
        assert "--music" in answer.json()["error"]["message"] and not client.get("/api/info").json()["music"]


def test_the_model_is_opened_when_first_asked_for(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(
        "pipelines.music_model.model.load_music", lambda name: [opened.append(name), load_music(name)][1]
    )
    assert client.get("/api/info").json()["music"] and not opened
    for _ in range(2):
        assert client.post("/v1/audio/music", json=ASKED | {"seconds": 0.5}).status_code == 200
    assert len(opened) == 1
