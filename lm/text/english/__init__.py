# ruff: noqa: RUF001 - phonemes look like letters
"""English as people write it, and American pronunciations."""

from pathlib import Path

from lm.text.english.inflections import derive
from lm.text.english.normalize import normalize, split_sentences
from lm.text.language import Alphabet, Language

# The phonemes are misaki's, of Kokoro's family.
ENGLISH = Language(
    code="en",
    name="English",
    alphabet=Alphabet(
        letters="abcdefghijklmnopqrstuvwxyz",
        vowels="AIOWYaeiouæɐɑɒɔəɚɛɜɪʊʌᵊᵻ",
        consonants="bdfhjklmnprstvwxzðŋɡɹɾʃʒʔʤʧθT",
    ),
    normalize=normalize,
    split_sentences=split_sentences,
    folder=Path(__file__).parent,
    lexicon="en-us",
    derive=derive,
)
