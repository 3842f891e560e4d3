"""A book as chapters, and a chapter as blocks of text: headings and paragraphs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from codec.errors import SoundloomError, one_line

MAX_CHARACTERS = 20_000_000  # of a book; 350,000 are a novel of 60,000 words
MAX_CHAPTERS = 2_000
_LONGEST_TITLE = 200
_WORD = re.compile(r"\w+(?:['\u2019.,-]\w+)*")


@dataclass(frozen=True)
class Block:
    """A paragraph, or a heading of ``level`` 1 to 6 (0 is a paragraph)."""

    text: str
    level: int = 0


@dataclass(frozen=True)
class Chapter:
    """A chapter's title, which is only shown, and its blocks, which are read aloud; headings are among them."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def words(self) -> int:
        """How many words the blocks have."""
        return sum(count_words(block.text) for block in self.blocks)

    @property
    def has_paragraphs(self) -> bool:
        """Whether there is more than headings."""
        return any(block.level == 0 for block in self.blocks)


def count_words(text: str) -> int:
    """Return how many words a text has."""
    return sum(1 for _ in _WORD.finditer(text))


def clean_title(text: str) -> str:
    """Return a title as one printable line of at most 200 characters."""
    text = one_line(" ".join(text.split()))
    return text if len(text) <= _LONGEST_TITLE else text[: _LONGEST_TITLE - 1] + "…"


def at_marks(blocks: Sequence[Block], marks: Sequence[tuple[int, str]], first_title: str) -> list[Chapter]:
    """Cut blocks at marks (the number of the block, the title), in order; what comes before is ``first_title``.

    Marks at one place make one chapter with both titles.
    """
    titles: dict[int, list[str]] = {}
    for place, title in sorted(marks, key=lambda mark: mark[0]):
        names = titles.setdefault(place, [])
        if title.strip() and title not in names:
            names.append(title)
    titles.setdefault(0, [first_title])
    places = [*sorted(titles), len(blocks)]
    return [
        Chapter(clean_title(": ".join(titles[begin])) or f"Chapter {number}", tuple(blocks[begin:end]))
        for number, (begin, end) in enumerate(pairwise(places), 1)
        if end > begin
    ]


def at_headings(blocks: Sequence[Block], first_title: str, level: int | None = None) -> list[Chapter]:
    """Cut blocks at headings of ``level`` and above; None takes the highest level that has two headings."""
    counts = Counter(block.level for block in blocks if block.level)
    if level is None:
        level = next((one for one in sorted(counts) if counts[one] > 1), min(counts, default=0))
    marks = [(i, block.text) for i, block in enumerate(blocks) if 0 < block.level <= level]
    return at_marks(blocks, marks, first_title)


def tidy(chapters: Sequence[Chapter], name: str) -> list[Chapter]:
    """Drop a printed table of contents; join headings without a paragraph ("PART ONE") to the chapter that follows.

    Raises: SoundloomError, which names the book, where there is nothing to read or too much.
    """
    later = Counter(chapter.title.casefold() for chapter in chapters)
    kept: list[Chapter] = []
    waiting: list[Chapter] = []
    for chapter in chapters:
        later[chapter.title.casefold()] -= 1
        if chapter.has_paragraphs:
            kept.append(_joined([*waiting, chapter]))
            waiting = []
        elif later[chapter.title.casefold()] == 0:  # a title that comes again is a line of the contents
            waiting.append(chapter)
    kept += [_joined(waiting)] if waiting else []
    kept = [chapter for chapter in kept if chapter.words]
    if not kept:
        raise SoundloomError(f"{name}: has no text to read; expected a book with words")
    if len(kept) > MAX_CHAPTERS:
        raise SoundloomError(f"{name}: has {len(kept):,} chapters; expected at most {MAX_CHAPTERS:,}")
    length = sum(len(block.text) for chapter in kept for block in chapter.blocks)
    if length > MAX_CHARACTERS:
        raise SoundloomError(f"{name}: has {length:,} characters; expected at most {MAX_CHARACTERS:,}")
    return kept


def _joined(chapters: Sequence[Chapter]) -> Chapter:
    if len(chapters) == 1:
        return chapters[0]
    blocks = tuple(block for chapter in chapters for block in chapter.blocks)
    title = ": ".join(dict.fromkeys(chapter.title for chapter in chapters))
    return replace(chapters[-1], title=clean_title(title), blocks=blocks)
