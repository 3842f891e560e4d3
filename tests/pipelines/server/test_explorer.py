"""The explorer's API gives what the codec and the voice give, and refuses what they cannot take."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from voice_helpers import tiny_voice

pytest.importorskip("starlette")
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.testclient import TestClient

from codec.audio import encode_audio, read_audio
from codec.errors import SoundloomError
from pipelines.server.engine import Engine, EngineSettings
from pipelines.server.errors import ApiError, on_api_error
from pipelines.server.explorer import MAX_JSON, routes
from pipelines.server.figures import MAX_SECONDS, Explorer
from pipelines.server.page import POLICY
from pipelines.server.turns import Turns


@pytest.fixture(scope="module")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Explorer:
    return Explorer(tiny_voice(tmp_path_factory.mktemp("voice")))


@pytest.fixture(scope="module")
def client(explorer: Explorer, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    async def refuse(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": {"message": str(error)}}, 400)

    sample = tmp_path_factory.mktemp("samples") / "tone.wav"
    sample.write_bytes(wav(explorer).getvalue())
    turns = Turns(Engine(explorer.voice, EngineSettings(queue=1)))
    handlers = {SoundloomError: refuse, ApiError: on_api_error}
    return TestClient(Starlette(routes=routes(explorer, {"tone": sample}, turns), exception_handlers=handlers))


def wave(explorer: Explorer, seconds: float = 0.5) -> Tensor:
    return 0.1 * torch.randn(1, round(seconds * explorer.codec.sample_rate), generator=torch.Generator().manual_seed(0))


def wav(explorer: Explorer, seconds: float = 0.5) -> io.BytesIO:
    return io.BytesIO(encode_audio(wave(explorer, seconds), explorer.codec.sample_rate))


def heard(explorer: Explorer, data: bytes) -> Tensor:
    return read_audio(io.BytesIO(data), explorer.codec.sample_rate, 1)


def test_codes_and_sound_are_the_codecs(explorer: Explorer, client: TestClient) -> None:
    data = wav(explorer)
    codes = client.post("/api/encode", content=data.getvalue()).json()["codes"]
    known = explorer.codec.encode(heard(explorer, data.getvalue())[None])[0]
    assert codes == known.tolist()
    made = client.post("/api/decode", json={"codes": codes, "levels": 1})
    assert made.headers["content-type"] == "audio/wav"
    assert torch.allclose(heard(explorer, made.content), explorer.codec.decode(known[None, :1])[0], atol=1e-4)


def test_levels_leave_less_and_less(explorer: Explorer, client: TestClient) -> None:
    rows = client.post("/api/levels", content=wav(explorer).getvalue()).json()["levels"]
    assert [row["levels"] for row in rows] == list(range(1, explorer.codec.num_levels + 1))
    assert rows[0]["kbps"] * 2 == pytest.approx(rows[1]["kbps"])


def test_a_smaller_codebook_uses_fewer_bits_and_no_random_numbers_of_the_caller(explorer: Explorer) -> None:
    before = torch.random.get_rng_state()
    report, sound = explorer.smaller(wave(explorer), 16, 2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert sound.shape == (1, wave(explorer).shape[1])
    assert report["kbps"] == pytest.approx(explorer.codec.frame_rate * 2 * 4 / 1000)
    assert len(explorer.codebook(1, 16)["points"]) == 16
    again, same = explorer.smaller(wave(explorer), 16, 2)
    assert again == report and torch.equal(same, sound)


def test_the_plane_keeps_the_codes_in_order(explorer: Explorer, client: TestClient) -> None:
    book = client.get("/api/codebook?level=1").json()
    vectors = explorer.codec.quantizer.vectors(2)[1]
    points = torch.tensor(book["points"])
    assert points.shape == (explorer.codec.codebook_size, 2)
    # Distances in a projection are never longer than the true ones.
    assert (points[0] - points[1]).norm() <= (vectors[0] - vectors[1]).norm() + 1e-4
    assert client.get("/api/tone?level=1&code=3").content[:4] == b"RIFF"


def test_opus_gives_its_true_bitrate(explorer: Explorer, client: TestClient) -> None:
    answer = client.post("/api/opus?kbps=12", content=wav(explorer, 1.0).getvalue())
    assert 5 < float(answer.headers["X-Kbps"]) < 40
    assert heard(explorer, answer.content).shape[1] == explorer.codec.sample_rate


def events(text: str) -> list[tuple[str, Any]]:
    blocks = [block.split("\n", 1) for block in text.strip().split("\n\n")]
    return [(a.removeprefix("event: "), json.loads(b.removeprefix("data: "))) for a, b in blocks]


def test_generation_is_the_voices_own(explorer: Explorer, client: TestClient) -> None:
    speech = explorer.voice.speak("hello", seed=3)
    found = events(client.post("/api/generate", json={"text": "hello", "seed": 3}).text)
    assert [found[0][0], found[-1][0]] == ["tokens", "speech"]
    steps = [data for kind, data in found if kind == "step"]
    codes = speech.sentences[0].codes
    assert [step["codes"] for step in steps] == codes.t().tolist()
    for step in steps:
        assert all(0 < p <= 1 for level in step["top"] for _, p in level)
        assert len(step["attention"]) >= len(found[0][1]["tokens"])
    made = heard(explorer, base64.b64decode(found[-1][1]["wav"]))
    assert torch.allclose(made, speech.waveform.clamp(-1, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/api/decode", b"[", "not JSON"),
        ("/api/decode", b"[" * 100_000, "not JSON"),
        ("/api/decode", b'{"codes": [[1, 2], [3]]}', "equally long"),
        ("/api/decode", b'{"codes": [[true]]}', "whole numbers"),
        ("/api/decode", b'{"codes": [[99999]]}', "must be 0 to"),
        ("/api/decode", b'{"codes": [[1]], "levels": 9}', "from 1 to 1"),
        ("/api/decode", b'{"codes": [[1]], "decoder": "x"}', "decoder 'x'"),
        ("/api/encode", b"no audio", "audio"),
        ("/api/generate", b'{"text": ""}', "1 to 200"),
        ("/api/generate", b'{"text": "hi", "seed": 1.5}', "whole number"),
        ("/api/smaller?size=5", b"", "empty|audio"),
    ],
)
def test_bad_requests_get_a_reason(client: TestClient, path: str, body: bytes, words: str) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code == 400
    assert any(word in answer.json()["error"]["message"] for word in words.split("|"))


def test_a_long_sound_is_cut_and_too_many_frames_are_refused(explorer: Explorer, client: TestClient) -> None:
    codes = client.post("/api/encode", content=wav(explorer, MAX_SECONDS + 1).getvalue()).json()["codes"]
    assert len(codes[0]) == round(MAX_SECONDS * explorer.codec.frame_rate)
    answer = client.post("/api/decode", json={"codes": [[0] * (len(codes[0]) + 1)]})
    assert answer.status_code == 400


def test_the_page_asks_nobody_else() -> None:
    page = Path(__file__).parents[3] / "pipelines" / "server" / "static" / "explore"
    for path in page.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "http://" not in text and "https://" not in text, path.name


def test_the_page_and_the_sources_are_served(client: TestClient) -> None:
    page = client.get("/explore/").text
    assert "explore.js" in page and client.get("/explore/explore.js").status_code == 200
    assert "class" in client.get("/explore/source/quantize").text
    assert client.get("/explore/source/secrets").status_code == 404
    assert client.get("/explore", follow_redirects=False).headers["location"] == "/explore/"
    for name in ("", "explore.js", "source/quantize"):
        assert client.get(f"/explore/{name}").headers["content-security-policy"] == POLICY
    assert client.get("/explore/..%2findex.html").status_code == 404


def test_a_large_json_body_is_refused(client: TestClient) -> None:
    assert client.post("/api/decode", content=b" " * (MAX_JSON + 1)).status_code == 413


def test_one_computes_few_wait_and_the_rest_are_refused(explorer: Explorer) -> None:
    turns = Turns(Engine(explorer.voice, EngineSettings(queue=1)))
    may_end, running, most = threading.Event(), 0, 0

    def compute() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        assert may_end.wait(10)
        running -= 1
        return 7

    async def ask() -> list[int | str]:
        async def one() -> int | str:
            try:
                return await turns.run(compute)
            except ApiError as error:
                assert error.status == 429
                return "refused"

        asked = [asyncio.ensure_future(one()) for _ in range(4)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        may_end.set()
        return await asyncio.gather(*asked)

    assert asyncio.run(ask()) == [7, 7, "refused", "refused"]
    assert most == 1 and turns.waiting == 0 and turns.engine.metrics.refused == 2
    turns.check_room()
