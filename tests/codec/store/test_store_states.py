"""A token store as a state machine: write, append, refresh, lose, swap, reopen; it is whole or says that it is not."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_helpers import FakeCodec, tokenize, write_corpus

from codec.errors import SoundloomError
from codec.store.reader import StoreReader, shard_paths, verify_store


class Store(RuleBasedStateMachine):
    """A corpus of short sounds and its store; ``texts`` is what a whole store must hold, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="store-"))
        self.store = self.place / "store"
        self.codec = FakeCodec()

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    @initialize(count=st.integers(2, 5), shards=st.integers(1, 3))
    def begin(self, count: int, shards: int) -> None:
        write_corpus(self.place / "corpus", 9, seconds=0.15)
        self.manifest = self.place / "corpus" / "manifest.jsonl"
        self.lines = [json.loads(line) for line in self.manifest.read_text().splitlines()]
        self.unused = self.lines[count:]
        self.lines = self.lines[:count]
        self.write_manifest()
        self.changed, self.damaged = False, False
        assert self.run("--shards", str(shards)) == 0
        self.stored = [line["text"] for line in self.lines]

    def write_manifest(self) -> None:
        self.manifest.write_text("".join(json.dumps(line) + "\n" for line in self.lines))

    def run(self, *options: str) -> int:
        return tokenize(self.place / "corpus", self.store, *options)

    @precondition(lambda self: self.unused and not self.changed)
    @rule()
    def append(self) -> None:
        self.lines.append(self.unused.pop(0))
        self.write_manifest()
        if self.damaged:  # an unfinished store is finished first, as it was planned
            assert self.run() == 0
        assert self.run() == 2  # new utterances are an error until one says what to do
        assert self.run("--append") == 0
        self.damaged = False
        self.stored.append(self.lines[-1]["text"])

    @rule(place=st.integers(0, 8), text=st.sampled_from(["another", "third é"]))
    def change_a_text(self, place: int, text: str) -> None:
        self.lines[place % len(self.lines)]["text"] = text
        self.write_manifest()
        self.changed = [line["text"] for line in self.lines] != self.stored

    @rule()
    def again(self) -> None:
        assert self.run() == (2 if self.changed else 0)
        self.damaged = self.damaged and self.changed

    @precondition(lambda self: self.changed)
    @rule()
    def refresh(self) -> None:
        assert self.run("--refresh") == 0
        self.stored = [line["text"] for line in self.lines]
        self.changed = self.damaged = False

    @precondition(lambda self: not self.damaged)
    @rule(part=st.integers(0, 1), place=st.integers(0, 9))
    def lose(self, part: int, place: int) -> None:
        paths = sorted(self.store.glob("data-*.arrow" if part == 0 else "data-*.json"))
        paths[place % len(paths)].unlink()
        self.damaged = True

    @precondition(lambda self: not self.damaged and len(list(self.store.glob("data-*.arrow"))) > 1)
    @rule()
    def swap(self) -> None:
        first, second = (shard_paths(self.store, i)[0] for i in (0, 1))
        one, two = first.read_bytes(), second.read_bytes()
        first.write_bytes(two)
        second.write_bytes(one)
        self.damaged = one != two

    @precondition(lambda self: not self.damaged)
    @rule(place=st.integers(0, 10**6))
    def flip(self, place: int) -> None:
        path = shard_paths(self.store, 0)[0]
        data = bytearray(path.read_bytes())
        data[place % len(data)] ^= 16
        path.write_bytes(data)
        assert verify_store(self.store) != []
        path.unlink()  # what verify reports is removed, and the same command makes it again
        self.damaged = True

    @invariant()
    def whole_or_reported(self) -> None:
        if not hasattr(self, "stored"):
            return
        if self.damaged:
            assert verify_store(self.store) != []
            return
        assert verify_store(self.store) == []
        rows = list(StoreReader(self.store))
        assert [row.text for row in rows] == self.stored
        assert len({row.id for row in rows}) == len(rows)
        assert all(int(row.codes.min()) >= 0 and int(row.codes.max()) < 1024 for row in rows)
        with pytest.raises(SoundloomError, match="levels"):
            StoreReader(self.store, 5)


class StoreForLong(Store):
    """The same, for the long run."""


QUIET = [HealthCheck.too_slow]
TestStore = Store.TestCase
TestStore.settings = settings(max_examples=6, stateful_step_count=8, deadline=None, suppress_health_check=QUIET)
TestStoreLong = pytest.mark.slow(StoreForLong.TestCase)
TestStoreLong.settings = settings(max_examples=150, stateful_step_count=25, deadline=None, suppress_health_check=QUIET)
