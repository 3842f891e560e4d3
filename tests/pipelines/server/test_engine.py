"""The engine speaks for many at once as the voice speaks for one, bounds its queue, and lets go of who has left."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from codec.errors import SoundloomError
from codec.model import Codec
from lm.cpu_linear import PackedTransformer
from pipelines.server.engine import Busy, Engine, EngineSettings
from pipelines.server.rows import PREFILL_STEPS, Row
from pipelines.server.service import Service
from pipelines.server.speaking import Event, Failed, Finished, Order, SentenceStarted, Sound
from pipelines.voice.ssml import read_ssml
from pipelines.voice.turns import stream_turns
from pipelines.voice.voice import Voice, load_voice

TEXT = "Hello world. How are you?"


class Client:
    """Collects a request's events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.done = threading.Event()
        self.sounded = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Sound):
            self.sounded.set()
        if isinstance(event, (Finished, Failed)):
            self.done.set()

    def wave(self) -> Tensor:
        assert self.done.wait(30)
        return torch.cat([event.wave for event in self.events if isinstance(event, Sound)], dim=-1)


def ask(engine: Engine, text: str = TEXT, **fields: Any) -> Client:
    client = Client()
    engine.submit(engine.open(Order(text, **fields), client))
    return client


@pytest.fixture
def engine(new_service: Callable[..., Service]) -> Any:
    running = new_service(slots=2, queue=3).engine
    running.start()
    yield running
    running.stop()


def test_many_at_once_sound_like_one_by_one(engine: Engine, voice: Voice) -> None:
    clients = [ask(engine, seed=seed, levels=levels) for seed, levels in enumerate([None, 2, 1, None])]
    for seed, (client, levels) in enumerate(zip(clients, [None, 2, 1, None], strict=True)):
        alone = voice.speak(TEXT, seed=seed, levels=levels, retries=0)
        assert torch.allclose(client.wave(), alone.waveform, atol=1e-5)
        last = client.events[-1]
        assert isinstance(last, Finished) and last.samples == alone.waveform.shape[-1]
        assert last.frames == alone.codes.shape[1]
        codes = [frame for event in client.events if isinstance(event, Sound) for frame in event.codes]
        assert codes and torch.equal(torch.tensor(codes).T[: alone.codes.shape[0]], alone.codes)


def test_the_shipped_voice_and_its_speakers_sound_the_same_in_a_batch() -> None:
    shipped = load_voice()
    engine = Engine(shipped, EngineSettings(slots=3))
    engine.start()
    asked = [("Hello world.", None), ("Good morning to you.", "fenrir"), ("Yes, it is.", None)]
    clients = [ask(engine, text, speaker=speaker, seed=1) for text, speaker in asked]
    for (text, speaker), client in zip(asked, clients, strict=True):
        alone = shipped.speak(text, speaker=speaker, seed=1, retries=0)
        assert torch.allclose(client.wave(), alone.waveform, atol=1e-4)
    engine.stop()


