"""The one error that users of soundloom meet, and how it quotes values."""

from __future__ import annotations

import reprlib
import sys

_LONGEST_MESSAGE = 2000
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


class SoundloomError(Exception):
    """Input that cannot be used; the message names the thing, what is wrong with it and what would be right.

    The message is one printable line, whatever the input holds. Programs print it as ``error: …`` and exit with
    code 2; libraries may catch it. Anything else that escapes is a defect of soundloom.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


def one_line(text: str, longest: int = _LONGEST_MESSAGE) -> str:
    """Return ``text`` as one line that a terminal can show: control characters escaped, its middle cut out if long."""
    if len(text) > longest:
        text = f"{text[: longest // 2]} … {text[-longest // 3 :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def quoted(value: object, longest: int = 60) -> str:
    """Return ``value`` as an error message quotes it: like `repr`, but at most ``longest`` characters."""
    # Cut before `repr`: a value of 10 MB must not be copied for one line.
    try:
        text = repr(value[:longest]) if isinstance(value, str) else _SHORT.repr(value)
    except ValueError:  # Python refuses to write out an integer of more than 4,300 digits
        text = f"a number of over {sys.get_int_max_str_digits():,} digits"
    cut = len(text) > longest or (isinstance(value, str) and len(value) > longest)
    return f"{text[: longest - 1]}…" if cut else text


def _escaped(character: str) -> str:
    return repr(character)[1:-1]
