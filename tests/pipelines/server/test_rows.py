"""Sentences that share a running batch get the codes that they get alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from lm.generation.generate import Frame, stream
from lm.generation.request import GenerateConfig, Request, make_request
from pipelines.server.lanes import Lanes, rooms
from pipelines.server.rows import Row, RowBatch
from pipelines.server.solo import SoloBatch
from pipelines.voice.voice import Voice


def request(voice: Voice, config: GenerateConfig, seed: int, prompt_frames: int, vectors: Tensor | None) -> Request:
    generator = torch.Generator().manual_seed(seed)
    model = voice.lm.model.config
    ids = torch.randint(3, model.text_vocab_size, (1, 4 + 3 * seed), generator=generator)
    prompt = torch.randint(16, (1, model.num_levels, prompt_frames), generator=generator) if prompt_frames else None
    said = torch.tensor([2]) if prompt_frames else None
    return make_request(model, ids, None, prompt, None, [seed], config, said, vectors)


def run(batch: Any, rows: list[Row], every: int) -> dict[int, list[Frame]]:
    """Let a row join every few steps, and step until all are done: frames by owner."""
    frames: dict[int, list[Frame]] = {row.owner: [] for row in rows}
    waiting, step = list(rows), 0
    while waiting or batch.rows:
        if waiting and step % every == 0 and len(batch.rows) < 3:
            row = waiting.pop(0)
            for _ in batch.start(row):
                pass
            frames[row.owner] += row.taken()
        for row in batch.step() if batch.rows else []:
            frames[row.owner] += row.taken()
        step += 1
    return frames


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("latents", [False, True])
@pytest.mark.parametrize("lanes", [1, 2])
def test_rows_that_join_and_leave_equal_streams(
    voice: Voice, guidance: float, latents: bool, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.server.lanes.FILLED", 1)
    limits = {"cap_factor": 1.0, "cap_seconds": 0.4, "floor_factor": 0.1, "loop_seconds": 0.2}
    config = GenerateConfig(temperature=1.5, guidance=guidance, sampled_levels=1 if latents else None, **limits)
    vectors = voice.codec.quantizer.vectors(voice.num_levels) if latents else None
    model = voice.lm.model
    requests = [request(voice, config, seed, prompt, vectors) for seed, prompt in enumerate([0, 3, 0, 120, 1])]
    batch = Lanes([RowBatch(model, config, room, vectors) for room in rooms(3, lanes)])
    assert len(batch.lanes) == lanes
    frames = run(batch, [Row(one, number, voice.num_levels) for number, one in enumerate(requests)], every=5)
    batch.close()
    for number, one in enumerate(requests):
        alone = stream(model, one)
        expected = list(alone)
        assert torch.equal(torch.stack([f.codes for f in frames[number]]), torch.stack([f.codes for f in expected]))
        if latents:
            got, wanted = (
                torch.stack([f.latent for f in fs if f.latent is not None]) for fs in (frames[number], expected)
            )
            assert torch.allclose(got, wanted, atol=1e-5)


def test_a_row_that_leaves_midway_changes_nothing_for_the_others(voice: Voice) -> None:
    config = GenerateConfig(temperature=1.0, guidance=2.0, cap_factor=1.0, cap_seconds=0.4)
    rows = [Row(request(voice, config, seed, 0, None), seed, voice.num_levels) for seed in range(3)]
    batch = RowBatch(voice.lm.model, config, 3)
    frames: dict[int, list[Frame]] = {0: [], 1: [], 2: []}
    for row in rows:
        list(batch.start(row))
    for step in range(1000):
        if step == 7:
            batch.leave(rows[0])
        for row in batch.step() if batch.rows else []:
            frames[row.owner] += row.taken()
    for number in (1, 2):
        frames[number] = rows[number].taken() + frames[number]
        expected = [frame.codes for frame in stream(voice.lm.model, rows[number].request)]
        assert torch.equal(torch.stack([frame.codes for frame in frames[number]]), torch.stack(expected))


def test_the_batch_of_single_streams_gives_the_same(voice: Voice) -> None:
    config = GenerateConfig(temperature=1.0, cap_factor=1.0, cap_seconds=0.4)
    rows = [Row(request(voice, config, seed, 0, None), seed, voice.num_levels) for seed in range(2)]
    frames = run(SoloBatch(voice.lm.model), rows, every=3)
    for row in rows:
        expected = [frame.codes for frame in stream(voice.lm.model, row.request)]
        assert torch.equal(torch.stack([frame.codes for frame in frames[row.owner]]), torch.stack(expected))


def test_lanes_fill_one_after_another_and_step_at_once(voice: Voice) -> None:
    assert rooms(8, 2) == [4, 4] and rooms(9, 2) == [5, 5] and rooms(7, 4) == [7]
    config = GenerateConfig(temperature=1.0, cap_factor=1.0, cap_seconds=0.4)
    batch = Lanes([RowBatch(voice.lm.model, config, room) for room in rooms(8, 2)])
    rows = [Row(request(voice, config, 1, 0, None), number, voice.num_levels) for number in range(6)]
    for row in rows:
        list(batch.start(row))
    assert [len(lane.rows) for lane in batch.lanes] == [4, 2]
    together = threading.Barrier(2, timeout=10)
    steps = [lane.step for lane in batch.lanes]
    for lane, step in zip(batch.lanes, steps, strict=True):
        lane.step = lambda step=step: [together.wait(), step()][1]  # type: ignore[method-assign, misc]
    batch.step()  # a lane that waited for the other would break the barrier
    for row in rows:
        batch.leave(row)
    assert not batch.rows
    batch.close()
