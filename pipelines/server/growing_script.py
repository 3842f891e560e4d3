"""A text that arrives in pieces, cut as the whole would be: sentences, the pauses that it asks for, what is skipped."""

from __future__ import annotations

from dataclasses import replace

from codec.errors import SoundloomError
from pipelines.voice.sentences import MAX_PAUSES, Cutter, Piece, has_meaning, split_pauses


class GrowingScript:
    """What `Cutter.cut` returns for a whole text, for one that is still being written."""

    def __init__(self, cutter: Cutter) -> None:
        self.cutter = cutter
        self.pieces: list[Piece] = []
        self.lead = 0.0
        self.skipped: list[str] = []
        self._rest = self._held = ""  # an unfinished sentence; pauses whose sentence has not come
        self._exact = False  # the last piece's pause was asked for
        self._paused = 0.0

    @property
    def trail(self) -> float:
        """Seconds of silence after the last piece, if no text follows."""
        return self.pieces[-1].pause if self.pieces and self._exact else 0.0

    def add(self, text: str) -> None:
        """Take more text; its whole sentences become pieces."""
        self._rest += text
        *whole, rest = self.cutter.language.split_sentences(self._rest) or [""]
        if whole:
            self._rest = rest + (" " if self._rest[-1:].isspace() else "")
        for sentence in whole:
            self._add(sentence)

    def flush(self) -> None:
        """Take what has come as a sentence, though it may not have ended."""
        rest, self._rest = self._rest, ""
        self._add(rest)

    def close(self) -> None:
        """Take the rest; pauses at the end are kept."""
        self.flush()
        held, self._held = self._held, ""
        self._pause(_seconds(held))

    def _add(self, sentence: str) -> None:
        text = f"{self._held} {sentence}" if self._held else sentence
        self._held = ""
        try:
            script = self.cutter.cut(text, more_follows=True)
        except SoundloomError:  # nothing in it to speak; what follows may still be speech
            if _seconds(text):
                self._held = text
            elif any(map(has_meaning, text)):
                self.skipped.append(text.strip())
            return
        self.skipped += script.skipped
        pieces = list(script.pieces)
        self._paused += script.lead + sum(piece.pause for piece in pieces)
        if self._paused > MAX_PAUSES:  # a client could ask for hours of silence in a few words
            pieces = [replace(piece, pause=0.0) for piece in pieces]
        else:
            self._pause(script.lead)
        self.pieces += pieces
        self._exact = script.exact

    def _pause(self, seconds: float) -> None:
        """Put an asked pause after what has come."""
        if not seconds:
            return
        if not self.pieces:
            self.lead += seconds
            return
        last = self.pieces[-1]
        self.pieces[-1] = replace(last, pause=seconds + (last.pause if self._exact else 0.0))
        self._exact = True


def _seconds(text: str) -> float:
    """Return the pauses in a text that is nothing else; 0 where it has words or a bad tag."""
    try:
        parts = list(split_pauses(text))
    except SoundloomError:
        return 0.0
    if any(isinstance(part, str) and any(map(has_meaning, part)) for part in parts):
        return 0.0
    return min(MAX_PAUSES, sum(part for part in parts if not isinstance(part, str)))
