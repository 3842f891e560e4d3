"""What a store has already, for appending: compared as hashes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from codec.errors import SoundloomError, quoted
from codec.store.hashes import HashSet
from codec.store.reader import StoreReader
from codec.store.same_audio import SameAudio
from codec.store.utterance import Utterance

if TYPE_CHECKING:
    from codec.store.plan import Plan

_CHUNK = 1 << 14


def only_new(items: Iterable[Utterance], plans: list[Plan], root: str) -> Iterator[Utterance]:
    """Yield the utterances that a store has no rows of; those rejected before are tried again.

    Texts, sizes and, where files are newer than the plan, hashes of the others are compared with the store's.

    Raises:
        SoundloomError: one has another text, or another size, than under the same id in the store.
    """
    rows, ids, texts, sized, sizes = (HashSet() for _ in range(5))
    reader = StoreReader(plans[0].store)
    for index in range(len(reader)):
        rows.add(reader.id(index))
    for item in (item for plan in plans for item in plan if not item.problem):
        ids.add(item.id)
        texts.add((item.id, item.text))
        if item.size:
            sized.add(item.id)
            sizes.add((item.id, item.size))
    audio = SameAudio(plans, root)
    for chunk in chunks(items, _CHUNK):
        names = [item.id for item in chunk]
        found = zip(rows.has(names), rows.has(f"{name}#000" for name in names), strict=True)
        same_text = texts.has((item.id, item.text) for item in chunk)
        same_size = sizes.has((item.id, item.size) for item in chunk)
        there = [any(stored) for stored in found]
        other = {item.id for item in audio.replaced(item for item, stored in zip(chunk, there, strict=True) if stored)}
        facts = zip(there, ids.has(names), same_text, sized.has(names), same_size, strict=True)
        for item, (stored, planned, text, has_size, size) in zip(chunk, facts, strict=True):
            if not stored:
                yield item
            elif planned and not text:
                raise SoundloomError(
                    f"{item.source}: the store has id {quoted(item.id)} with another text; --refresh makes it anew"
                )
            elif (item.size and has_size and not size) or item.id in other:
                raise SoundloomError(
                    f"{item.source}: the store has id {quoted(item.id)} with other audio; give it another id "
                    "(or an id_prefix)"
                )


def chunks(items: Iterable[Utterance], size: int) -> Iterator[list[Utterance]]:
    """Cut ``items`` into lists of ``size``."""
    waiting: list[Utterance] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
