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
        self._rest = ""  # an unfinished sentence
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

    def _add(self, sentence: str) -> None:
        try:
            script = self.cutter.cut(sentence, more_follows=True)
        except SoundloomError:  # nothing in it to speak; what follows may still be speech
            self._skip(sentence)
            return
        self.skipped += script.skipped
        if script.lead or sentence.lstrip()[:7].lower() == "[pause:":  # also one of 0 seconds
            self._pause(script.lead)
        pieces = list(script.pieces)
        self._paused += sum(piece.pause for piece in pieces)
        if self._paused > MAX_PAUSES:  # a client could ask for hours of silence in a few words
            pieces = [replace(piece, pause=0.0) for piece in pieces]
        self.pieces += pieces
        self._exact = script.exact

    def _skip(self, sentence: str) -> None:
        """Keep the pauses of a sentence without speech, and note its words."""
        try:
            parts = list(split_pauses(sentence))
        except SoundloomError:
            parts = [sentence]
        for part in parts:
            if not isinstance(part, str):
                self._pause(part)
            elif any(map(has_meaning, part)):
                self.skipped.append(part.strip())

    def _pause(self, seconds: float) -> None:
        """Put an asked pause after what has come."""
        if self._paused + seconds > MAX_PAUSES:
            return
        self._paused += seconds
        if not self.pieces:
            self.lead += seconds
            return
        last = self.pieces[-1]
        self.pieces[-1] = replace(last, pause=seconds + (last.pause if self._exact else 0.0))
        self._exact = True
