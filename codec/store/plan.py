"""The plan of a token store: which utterances, from which files, in which shard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from codec.common.checked import parse_json
from codec.common.files import check_file, read_bytes
from codec.errors import SoundloomError
from codec.store.known import only_new
from codec.store.measure import Fetch, describe_unusable, measured
from codec.store.plan_file import plan_paths, read_plan, write_plan
from codec.store.plan_parts import Parts
from codec.store.reader import ShardRecord, StoreFacts, shard_paths
from codec.store.spool import Spool
from codec.store.upkeep import has_shards
from codec.store.utterance import Settings, Utterance

__all__ = ["Fetch", "Plan", "Settings", "Utterance", "describe_unusable", "load_plans", "make_plan", "open_file"]

_MAX_SHARD_CODES = 1 << 28  # a shard is put together in memory: at most 512 MiB of codes
_SHARD_SECONDS = 3600
_FEW_SHARDS = 64  # up to this many may be shorter than an hour, so that a small corpus has work for many workers
_MAX_SHARDS = 4096


@dataclass(frozen=True)
class Plan:
    """What a run does, the same for every process of it; written once to ``plan.json`` and ``plan.arrow.zst``.

    It holds no utterances: `shard` reads those of one shard, and iterating over a plan reads shard after shard.
    ``files``: the names of the two files with their sha256.
    """

    store: Path
    number: int
    files: dict[str, str]
    facts: StoreFacts
    settings: Settings
    first_shard: int
    num_shards: int
    num_utterances: int
    parts: Parts

    @classmethod
    def read(cls, store: Path, number: int) -> Plan:
        """Read a store's plan ``number``; `SoundloomError` where it is absent or damaged."""
        record = read_plan(store, number)
        shards = (record.first_shard, record.num_shards)
        return cls(
            store, number, record.files, record.facts, record.settings, *shards, record.num_utterances, record.parts
        )

    def __iter__(self) -> Iterator[Utterance]:
        return (item for position in range(self.num_shards) for item in self.parts.read(position))

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
        """Estimate the audio's length."""
        return sum(self.parts.seconds(position) for position in range(self.num_shards))

    def shard(self, index: int) -> tuple[Utterance, ...]:
        """Read the utterances of shard ``index``: consecutive ones; shards differ by one utterance at most."""
        return self.parts.read(self.position(index))

    def shard_ids(self, index: int) -> list[str]:
        """Read the ids of the utterances of shard ``index``."""
        return self.parts.ids(self.position(index))

    def position(self, index: int) -> int:
        """Return the place of shard ``index`` among the plan's parts; `SoundloomError` where it is another plan's."""
        position = index - self.first_shard
        if not 0 <= position < self.num_shards:
            raise SoundloomError(f"{self.store}: shard {index} is not in {self.file}, which has {self.shards}")
        return position

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


@dataclass(frozen=True)
class Planned:
    """The utterances of several plans, read shard by shard each time that they are iterated over."""

    plans: list[Plan]

    def __iter__(self) -> Iterator[Utterance]:
        return (item for plan in self.plans for item in plan)


def make_plan(
    store: str | Path,
    utterances: Callable[[], Iterable[Utterance]],
    facts: StoreFacts,
    settings: Settings,
    num_shards: int | None = None,
    fetch: Fetch | None = None,
    append: bool = False,
) -> Plan:
    """List every source and write the plan, or take the plan that is there: then the run resumes where it stopped.

    ``utterances`` is called only where a plan must be made. ``num_shards`` follows from the audio's length unless
    given. Sources are neither read nor hashed here (`codec.store.measure`). With ``append`` the utterances that the
    store does not have yet become a further plan; those rejected before are tried again.

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
    items: Iterable[Utterance] = measured(utterances(), settings.root, fetch or open_file(settings.root))
    with closing(Spool(store).fill(only_new(items, plans, settings.root) if plans else items)) as spool:
        if plans and not spool.count:
            return plans[-1]
        if not spool.count:
            raise SoundloomError(f"{settings.corpus}: no audio found; expected audio files, a manifest or a data set")
        first = plans[-1].shards.stop if plans else 0
        count = num_shards or _count_shards(spool.count, spool.seconds, facts)
        shards = range(first, first + max(1, min(count, spool.count)))
        write_plan(store, len(plans), facts, settings, shards, spool.count, spool.batches())
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


def _count_shards(utterances: int, seconds: float, facts: StoreFacts) -> int:
    """Count shards of a quarter of an hour until there are 64, then of up to an hour until there are 4096."""
    fewest = math.ceil(seconds * facts.frame_rate * facts.num_levels / _MAX_SHARD_CODES)
    hours = math.ceil(seconds / _SHARD_SECONDS)
    count = min(_MAX_SHARDS, max(hours, min(_FEW_SHARDS, math.ceil(seconds * 4 / _SHARD_SECONDS))))
    return max(1, min(utterances, max(fewest, count)))


def _difference(plan: Plan, settings: Settings) -> str:
    for key, value in vars(plan.settings).items():
        if vars(settings)[key] != value:
            return f" (its {key} is {value!r}, now {vars(settings)[key]!r})"
    return ""
