# ruff: noqa: RUF001 - phonemes look like letters
"""SSML's ``say-as``: text rewritten so that the normaliser reads it as asked."""

from __future__ import annotations

import re
from collections.abc import Callable

from lm.text.english.abbreviations import MONTHS, SYMBOL_WORDS
from lm.text.inline import written

_MONTH_NAMES = tuple(dict.fromkeys(MONTHS.values()))
_MARKS = {".": "dot", "-": "dash", "_": "underscore", "/": "slash", "*": "star", ":": "colon", "'": "apostrophe"}
_FORMATS = ("mdy", "dmy", "ymd", "md", "dm", "ym", "my", "y", "m", "d")


def _characters(text: str, _: str) -> str:
    """``B2B`` as three names: letters, digits, and symbols that have one."""
    named = (_MARKS.get(c) or SYMBOL_WORDS.get(c) or c.upper() for c in text if not c.isspace())
    return " ".join(written("A", "ˈA") if name == "A" else name for name in named)


def _digits(text: str, _: str) -> str:
    """``555-0123`` digit by digit, with a short pause between the groups."""
    return ", ".join(" ".join(group) for group in re.findall(r"\d+", text)) or text


def _ordinal(text: str, _: str) -> str:
    number = text.strip().rstrip(".")
    if not number.isdigit():
        return text
    teens = len(number) > 1 and number[-2] == "1"
    return number + ("th" if teens else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1], "th"))


def _cardinal(text: str, _: str) -> str:
    """``1999`` as a number, not as a year."""
    number = text.strip().replace(",", "")
    return f"{int(number):,}" if number.isdigit() and len(number) < 30 else text


def _date(text: str, form: str) -> str:
    parts = re.findall(r"\d+|[A-Za-z]+", text)
    form = form if form in _FORMATS else "ymd" if parts and len(parts[0]) == 4 else "mdy"
    if len(parts) != len(form):
        return text
    found = dict(zip(form, parts, strict=True))
    month = found.get("m", "")
    if month.isdigit():
        if not 1 <= int(month) <= 12:
            return text
        month = _MONTH_NAMES[int(month) - 1]
    day = str(int(found["d"])) if found.get("d", "").isdigit() else ""
    begun = f"{month} {day}".strip() if month else _ordinal(day, "")
    year = found.get("y", "")
    return f"{begun}, {year}" if begun and year and day else f"{begun} {year}".strip()


_KINDS: dict[str, Callable[[str, str], str]] = {
    **dict.fromkeys(("characters", "spell-out", "verbatim"), _characters),
    **dict.fromkeys(("digits", "telephone"), _digits),
    **dict.fromkeys(("cardinal", "number"), _cardinal),
    "ordinal": _ordinal,
    "date": _date,
    **dict.fromkeys(("time", "currency", "unit", "fraction"), lambda text, _: text),  # which the normaliser reads
}
KINDS = tuple(_KINDS)


def say_as(text: str, kind: str, form: str = "") -> str | None:
    """Return the text rewritten for a value of ``interpret-as`` and ``format``; None where there is no such kind."""
    rule = _KINDS.get(kind)
    return None if rule is None else rule(text.strip(), form.lower())
