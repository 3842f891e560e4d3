"""Batches hold every row once an epoch, keep to their budget, and follow from a number alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_store import FACTS, grid, write_rows, write_store

from codec.errors import SoundloomError
from codec.store.reader import StoreReader
from lm.data import texts as later_texts
from lm.data.batch_plan import BatchPlan
from lm.data.dataset import Example, GridDataset, collate, prefetch
from lm.text.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StoreReader:
    return StoreReader(write_store(tmp_path_factory.mktemp("data") / "store", 40))


@pytest.fixture(scope="module")
def tokenizer(store: StoreReader, tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    texts = [store.text(row) for row in range(len(store))]
    return TextTokenizer.train(texts, tmp_path_factory.mktemp("text"))


def test_a_batch_is_the_rows_with_padding(store: StoreReader, tokenizer: TextTokenizer) -> None:
    dataset = GridDataset(store, tokenizer)
    batch = dataset.batch([3, 0])
    assert batch.codes.shape == (2, 3, int(batch.lengths.max())) and batch.codes.dtype == torch.long
    for i, row in enumerate([3, 0]):
        length, text_length = int(batch.lengths[i]), int(batch.text_lengths[i])
        assert batch.ids[i] == store[row].id
        assert torch.equal(batch.codes[i, :, :length], store[row].codes.long())
        assert not batch.codes[i, :, length:].any()
        assert batch.text_ids[i, :text_length].tolist() == tokenizer.encode(store[row].text)
        assert (batch.text_ids[i, text_length:] == tokenizer.pad_id).all()


def test_no_text_at_all_is_a_legal_batch() -> None:
    batch = collate([Example("a", [], torch.ones(2, 3)), Example("b", [], torch.ones(2, 1))], pad_id=0)
    assert batch.text_ids.shape == (2, 0) and batch.text_lengths.tolist() == [0, 0] and batch.lengths.tolist() == [3, 1]


def test_pairs_join_two_rows_of_a_speaker(store: StoreReader, tokenizer: TextTokenizer) -> None:
    single = GridDataset(store, tokenizer)
    limit = int(np.sort(single.lengths)[-8:].sum() // 4)
    dataset = GridDataset(store, tokenizer, max_frames=limit, join=1.5, seed=3)
    rows, pairs = len(dataset.rows), len(dataset) - len(dataset.rows)
    assert pairs == round(1.5 * rows) and dataset.pace == GridDataset(store, tokenizer, max_frames=limit).pace
    assert max(dataset.lengths) <= limit and len({tuple(pair) for pair in dataset.pairs}) > rows
    index = rows + 5
    first, second = (single.example(int(dataset.rows[place])) for place in dataset.pairs[5])
    example = dataset.example(index)
    assert example.id == f"{first.id}+{second.id}" and example.text_ids == first.text_ids + second.text_ids
    assert torch.equal(example.codes, torch.cat([first.codes, second.codes], dim=1))
    assert (example.first_units, example.first_frames) == (len(first.text_ids), first.codes.shape[1])
    assert (dataset.lengths[index], dataset.text_lengths[index]) == (example.codes.shape[1], len(example.text_ids))
    batch = dataset.batch([0, index])
    assert batch.span is not None and batch.span.units.tolist() == [0, example.first_units]
    assert dataset.batch([0, 1]).span is None
    again = GridDataset(store, tokenizer, max_frames=limit, join=1.5, seed=3)
    assert np.array_equal(again.pairs, dataset.pairs)
    assert not np.array_equal(GridDataset(store, tokenizer, max_frames=limit, join=1.5, seed=4).pairs, dataset.pairs)


def test_other_speakers_only_follow_their_own_prompt(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    speakers = ["heart", "bella", "adam", "bella"] * 6
    texts = [" ".join(["seven", *["ships"] * (1 + i % 5)]) for i in range(24)]
    rows = [(f"u{i}", text, grid(text)) for i, text in enumerate(texts)]
    store = StoreReader(write_rows(tmp_path, rows, speakers=speakers))
    dataset = GridDataset(store, tokenizer, join=0.5, speakers=["heart"], prompted=2.0)
    by_id = {f"u{i}": (speaker, grid(texts[i]).shape[0]) for i, speaker in enumerate(speakers)}
    assert len(dataset) == 6 + 3 + 36
    for index in range(len(dataset)):
        example = dataset.example(index)
        names = {by_id[part][0] for part in example.id.split("+")}
        assert len(names) == 1 and (("+" in example.id) or names == {"heart"})
        # The first of a pair is a prompt, and not scored, exactly where the speaker is not the model's own.
        assert example.given == (names != {"heart"})
        assert example.prompt_frames == (by_id[example.id.split("+")[0]][1] if example.given else 0)
        assert dataset.scored[index] == example.codes.shape[1] - example.prompt_frames
    plan = BatchPlan(dataset.lengths, dataset.text_lengths, 2000, 0, dataset.scored)
    batch = dataset.batch(plan.rows(0))
    assert batch.prompt_frames is not None and plan.frames(0) == int(batch.lengths.sum() - batch.prompt_frames.sum())
    with pytest.raises(SoundloomError, match="no speaker nobody; it has adam, bella, heart"):
        GridDataset(store, tokenizer, speakers=["nobody"])


def test_levels_and_pace_come_from_the_store(store: StoreReader, tokenizer: TextTokenizer) -> None:
    dataset = GridDataset(StoreReader(store.path, levels=2), tokenizer)
    assert dataset.batch([0]).codes.shape[1] == 2
    units = [len(tokenizer.encode(store.text(row))) for row in range(len(store))]
    assert dataset.text_lengths.tolist() == units
    slope, start = dataset.pace
    assert slope * sum(units) + start * len(units) == pytest.approx(float(store.num_frames.sum()))


def test_the_pace_is_the_line_through_frames_over_units(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    texts = [" ".join(["seven"] * n) for n in range(1, 16)]
    units = [len(tokenizer.encode(text)) for text in texts]
    rows = [
        (str(i), text, np.zeros((20 + 3 * n, 3), np.int16))
        for i, (text, n) in enumerate(zip(texts, units, strict=True))
    ]
    dataset = GridDataset(StoreReader(write_rows(tmp_path, rows)), tokenizer)
    assert dataset.pace == (pytest.approx(3.0), pytest.approx(20.0))


def test_rows_that_cannot_be_used_are_named(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    texts = [("good", "red ships."), ("silent", ""), ("odd", "???"), ("long", "seven " * 40)]
    rows = [(identity, text, grid(text or "no text")) for identity, text in texts]
    dataset = GridDataset(StoreReader(write_rows(tmp_path, rows)), tokenizer, max_frames=100)
    assert [dataset.example(i).id for i in range(len(dataset))] == ["good", "silent"]
    assert dataset.text_lengths[1] == 0
    assert set(dataset.dropped) == {"odd", "long"} and "max_frames 100" in dataset.dropped["long"]
    with pytest.raises(SoundloomError, match="no row can be used"):
        GridDataset(StoreReader(tmp_path), tokenizer, max_frames=3)


def test_spelling_is_drawn_from_seed_number_and_id(store: StoreReader, tokenizer: TextTokenizer) -> None:
    def texts(seed: int, draw: int, probability: float = 0.5) -> list[list[int]]:
        dataset = GridDataset(store, tokenizer, spell_probability=probability, seed=seed)
        return [dataset.example(i, draw).text_ids for i in range(10)]

    assert texts(0, 5) == texts(0, 5)
    assert texts(0, 5) != texts(0, 6) and texts(0, 5) != texts(1, 5)
    assert texts(0, 5, 0.0) == [tokenizer.encode(store.text(i)) for i in range(10)]


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 300), st.integers(0, 80)), min_size=1, max_size=120),
    budget=st.integers(380, 3000),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 1000),
)
def test_every_row_once_an_epoch_and_within_the_budget(
    lengths: list[tuple[int, int]], budget: int, seed: int, epoch: int
) -> None:
    frames, units = (np.array(column) for column in zip(*lengths, strict=True))
    plan = BatchPlan(frames, units, budget, seed)
    numbers = range(epoch * plan.batches_per_epoch, (epoch + 1) * plan.batches_per_epoch)
    batches = [plan.rows(number) for number in numbers]
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for number, rows in zip(numbers, batches, strict=True):
        assert len(rows) and len(rows) * (frames[rows].max() + units[rows].max()) <= budget
        assert plan.frames(number) == frames[rows].sum()


def test_the_order_is_a_function_of_seed_and_number() -> None:
    rng = np.random.default_rng(0)
    frames, units = rng.integers(20, 200, 300), rng.integers(5, 50, 300)
    plan, again = BatchPlan(frames, units, 2000, 7), BatchPlan(frames, units, 2000, 7)
    epoch = plan.batches_per_epoch
    forwards = [plan.rows(number).tolist() for number in range(3 * epoch)]
    assert [again.rows(number).tolist() for number in reversed(range(3 * epoch))] == forwards[::-1]
    other = BatchPlan(frames, units, 2000, 8)
    assert forwards[:epoch] != forwards[epoch : 2 * epoch] != [other.rows(i).tolist() for i in range(epoch)]
    # Fixed here so that another version of numpy, or a change of ours, cannot silently reorder running trainings.
    small = BatchPlan(np.full(8, 10), np.full(8, 5), 30, 1)
    assert [small.rows(number).tolist() for number in range(8)] == ORDER


ORDER = [[3, 1], [6, 4], [2, 5], [0, 7], [0, 6], [3, 4], [7, 2], [5, 1]]


def test_padding_stays_small() -> None:
    rng = np.random.default_rng(1)
    frames = rng.integers(50, 700, 3000)
    plan = BatchPlan(frames, frames // 4, 8000, 0)
    padded = sum(len(rows) * frames[rows].max() for rows in map(plan.rows, range(plan.batches_per_epoch)))
    assert frames.sum() / padded > 0.93


def test_a_row_over_the_budget_is_refused() -> None:
    with pytest.raises(SoundloomError, match=r"frames_per_batch is 100.*90 frames and 20 text units"):
        BatchPlan(np.array([10, 90]), np.array([5, 20]), 100, 0)
    with pytest.raises(SoundloomError, match="no rows"):
        BatchPlan(np.array([]), np.array([]), 100, 0)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_prefetch_keeps_the_order(store: StoreReader, tokenizer: TextTokenizer, threads: int) -> None:
    dataset = GridDataset(store, tokenizer, spell_probability=0.3)
    plan = BatchPlan(dataset.lengths, dataset.text_lengths, 500, 0)
    batches = list(prefetch(dataset, plan, range(3, 20, 2), threads))
    assert len(batches) == 9
    for number, batch in zip(range(3, 20, 2), batches, strict=True):
        expected = dataset.batch(plan.rows(number), number)
        assert batch.ids == expected.ids and torch.equal(batch.text_ids, expected.text_ids)


def test_prefetch_hands_errors_on_and_can_be_left(store: StoreReader, tokenizer: TextTokenizer) -> None:
    dataset = GridDataset(store, tokenizer)
    plan = BatchPlan(dataset.lengths, dataset.text_lengths, 500, 0)
    batches = prefetch(dataset, plan, iter(range(10**9)), 2)
    next(batches)
    batches.close()
    dataset._texts = None  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        next(prefetch(dataset, plan, range(3), 1))


def test_the_facts_of_the_helper_store(store: StoreReader) -> None:
    assert (store.num_levels, store.codebook_size, store.frame_rate) == (FACTS.num_levels, 16, 20.0)


def test_a_large_store_is_encoded_when_a_batch_is_made(
    store: StoreReader, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [(f"u{i}", store.text(i), grid(store.text(i))) for i in range(len(store))]
    rows += [("odd", "???", grid("odd")), ("silent", " ", grid("silent")), ("long", "seven " * 9, grid("seven " * 60))]
    reader = StoreReader(write_rows(tmp_path, rows))
    whole = GridDataset(reader, tokenizer, max_frames=600)
    encode, calls = tokenizer.encode, []
    monkeypatch.setattr(later_texts, "MANY_ROWS", 10)
    monkeypatch.setattr(later_texts, "_SAMPLE", 5)
    monkeypatch.setattr(tokenizer, "encode", lambda text, *rest: calls.append(text) or encode(text, *rest))
    later = GridDataset(reader, tokenizer, max_frames=600)
    assert 3 < len(calls) <= 5  # the sample, no more
    assert set(later.dropped) == {"long"} and len(later) == len(whole) + 1
    for index, row in enumerate(whole.rows.tolist()):
        place = later.rows.tolist().index(row)
        ours, theirs = later.example(place), whole.example(index)
        assert (ours.id, ours.text_ids) == (theirs.id, theirs.text_ids) and torch.equal(ours.codes, theirs.codes)
    assert later.example(later.rows.tolist().index(len(store))).text_ids == []  # cannot be spoken: audio without text
    share = later.text_lengths[: len(store)] / whole.text_lengths[: len(store)]
    assert 0.9 < np.median(share) < 1.4 and later.pace[0] == pytest.approx(whole.pace[0], rel=0.3)
    plan = BatchPlan(later.lengths, later.text_lengths, 700, 0)
    again = GridDataset(reader, tokenizer, max_frames=600)
    assert later.batch(plan.rows(3), 3).ids == again.batch(plan.rows(3), 3).ids


def test_speakers_have_numbers_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = ["zoe", "", "éva", "zoe", "adam"]
    rows = [(str(i), "red", grid("red")) for i in range(len(names))]
    numbers, found = StoreReader(write_rows(tmp_path, rows, speakers=names)).speakers()
    assert found == sorted(set(names)) and [found[number] for number in numbers] == names
