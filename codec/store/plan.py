"""The plan of a token store: which utterances, from which files, in which shard."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codec.audio.files import audio_info
from codec.common.checked import parse_json
from codec.common.files import check_file, read_bytes, sha256_file
from codec.errors import SoundloomError, quoted
from codec.store.plan_file import HASH_DIGITS, Settings, Utterance, plan_paths, read_plan, write_plan
from codec.store.reader import ShardRecord, StoreFacts, StoreReader, shard_paths
from codec.store.upkeep import has_shards

__all__ = ["Fetch", "Plan", "Settings", "Utterance", "describe_unusable", "load_plans", "make_plan", "open_file"]

_MAX_SHARD_CODES = 1 << 28  # a shard is put together in memory: at most 512 MiB of codes
_SHARD_SECONDS = 3600
_FEW_SHARDS = 64  # up to this many may be shorter than an hour, so that a small corpus has work for many workers
_MAX_SHARDS = 4096

#: opens an utterance's source as a file for as long as the block runs
Fetch = Callable[[Utterance], AbstractContextManager[Path]]


@dataclass(frozen=True)
class Plan:
    """What a run does, the same for every process of it; written once to ``plan.json`` and ``plan.json.zst``.

    ``files``: the names of these two with their sha256.
    """

    store: Path
    number: int
    files: dict[str, str]
    facts: StoreFacts
    settings: Settings
    first_shard: int
    num_shards: int
    utterances: tuple[Utterance, ...]

    @classmethod
    def read(cls, store: Path, number: int) -> Plan:
        """Read a store's plan ``number``; `SoundloomError` where it is absent or damaged."""
        record = read_plan(store, number)
        shards = (record.first_shard, record.num_shards)
        return cls(store, number, record.files, record.facts, record.settings, *shards, record.utterances)

    @property
    def file(self) -> str:
        """Return the name of its header's file."""
        return plan_paths(self.store, self.number)[0].name

    @property
    def sha256(self) -> str:
        """Return the header's sha256, which covers that of the utterances."""
        return self.files[self.file]

    @property
    def shards(self) -> range:
        """Return the numbers of its shards."""
        return range(self.first_shard, self.first_shard + self.num_shards)

    @property
    def seconds(self) -> float:
        """Estimate the audio's length from the headers."""
        return sum(item.seconds for item in self.utterances)

    def shard(self, index: int) -> tuple[Utterance, ...]:
        """Return the utterances of shard ``index``: consecutive ones; shards differ by one utterance at most."""
        position = index - self.first_shard
        if not 0 <= position < self.num_shards:
            raise SoundloomError(f"{self.store}: shard {index} is not in {self.file}, which has {self.shards}")
        count = len(self.utterances)
        return self.utterances[count * position // self.num_shards : count * (position + 1) // self.num_shards]

    def is_done(self, index: int) -> bool:
        """Return whether a shard is committed and its files have the sizes that its record states."""
        data_path, record_path, rejects_path = shard_paths(self.store, index)
        try:
            record = ShardRecord.parse(parse_json(read_bytes(record_path), str(record_path)), str(record_path))
            return (check_file(data_path), check_file(rejects_path)) == (record.bytes, record.rejects_bytes)
        except SoundloomError:
            return False  # lost or damaged: whoever finds it makes the same bytes again

    def missing(self) -> list[int]:
        """List the shards that are not committed."""
        return [index for index in self.shards if not self.is_done(index)]


def make_plan(
    store: str | Path,
    utterances: Callable[[], Iterable[Utterance]],
    facts: StoreFacts,
    settings: Settings,
    num_shards: int | None = None,
    fetch: Fetch | None = None,
    append: bool = False,
) -> Plan:
    """Hash every source and write the plan, or take the plan that is there: then the run resumes where it stopped.

    ``utterances`` is called only where a plan must be made. ``num_shards`` follows from the audio's length unless
    given. With ``append`` the utterances that the store does not have yet become a further plan; those rejected
    before are tried again.

    Raises:
        SoundloomError: the store belongs to another corpus or codec, or there is no audio.
    """
    store = Path(store)
    plans = load_plans(store)
    for plan in plans:
        plan.facts.require(facts, str(store))
    unfinished = [plan for plan in plans if plan.missing()]
    same = [plan for plan in unfinished or plans if plan.settings == settings]
    if same and (unfinished or not append):
        return same[-1]
    if not plans and has_shards(store):
        raise SoundloomError(
            f"{store}: has shards, but their plan.json is gone; put it back, or make the store anew (--refresh)"
        )
    if unfinished:
        raise SoundloomError(
            f"{store}: another run is unfinished{_difference(unfinished[0], settings)}; finish it first"
        )
    if plans and not append:
        raise SoundloomError(f"{store}: holds another corpus{_difference(plans[-1], settings)}; --append adds to it")
    items = _mark_duplicates(_hash_all(utterances(), settings, fetch))
    if plans:
        items = _only_new(items, plans)
        if not items:
            return plans[-1]
    if not items:
        raise SoundloomError(f"{settings.corpus}: no audio found; expected audio files, a manifest or a data set")
    first = plans[-1].shards.stop if plans else 0
    count = _count_shards(items, facts) if num_shards is None else max(1, min(num_shards, len(items)))
    write_plan(store, len(plans), facts, settings, range(first, first + count), items)
    return Plan.read(store, len(plans))


def load_plans(store: str | Path) -> list[Plan]:
    """Read a store's plans in order; an empty list where there is none.

    Raises:
        SoundloomError: a plan is damaged, or its shards do not follow those of the plan before.
    """
    store = Path(store)
    plans: list[Plan] = []
    while plan_paths(store, len(plans))[0].is_file():
        plan = Plan.read(store, len(plans))
        if plan.first_shard != (plans[-1].shards.stop if plans else 0):
            raise SoundloomError(
                f"{store / plan.file}: its shards begin at {plan.first_shard}, not after those before it"
            )
        plans.append(plan)
    return plans


def open_file(root: str) -> Fetch:
    """Return the usual `Fetch`: paths are relative to ``root`` (absolute ones stay)."""

    @contextmanager
    def fetch(item: Utterance) -> Iterator[Path]:
        yield Path(root) / item.path

    return fetch


def describe_unusable(error: OSError | ValueError) -> str:
    """Return why a file cannot be used, or "" where the disk and not the file is at fault (an I/O error)."""
    if isinstance(error, ValueError):
        return "not a file name"
    bad = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
    return (error.strerror or str(error)).lower() if error.errno in (*bad, errno.EINVAL) else ""


def _hash_all(items: Iterable[Utterance], settings: Settings, fetch: Fetch | None) -> list[Utterance]:
    fetch = fetch or open_file(settings.root)
    known: dict[str, dict[str, Any]] = {}  # a file with many segments is hashed once
    hashed = []
    for item in items:
        facts = known.get(item.path) if item.row < 0 else None
        if item.problem:
            facts = {}
        elif facts is None:
            facts = _hash_source(item, fetch)
            if item.row < 0:
                known[item.path] = facts
        length = item.duration or max(0.0, facts.get("seconds", 0.0) - item.start)
        hashed.append(replace(item, **{**facts, "seconds": round(length, 3)}))
    return hashed


def _hash_source(item: Utterance, fetch: Fetch) -> dict[str, Any]:
    try:
        with fetch(item) as path:
            size = path.stat().st_size
            digest = sha256_file(path)
            try:
                # A header may lie; nobody encodes audio that is worth keeping at less than 500 bytes a second.
                seconds = min(audio_info(path).duration, size / 500)
            except SoundloomError:
                seconds = 0.0  # its shard will find the same and write the reason into the rejects
    except (OSError, ValueError) as error:
        problem = describe_unusable(error)
        if not problem:
            raise SoundloomError(f"{item.source}: cannot be read ({error}); run again when the disk is well") from error
        return {"problem": problem}
    return {"size": size, "sha256": digest[:HASH_DIGITS], "seconds": seconds}


def _mark_duplicates(items: list[Utterance]) -> list[Utterance]:
    ids = {item.id for item in items}
    seen: set[str] = set()
    marked = []
    for item in items:
        # A long file's pieces are called id#000, id#001 …; no other utterance may have such a name.
        if not item.problem and (item.id in seen or item.id.rpartition("#")[0] in ids):
            marked.append(replace(item, problem=f"its id {item.id!r} is taken by another utterance"))
        else:
            marked.append(item)
        seen.add(item.id)
    return marked


def _only_new(items: list[Utterance], plans: list[Plan]) -> list[Utterance]:
    reader = StoreReader(plans[0].store)
    there = {reader.id(index) for index in range(len(reader))}
    digests = {item.id: item.sha256[:HASH_DIGITS] for plan in plans for item in plan.utterances if not item.problem}
    texts = {item.id: item.text for plan in plans for item in plan.utterances if not item.problem}
    new = []
    for item in items:
        if item.id not in there and f"{item.id}#000" not in there:
            new.append(item)
        elif item.id in texts and texts[item.id] != item.text:
            raise SoundloomError(
                f"{item.source}: the store has id {quoted(item.id)} with another text; --refresh makes it anew"
            )
        elif item.sha256 and digests.get(item.id, item.sha256) != item.sha256:
            raise SoundloomError(
                f"{item.source}: the store has id {item.id!r} with other audio; give it another id (or an id_prefix)"
            )
    return new


def _count_shards(items: list[Utterance], facts: StoreFacts) -> int:
    """Count shards of a quarter of an hour until there are 64, then of up to an hour until there are 4096."""
    seconds = sum(item.seconds for item in items)
    fewest = math.ceil(seconds * facts.frame_rate * facts.num_levels / _MAX_SHARD_CODES)
    hours = math.ceil(seconds / _SHARD_SECONDS)
    count = min(_MAX_SHARDS, max(hours, min(_FEW_SHARDS, math.ceil(seconds * 4 / _SHARD_SECONDS))))
    return max(1, min(len(items), max(fewest, count)))


def _difference(plan: Plan, settings: Settings) -> str:
    for key, value in vars(plan.settings).items():
        if vars(settings)[key] != value:
            return f" (its {key} is {value!r}, now {vars(settings)[key]!r})"
    return ""
