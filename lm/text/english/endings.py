"""How a text ends: a fragment that just stops gets the mark that a model expects after a sentence."""

from __future__ import annotations

import re

# What may follow a sentence's own mark, and marks that end no sentence.
_TAIL = " \t\n\"'\u201d\u2019\u00bb)]}*_`~,;:\u2013\u2014-"
_AUXILIARY = "is|are|am|was|were|do|does|did|can|could|will|would|shall|should|have|has|had|may|might|must"
_QUESTION = re.compile(
    rf"[\s\"'\u201c\u2018(]*(?:(?:who|what|when|where|why|how|which|whose)\s+(?:{_AUXILIARY})\b"
    rf"|(?:what|which|whose|how)\s+(?:\w+\s+)(?:{_AUXILIARY})\s+(?:i|you|he|she|it|we|they)\b"
    rf"|(?:{_AUXILIARY}|isn't|aren't|don't|doesn't|didn't|can't|won't)\s+(?:i|you|he|she|it|we|they|this|that|there)\b)",
    re.IGNORECASE,
)


def finish(text: str) -> str:
    """Return a piece of text with a mark at its end: its own, a question mark where it asks, else a full stop."""
    text = text.rstrip()
    body = text.rstrip(_TAIL)
    if not body or body[-1] in ".?!…":
        return text
    return f"{text}?" if _QUESTION.match(text) else f"{text}."
