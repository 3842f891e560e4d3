"""The plan of a token store: which utterances, from which files, in which shard."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from codec.audio import audio_info
from codec.errors import SoundloomError
from codec.files import write_bytes
from codec.store import StoreFacts, StoreReader, shard_paths
from codec.store_json import field, parse_json, read_bytes, sha256_bytes, sha256_file

FORMAT = "soundloom-plan"
VERSION = 1
_MAX_SHARD_CODES = 1 << 28  # a shard is put together in memory: at most 512 MiB of codes
_MAX_SHARDS = 4096


@dataclass(frozen=True)
class Utterance:
    """One thing to tokenize: a file, or ``duration`` seconds of it from ``start``.

    ``path`` is relative to the plan's root; "" where the source is a row of a data set (``row``).
    ``problem`` says why it cannot be used where that was already seen when planning.
    """

    id: str
    path: str
    text: str = ""
    speaker: str = ""
    language: str = ""
    row: int = -1
    start: float = 0.0
    duration: float = 0.0  # 0 = to the end
    size: int = 0
    sha256: str = ""
    seconds: float = 0.0  # as the header says; an estimate for shards and forecasts
    problem: str = ""

    @property
    def source(self) -> str:
        """Name the source for people."""
        return self.path or f"row {self.row}"

    @classmethod
    def parse(cls, record: Any, name: str) -> Utterance:
        """Read one from JSON, absent fields having their defaults; `SoundloomError` for a wrong one."""
        values = {}
        for spec in fields(cls):
            kind = {"int": int, "float": float, "str": str}[str(spec.type)]
            if isinstance(record, dict) and spec.name not in record and spec.name not in ("id", "path"):
                continue
            values[spec.name] = field(record, spec.name, kind, name)
        if any(not 0 <= values.get(key, 0) < 1e12 for key in ("start", "duration", "size", "seconds")):
            raise SoundloomError(f"{name}: a negative or endless time or size")
        return cls(**values)


#: opens an utterance's source as a file for as long as the block runs
Fetch = Callable[[Utterance], AbstractContextManager[Path]]


@dataclass(frozen=True)
class Settings:
    """What, beside the codec, decides which rows come out of a corpus; equal settings mean the same plan."""

    root: str  # folder that paths are relative to, or the data set's name
    corpus: str
    split: str = ""
    limit: int = 0
    max_seconds: float = 30.0
    min_seconds: float = 0.1
    text_column: str = ""
    audio_column: str = ""
    language: str = ""
    speaker: str = ""

    @classmethod
    def parse(cls, record: Any, name: str) -> Settings:
        """Read the settings from JSON; `SoundloomError` for a missing or mistyped one."""
        kinds = {"int": int, "float": float, "str": str}
        return cls(**{spec.name: field(record, spec.name, kinds[str(spec.type)], name) for spec in fields(cls)})


@dataclass(frozen=True)
class Plan:
    """What a run does, the same for every process of it; written once to ``plan.json``."""

    store: Path
    file: str
    sha256: str
    facts: StoreFacts
    settings: Settings
    first_shard: int
    num_shards: int
    utterances: tuple[Utterance, ...]

    @property
    def shards(self) -> range:
        """Give the numbers of its shards."""
        return range(self.first_shard, self.first_shard + self.num_shards)

    @property
    def seconds(self) -> float:
        """Estimate the audio's length from the headers."""
        return sum(item.seconds for item in self.utterances)

    def shard(self, index: int) -> tuple[Utterance, ...]:
        """Give the utterances of shard ``index``: consecutive ones, shards differing by one at most."""
        position = index - self.first_shard
        if not 0 <= position < self.num_shards:
            raise SoundloomError(f"{self.store}: shard {index} is not in {self.file}, which has {self.shards}")
        count = len(self.utterances)
        return self.utterances[count * position // self.num_shards : count * (position + 1) // self.num_shards]

    def is_done(self, index: int) -> bool:
        """Tell whether a shard is committed."""
        return shard_paths(self.store, index)[1].is_file()

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
    """Hash every source and write the plan, or take the plan that is there: then the run goes on where it stopped.

    ``utterances`` is called only where a plan must be made. ``num_shards`` follows from the audio's length unless
    given. With ``append`` the utterances that the store does not have yet become a further plan; those rejected
    before are tried again.
    Errors: `SoundloomError` where the store belongs to another corpus or codec, or there is no audio.
    """
    store = Path(store)
    plans = load_plans(store)
    for plan in plans:
        plan.facts.require(facts, str(store))
    unfinished = [plan for plan in plans if plan.missing()]
    same = [plan for plan in unfinished or plans if plan.settings == settings]
    if same and (unfinished or not append):
        return same[-1]
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
    file = f"plan-{len(plans)}.json" if plans else "plan.json"
    data = _dump(facts, settings, first, count, items)
    write_bytes(store / file, data)
    return Plan(store, file, sha256_bytes(data), facts, settings, first, count, tuple(items))


def load_plans(store: str | Path) -> list[Plan]:
    """Read a store's plans in order; an empty list where there is none. Errors: `SoundloomError`."""
    store = Path(store)
    plans: list[Plan] = []
    while (store / (file := f"plan-{len(plans)}.json" if plans else "plan.json")).is_file():
        plan = _load(store, file)
        if plan.first_shard != (plans[-1].shards.stop if plans else 0):
            raise SoundloomError(f"{store / file}: its shards begin at {plan.first_shard}, not after those before it")
        plans.append(plan)
    return plans


def open_file(root: str) -> Fetch:
    """Make the usual `Fetch`: paths are relative to ``root`` (absolute ones stay)."""

    @contextmanager
    def fetch(item: Utterance) -> Iterator[Path]:
        yield Path(root) / item.path

    return fetch


def describe_unusable(error: OSError | ValueError) -> str:
    """Say why a file cannot be used, or "" where the disk and not the file is at fault (an I/O error, say)."""
    if isinstance(error, ValueError):
        return "not a file name"
    bad = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
    return (error.strerror or str(error)).lower() if error.errno in (*bad, errno.EINVAL) else ""


def _hash_all(items: Iterable[Utterance], settings: Settings, fetch: Fetch | None) -> list[Utterance]:
    fetch = fetch or open_file(settings.root)
    known: dict[str, dict[str, Any]] = {}  # a file with many segments is hashed once
    hashed = []
    for item in items:
        facts = known.get(item.path) if item.path else None
        if item.problem:
            facts = {}
        elif facts is None:
            facts = _hash_source(item, fetch)
            if item.path:
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
    return {"size": size, "sha256": digest, "seconds": seconds}


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
    digests = {item.id: item.sha256 for plan in plans for item in plan.utterances if not item.problem}
    new = []
    for item in items:
        if item.id not in there and f"{item.id}#000" not in there:
            new.append(item)
        elif item.sha256 and digests.get(item.id, item.sha256) != item.sha256:
            raise SoundloomError(f"{item.source}: the store has id {item.id!r} with other audio; give it another id")
    return new


def _count_shards(items: list[Utterance], facts: StoreFacts) -> int:
    """Give a quarter of an hour to a shard until there are `_MAX_SHARDS`, then more."""
    seconds = sum(item.seconds for item in items)
    fewest = math.ceil(seconds * facts.frame_rate * facts.num_levels / _MAX_SHARD_CODES)
    return max(1, min(len(items), max(fewest, min(_MAX_SHARDS, math.ceil(seconds / 900)))))


def _difference(plan: Plan, settings: Settings) -> str:
    for key, value in vars(plan.settings).items():
        if vars(settings)[key] != value:
            return f" (its {key} is {value!r}, now {vars(settings)[key]!r})"
    return ""


def _dump(facts: StoreFacts, settings: Settings, first: int, count: int, items: list[Utterance]) -> bytes:
    """Write a plan with one line for each utterance, fields at their default left out."""
    header = {"format": FORMAT, "version": VERSION, "codec": asdict(facts), "settings": asdict(settings)}
    header |= {"first_shard": first, "num_shards": count, "num_utterances": len(items)}
    defaults = {spec.name: spec.default for spec in fields(Utterance)}
    lines = []
    for item in items:
        record = {key: value for key, value in vars(item).items() if value != defaults[key] or key == "path"}
        lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False))
    text = (
        '{"header": ' + json.dumps(header, ensure_ascii=False) + ',\n"utterances": [\n' + ",\n".join(lines) + "\n]}\n"
    )
    return text.encode("utf-8")


def _load(store: Path, file: str) -> Plan:
    path = store / file
    name = str(path)
    data = read_bytes(path)
    record = parse_json(data, name)
    header = field(record, "header", dict, name)
    if field(header, "format", str, name) != FORMAT or field(header, "version", int, name) != VERSION:
        raise SoundloomError(f"{name}: expected format {FORMAT!r}, version {VERSION}")
    items = tuple(Utterance.parse(item, name) for item in field(record, "utterances", list, name))
    count = field(header, "num_shards", int, name, 1)
    if field(header, "num_utterances", int, name) != len(items) or count > max(1, len(items)):
        raise SoundloomError(f"{name}: {len(items)} utterances in {count} shards, its header says otherwise")
    facts = StoreFacts.parse(field(header, "codec", dict, name), name)
    settings = Settings.parse(field(header, "settings", dict, name), name)
    return Plan(
        store, file, sha256_bytes(data), facts, settings, field(header, "first_shard", int, name, 0), count, items
    )
