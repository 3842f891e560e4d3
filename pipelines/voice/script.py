"""A script for several speakers to turns: ``[heart] Hello.`` or ``isabella: Hello.``, a line or more each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codec.errors import SoundloomError, quoted
from pipelines.voice.turns import Turn

TURN_PAUSE = 0.4  # seconds between two turns
_BRACKETED = re.compile(r"\s*\[([^\[\]:\n]{1,100})\](?!\()\s*(.*)")
_COLON = re.compile(r"\s*([\w.+-][\w .+-]{0,99}?)\s*:\s+(.*)")


def read_script(text: str, speakers: Sequence[str]) -> tuple[list[Turn], list[str]]:
    """Return the turns of a script, and notes on lines that look like a speaker's but have no known name.

    A line without a name continues the turn before it; an empty line ends a sentence; ``#`` begins a comment line.
    Names are matched in any case. Raises: SoundloomError for an unknown name in brackets.
    """
    known = {name.lower(): name for name in speakers}
    turns: list[tuple[str | None, list[str]]] = []
    notes: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue
        name, rest = _speaker(line, number, known, notes)
        if name is not None:
            turns.append((name, [rest]))
        elif turns:
            turns[-1][1].append(rest)
        elif rest.strip():
            turns.append((None, [rest]))
    whole = [(name, "\n".join(lines).strip()) for name, lines in turns]
    spoken = [Turn(text, name, pause=TURN_PAUSE) for name, text in whole if text]
    if not spoken:
        raise SoundloomError("the script has no line to speak; write lines such as: isabella: Hello.")
    return [*spoken[:-1], Turn(spoken[-1].text, spoken[-1].speaker)], notes


def _speaker(line: str, number: int, known: dict[str, str], notes: list[str]) -> tuple[str | None, str]:
    """Return the speaker that a line names, or None, and what it says."""
    bracketed, colon = _BRACKETED.fullmatch(line), _COLON.fullmatch(f"{line} ")
    if bracketed is not None:
        name = bracketed[1].strip()
        if name.lower() not in known:
            shown = ", ".join(known.values())
            raise SoundloomError(f"line {number}: no speaker {quoted(name)}; expected one of {shown}")
        return known[name.lower()], bracketed[2]
    if colon is not None and colon[1].lower() in known:
        return known[colon[1].lower()], colon[2].strip()
    if colon is not None and " " not in colon[1] and len(notes) < 20:
        notes.append(f"line {number}: {quoted(colon[1])} is no speaker, so it is read aloud")
    return None, line.strip()
