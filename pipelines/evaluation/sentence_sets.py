"""Named sets of sentences to judge a voice by: one utterance a line, written for this project."""

from __future__ import annotations

from pathlib import Path

from codec.errors import SoundloomError, quoted

FOLDER = Path(__file__).parent / "sentences"
PLAIN = "english"
SETS = (PLAIN, "short", "letters", "questions", "lists", "long", "open")
# Here a recogniser may join letters, or write the words that sound like them: "USA", "sea".
SPELLED = "letters"


def read_set(name: str) -> list[str]:
    """Return a set's utterances, whole: neither length nor punctuation cuts one."""
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def chosen_sets(names: str, limit: int | None = None) -> dict[str, list[str]]:
    """Return the first ``limit`` utterances of each set that ``names`` lists, with commas between, or of ``all``.

    Raises:
        SoundloomError: a set is unknown.
    """
    chosen = SETS if names.strip() == "all" else tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in chosen:
        if name not in SETS:
            raise SoundloomError(f"--sets: {quoted(name)} is no set; there are {', '.join(SETS)}, and all")
    return {name: read_set(name)[:limit] for name in chosen}
