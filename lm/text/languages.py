"""The languages that text can be in. To add one, write its folder and add its row to `LANGUAGES`."""

from __future__ import annotations

import re
from pathlib import Path

from codec.errors import SoundloomError, quoted
from lm.text.english import ENGLISH
from lm.text.language import Language

#: by code; a model's text.json names its language
LANGUAGES: dict[str, Language] = {ENGLISH.code: ENGLISH}
DEFAULT = ENGLISH


def language(code: str) -> Language:
    """Return a language by its code. Raises: `SoundloomError` with the codes that there are."""
    if code not in LANGUAGES:
        raise SoundloomError(f"language {quoted(code)}: unknown; expected one of {', '.join(LANGUAGES)}")
    return LANGUAGES[code]


def is_lexicon_name(name: object) -> bool:
    """Return whether this has the form of a shipped lexicon's name, such as ``en-us``."""
    return isinstance(name, str) and re.fullmatch(r"[a-z]{2,3}-[a-z]{2}", name) is not None


def shipped_lexicon(name: str) -> Path | None:
    """Return the path of a lexicon that comes with a language, None if there is none of this name."""
    if not is_lexicon_name(name):
        return None
    owner = LANGUAGES.get(name.partition("-")[0])
    path = None if owner is None else owner.lexicon_path(name)
    return path if path is not None and path.is_file() else None
