"""How a corpus differs from what its plans recorded, without holding either of them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from codec.errors import quoted
from codec.store.hashes import HashSet
from codec.store.known import chunks
from codec.store.measure import file_sizes
from codec.store.same_audio import SameAudio
from codec.store.utterance import Utterance

_CHUNK = 1 << 14
_NEW, _GONE, _SIZE, _AUDIO = "is new", "is gone", "has another size", "has other audio of the same size"
_TEXT, _FACTS = "has another text", "has another speaker, language or length"


def corpus_changes(
    planned: Iterable[Utterance],
    listed: Iterable[Utterance],
    root: str,
    audio: SameAudio | None = None,
) -> list[str]:
    """List in words how a corpus differs from what a plan recorded of it; an empty list where nothing changed.

    Compared are the list of utterances, their texts, speakers and languages, and the sizes of files below ``root``;
    ``audio`` compares those of the same size. It is None where the store is not finished: then only texts and the like
    count, because changed audio becomes a reject, and what is new can wait.

    ``planned`` is iterated over twice, so it is no iterator.
    """
    names: tuple[str, ...] = (_NEW, _GONE, _SIZE, _AUDIO, _TEXT, _FACTS)
    before, now, found = _Recorded(planned), HashSet(), {name: _Found() for name in names}
    for chunk in chunks(listed, _CHUNK):
        keys = [_key(item) for item in chunk]
        for key in keys:
            now.add(key)
        there = before.keys.has(keys)
        found[_NEW].add(item for item, known in zip(chunk, there, strict=True) if not known)
        both = [item for item, known in zip(chunk, there, strict=True) if known]
        found[_TEXT].add(_without(both, before.texts.has((_key(item), item.text) for item in both)))
        found[_FACTS].add(_without(both, before.facts.has((_key(item), _facts(item)) for item in both)))
        if audio is not None:
            resized = list(before.resized(both, root))
            found[_SIZE].add(resized)
            found[_AUDIO].add(audio.replaced(_others(before.usable(both), resized)))
    if audio is not None:
        for chunk in chunks(planned, _CHUNK):
            found[_GONE].add(_without(chunk, now.has(map(_key, chunk))))
    names = names if audio is not None else (_TEXT, _FACTS)
    return [found[name].describe(name) for name in names if found[name].count]


class _Recorded:
    """Hashes of what plans recorded."""

    def __init__(self, items: Iterable[Utterance]) -> None:
        self.keys, self.texts, self.facts, self._sized, self._sizes = (HashSet() for _ in range(5))
        for item in items:
            key = _key(item)
            self.keys.add(key)
            self.texts.add((key, item.text))
            self.facts.add((key, _facts(item)))
            if item.row < 0 and not item.problem and (item.size or "://" not in item.path):
                self._sized.add(key)
                self._sizes.add((key, item.size))

    def usable(self, items: list[Utterance]) -> list[Utterance]:
        """Return the utterances whose file was to be encoded: not one with an id that another had before it, say."""
        return [item for item, known in zip(items, self._sized.has(map(_key, items)), strict=True) if known]

    def resized(self, items: list[Utterance], root: str) -> Iterator[Utterance]:
        """Yield the utterances whose file has another size now; rows of data sets are taken as they were."""
        keys = [_key(item) for item in items]
        sized = [(item, key) for item, key, known in zip(items, keys, self._sized.has(keys), strict=True) if known]
        if "://" in root:
            sizes = [item.size for item, _ in sized]
        else:
            files = file_sizes(root, [item.path for item, _ in sized])
            sizes = [size if isinstance(size, int) else -1 for size in files]
        same = self._sizes.has((key, size) for (_, key), size in zip(sized, sizes, strict=True))
        return _without([item for item, _ in sized], same)


@dataclass
class _Found:
    count: int = 0
    first: list[Utterance] = field(default_factory=list)

    def add(self, items: Iterable[Utterance]) -> None:
        for item in items:
            self.count += 1
            if not self.first:
                self.first.append(item)

    def describe(self, what: str) -> str:
        name = quoted(self.first[0].id)
        return f"{name} {what}" if self.count == 1 else f"{self.count:,} utterances: each {what} (first {name})"


def _without(items: list[Utterance], leave_out: list[bool]) -> Iterator[Utterance]:
    return (item for item, out in zip(items, leave_out, strict=True) if not out)


def _others(items: list[Utterance], resized: list[Utterance]) -> list[Utterance]:
    left_out = {id(item) for item in resized}
    return [item for item in items if id(item) not in left_out]


def _key(item: Utterance) -> tuple[str, str, int, float]:
    return item.id, item.path.replace("\0", "\N{REPLACEMENT CHARACTER}"), item.row, item.start  # as plans store it


def _facts(item: Utterance) -> tuple[str, str, float]:
    return item.speaker, item.language, item.duration