def test_sentences_in_lanes_sound_like_one_by_one(
    new_service: Callable[..., Service], voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.server.lanes.FILLED", 2)
    engine = new_service(slots=4, lanes=2).engine
    engine.start()
    clients = [ask(engine, seed=seed) for seed in range(5)]
    for seed, client in enumerate(clients):
        assert torch.allclose(client.wave(), voice.speak(TEXT, seed=seed, retries=0).waveform, atol=1e-5)
    engine.stop()


def test_sentences_side_by_side_are_decoded_together(
    new_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    decode = Codec.decode_chunks
    monkeypatch.setattr(Codec, "decode_chunks", lambda self, *x: [sizes.append(len(x[0])), decode(self, *x)][1])
    engine = new_service(slots=3).engine
    clients = [ask(engine, seed=seed) for seed in range(3)]
    engine.start()
    assert all(client.done.wait(30) for client in clients)
    engine.stop()
    assert max(sizes) == 3 and sum(sizes) / len(sizes) > 2


def test_ssml_sounds_like_its_turns(engine: Engine, voice: Voice) -> None:
    ssml = (
        '<speak>Hello. How <break time="200ms"/> are you<prosody rate="fast">world</prosody>'
        '<voice name="tiny">end</voice></speak>'
    )
    alone = stream_turns(voice, read_ssml(ssml).turns, seed=3, speed=0.9)
    wave = torch.cat(list(alone), dim=-1)
    assert torch.allclose(ask(engine, ssml, seed=3, speed=0.9).wave(), wave, atol=1e-5)
    for bad in ("<speak>a <b</speak>", '<speak><voice name="bob">hi</voice></speak>', "<speak> ! </speak>"):
        with pytest.raises(SoundloomError):
            engine.open(Order(bad), Client())


def test_text_in_pieces_sounds_like_the_text_as_a_whole(engine: Engine, voice: Voice) -> None:
    client = Client()
    speaking = engine.open(Order("", seed=3), client, open_text=True)
    engine.submit(speaking)
    for piece in ("Hello w", "orld", ". How", " are", " you?"):
        if speaking.add_text(piece):
            engine.more(speaking)
    assert client.sounded.wait(30), "the first sentence is spoken before the second has ended"
    speaking.close()
    engine.more(speaking)
    assert torch.allclose(client.wave(), voice.speak(TEXT, seed=3, retries=0).waveform, atol=1e-5)


def test_open_text_that_holds_nothing_to_speak_ends_at_once(engine: Engine) -> None:
    client = Client()
    speaking = engine.open(Order("", seed=3), client, open_text=True)
    engine.submit(speaking)
    speaking.add_text(" ... ")
    speaking.close()
    engine.more(speaking)
    assert client.done.wait(10) and isinstance(client.events[-1], Finished)


def test_a_full_queue_refuses_and_a_client_that_leaves_frees_its_place(engine: Engine) -> None:
    long = " ".join([TEXT] * 40)
    clients = [ask(engine, long) for _ in range(5)]
    assert clients[0].sounded.wait(30)
    with pytest.raises(Busy, match="waiting"):
        for _ in range(3):
            ask(engine, long)
    for speaking in list(engine._all):
        engine.cancel(speaking)
    assert ask(engine, "Hello.").done.wait(10)
    assert engine.metrics.cancelled >= 5 and engine.active == 0 and engine.waiting == 0


def test_sentences_take_turns_when_others_wait(engine: Engine) -> None:
    long = [ask(engine, " ".join([TEXT] * 20)) for _ in range(2)]
    short = ask(engine, "Hello.")
    assert short.done.wait(30)
    assert not any(client.done.is_set() for client in long)
    for speaking in list(engine._all):
        engine.cancel(speaking)


def test_a_long_new_request_lets_the_others_step_between_its_pieces(
    new_service: Callable[..., Service], voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a piece of reading may take is counted in positions and in steps between pieces: no clock, so no luck.
    monkeypatch.setattr("pipelines.server.engine.PREFILL_SECONDS", 0.0)
    engine = new_service(slots=3).engine
    done: list[str] = []
    read: list[int] = []
    step, start, run = engine.batch.step, engine.batch.start, PackedTransformer.__call__

    def recorded_start(row: Row) -> Iterator[None]:
        for _ in start(row):
            done.append("piece" if engine.batch.rows else "alone")
            yield
        done.append("piece" if engine.batch.rows else "alone")

    def recorded_run(self: Any, x: Tensor, *others: Any) -> Tensor:
        read.append(x.shape[1])
        return run(self, x, *others)

    monkeypatch.setattr(engine.batch, "step", lambda: [done.append("step"), step()][1])
    monkeypatch.setattr(engine.batch, "start", recorded_start)
    monkeypatch.setattr(PackedTransformer, "__call__", recorded_run)
    engine.start()
    running = ask(engine, " ".join([TEXT] * 40))
    assert running.sounded.wait(30)
    del done[:], read[:]
    prompt = 0.1 * torch.randn(1, round(15 * voice.sample_rate), generator=torch.Generator().manual_seed(0))
    long = ask(engine, "Hello.", prompt=prompt, prompt_text="Hello world.")
    assert long.sounded.wait(30)
    for speaking in list(engine._all):
        engine.cancel(speaking)
    engine.stop()
    frames = round(15 * voice.frame_rate)
    assert done.count("piece") + done.count("alone") > frames / PREFILL_STEPS and "piece" in done
    assert not any(pair == ("piece", "piece") for pair in itertools.pairwise(done)), "the others get a step between"
    assert max(read) <= PREFILL_STEPS + 1


def test_a_request_that_takes_too_long_is_ended(new_service: Callable[..., Service]) -> None:
    engine = new_service(slots=1).engine
    engine.start()
    client = Client()
    speaking = engine.open(Order(" ".join([TEXT] * 40)), client)
    speaking.deadline = time.monotonic() + 0.2
    engine.submit(speaking)
    assert client.done.wait(30)
    last = client.events[-1]
    assert isinstance(last, Failed) and last.code == "timeout"
    assert ask(engine, "Hello.").done.wait(30)
    engine.stop()


def test_what_fails_in_one_request_leaves_the_others_alone(
    engine: Engine, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Client()
    speaking = engine.open(Order(TEXT), bad)
    monkeypatch.setattr(speaking, "take", lambda *_: 1 / 0)
    engine.submit(speaking)
    good = ask(engine, seed=1)
    assert bad.done.wait(30) and isinstance(bad.events[-1], Failed) and bad.events[-1].code == "internal"
    assert torch.allclose(good.wave(), voice.speak(TEXT, seed=1, retries=0).waveform, atol=1e-5)


def test_stopping_ends_what_is_running(new_service: Callable[..., Service]) -> None:
    engine = new_service(slots=1).engine
    engine.start()
    client = ask(engine, " ".join([TEXT] * 40))
    assert client.sounded.wait(30)
    engine.stop()
    assert client.done.is_set() and isinstance(client.events[-1], Failed)


def test_events_are_in_order(engine: Engine) -> None:
    client = ask(engine)
    assert client.done.wait(30)
    starts = [event for event in client.events if isinstance(event, SentenceStarted)]
    assert [start.text for start in starts] == ["Hello world.", "How are you?"] and starts[0].start == 0
    before = client.events[: client.events.index(starts[1])]
    assert starts[1].start == sum(event.wave.shape[-1] for event in before if isinstance(event, Sound))


def test_bad_orders_fail_before_anything_runs(engine: Engine) -> None:
    for order in (Order("", seed=1), Order("..."), Order(TEXT, speaker="nobody"), Order(TEXT, levels=99)):
        with pytest.raises(SoundloomError):
            engine.open(order, Client())
    with pytest.raises(SoundloomError, match="slots"):
        EngineSettings(slots=0)
