"""Several takes of a sentence: which of them is the best?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from pipelines.voice.guard import FINISH_REASONS
from pipelines.voice.speech import Sentence

MOST_TAKES = 20
# (text, wave [N], sample rate) -> how many words of the text the sound gets wrong
WordChecker = Callable[[str, Tensor, int], int]
_COMPLETE = ("end", "words")  # finish reasons of takes that came to an end by themselves, in about the usual time


@dataclass(frozen=True)
class Take:
    """One try at a sentence: the sentence, with the codes of all levels, and its waveform [C, N].

    ``wrong``: words that a checker found wrong; ``clarity``: how surely the model followed the text. Both are 0 where
    nobody looked.
    """

    sentence: Sentence
    wave: Tensor
    wrong: int = 0
    clarity: float = 0.0

    @property
    def rank(self) -> tuple[bool, int, int, float]:
        """What takes are compared by, the best first: complete, few wrong words, well ended, clear."""
        reason = self.sentence.finish_reason
        return reason not in _COMPLETE, self.wrong, FINISH_REASONS.index(reason), -self.clarity

    @property
    def is_good(self) -> bool:
        """Whether nothing is known to be wrong with it."""
        return self.sentence.finish_reason == "end" and not self.wrong


def rounds(takes: int, retries: int, has_checker: bool) -> Iterator[range]:
    """Yield the attempts that are made side by side, round after round; a sentence with a good take needs no more.

    A checker can be content with the first take. Without one, all takes are compared.
    """
    first = 1 if has_checker else takes
    yield range(first)
    if first < takes:
        yield range(first, takes)
    yield from (range(attempt, attempt + 1) for attempt in range(takes, takes + retries))
