"""Count the words that speech gets wrong, to choose the best of several takes: `Voice.speak(takes=4, checker=…)`."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from codec.errors import SoundloomError, quoted
from codec.metrics import require
from lm.text.inline import without_phonemes
from pipelines.evaluation.words import RECOGNISERS, Transcriber, spelled_words, spoken_words


class WordChecker:
    """Transcribe a take with Whisper and count the words that differ from its text.

    ``model``: as `pipelines.evaluation.words.Transcriber` takes it. A report needs another one as its judge: takes
    that were chosen by a recogniser please it.
    """

    def __init__(self, model: str = "tiny", threads: int = 1) -> None:
        self._jiwer = require("jiwer")
        self._transcribe = Transcriber(model, threads)
        self.description = self._transcribe.description

    def __call__(self, text: str, wave: Tensor, sample_rate: int) -> int:
        """Return how many words of wave [N] are wrong. Spelled letters may be joined."""
        said, wanted = self._transcribe(wave, sample_rate), without_phonemes(text)
        return min(self._errors(split(wanted), split(said)) for split in (spoken_words, spelled_words))

    def _errors(self, wanted: list[str], said: list[str]) -> int:
        if not wanted:
            return 0
        found = self._jiwer.process_words(" ".join(wanted), " ".join(said))
        return int(found.substitutions + found.deletions + found.insertions)


def check_choice(name: str, judge: str | None = None) -> None:
    """Check the recogniser that chooses takes before anything is opened.

    ``judge``: the recogniser of a report. Raises: SoundloomError for an unknown one, or one that also judges.
    """
    if name == judge:
        raise SoundloomError(f"{quoted(name)} chooses the takes and judges them; choose by another recogniser")
    if name not in RECOGNISERS and not Path(name).is_dir():
        known = ", ".join(("guard", *RECOGNISERS))
        raise SoundloomError(f"--choose-by {quoted(name)}: expected {known}, or the folder of a model")
