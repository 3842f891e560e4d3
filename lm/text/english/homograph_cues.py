# ruff: noqa: SIM905 - lists of words
"""What the words around a place in a sentence say about it: noun or verb, and the like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_MODALS = frozenset(
    "to will would can could should shall may might must do does did don't doesn't didn't won't can't cannot couldn't "
    "wouldn't shouldn't mustn't let's please i'll you'll he'll she'll it'll we'll they'll i'd you'd he'd she'd we'd "
    "they'd gonna helped help".split()
)
_INVERTED = frozenset("do does did can could will would should shall may might must don't won't didn't".split())
_SUBJECTS = frozenset("i you we they he she it who nobody everybody someone".split())
_PLURAL_SUBJECTS = frozenset("i you we they people who women men children teenagers police".split())
_SINGULAR_SUBJECTS = frozenset("he she it who which that nobody everybody everyone someone".split())
_DETERMINERS = frozenset(
    "a an the this these those my your his her its our their some any no every each another which what whose such "
    "one two three four five six seven eight nine ten many few several much more most all both".split()
)
_STRICT = frozenset("a an the this these those my your his its our their no every each another such her".split())
_PREPOSITIONS = frozenset(
    "in on of at with by for from without into under over about against between during as".split()
)
_ADVERBS = frozenset("often always never also just really still even soon rarely sometimes usually ever not".split())
_OBJECTS = frozenset("the a an my your his her its our their him them me us it you this that these those".split())
_NOUN_NEXT = frozenset("of is was are were has had will would can lasted came".split())
_BE = frozenset("am is are was were be been being not very too so quite i'm it's that's he's she's we're".split())
_MARKS = frozenset(".,?!;:")
_CONJUNCTIONS = frozenset("and or but".split())
_NO_NOUN = _PREPOSITIONS | _SUBJECTS | _MODALS | _BE | _MARKS | _CONJUNCTIONS


@dataclass(frozen=True)
class Place:
    """Word ``i`` of some lower-case words, with punctuation marks as words of their own."""

    words: Sequence[str]
    i: int

    def left(self, n: int = 1) -> str:
        """Return the n-th word before, "" beyond the start."""
        return self.words[self.i - n] if self.i >= n else ""

    def right(self, n: int = 1) -> str:
        """Return the n-th word after, "" beyond the end."""
        return self.words[self.i + n] if self.i + n < len(self.words) else ""

    def any_left(self, these: Iterable[str]) -> bool:
        """Return whether one of these words comes before."""
        return not set(these).isdisjoint(self.words[: self.i])

    def any_right(self, these: Iterable[str]) -> bool:
        """Return whether one of these words comes after."""
        return not set(these).isdisjoint(self.words[self.i + 1 :])

    def any(self, these: Iterable[str]) -> bool:
        """Return whether one of these words is in the sentence."""
        these = set(these)
        return self.any_left(these) or self.any_right(these)

    def is_first(self) -> bool:
        """Return whether a clause begins here."""
        return self.left() in _MARKS or self.left() == ""

    def is_last(self) -> bool:
        """Return whether a clause ends here."""
        return self.right() in _MARKS or self.right() == ""

    def _before(self) -> int:
        """Return how far to the left the first word is that is no adverb."""
        n = 1
        while self.left(n) in _ADVERBS or (self.left(n).endswith("ly") and len(self.left(n)) > 4):
            n += 1
        return n

    def after(self, these: Iterable[str]) -> bool:
        """Return whether one of these comes before, with adverbs or a subject between at most."""
        n, these = self._before(), set(these)
        return (
            self.left(n) in these or self.left() in these or (self.left(n) in _SUBJECTS and self.left(n + 1) in these)
        )

    def after_modal(self) -> bool:
        """Return whether an infinitive is due: "to", "will", "did you", or "can the man"."""
        n = self._before()
        if self.left(n) in _MODALS or self.left() in _MODALS:
            return True
        if self.left(n) in _SUBJECTS and self.left(n + 1) in _INVERTED:
            return True
        return self.left(n + 2) in _INVERTED and self.left(n + 1) in _STRICT

    def after_determiner(self) -> bool:
        """Return whether a noun phrase is open: "the", or "a good"."""
        if self.left() in _DETERMINERS or self.left().endswith("'s"):
            return True
        plain = self.left() and self.left() not in _NO_NOUN
        return bool(plain) and (self.left(2) in _STRICT or self.left(2).endswith("'s"))

    def left_is_number(self) -> bool:
        """Return whether a number word comes before."""
        return self.left() in "two three four five six seven eight nine ten".split()

    def plural_subject(self) -> bool:
        """Return whether the word before can be the subject of a verb without -s."""
        left = self.left(self._before())
        return left in _PLURAL_SUBJECTS or (left.endswith("s") and not left.endswith(("ss", "'s", "us", "is")))

    def subject_is_singular(self) -> bool:
        """Return whether "my father" or the like comes before, so that a verb without -s is in the past."""
        n = self._before()
        person = self.left(n)
        return self.left(n + 1) in _STRICT and person.isalpha() and not person.endswith("s") and person not in (
            *_ADJECTIVES, "children", "people", "men", "women", "police",
        )  # fmt: skip

    def verb_score(self, s_form: bool) -> int:
        """Return how much speaks for a verb here (above 0) or for a noun or an adjective (below 0).

        ``s_form``: the word ends in -s, as plural nouns do and verbs of "she".
        """
        n = self._before()
        left, right = self.left(n), self.right()
        if self.after_modal():
            return 5
        subjects = _SINGULAR_SUBJECTS if s_form else _PLURAL_SUBJECTS
        if left in subjects and not (left == "who" and self.left(n + 1) in _STRICT):
            return 4
        if left in ("which", "that") and (right in _OBJECTS or right == "some"):
            return 3
        if self.left() in _DETERMINERS or self.left() in _PREPOSITIONS or left in _BE or self.left().endswith("'s"):
            return -4
        score = 2 if right in _OBJECTS else -2 if right in _NOUN_NEXT else 0
        if self.after_determiner():
            joined = not s_form and self.plural_subject()
            return score + (1 if joined else 0 if s_form else -2)
        if self.is_first() or left in _CONJUNCTIONS:
            return score + (1 if right in _OBJECTS else 0)
        if not s_form and self.plural_subject():
            return score + 2
        return score - 2 if self.left(2) in _PREPOSITIONS and self.is_last() else score


_ADJECTIVES = frozenset("good great short long quick must first second best".split())
