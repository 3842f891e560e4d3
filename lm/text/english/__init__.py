# ruff: noqa: RUF001 - phonemes look like letters
"""English as people write it, and American pronunciations."""

from pathlib import Path

from lm.text.english.endings import finish
from lm.text.english.homographs import choose
from lm.text.english.inflections import derive
from lm.text.english.normalize import normalize, split_sentences
from lm.text.language import Alphabet, Language

_IPA = (
    *(("\u0361", ""), ("\u035c", ""), ("ː", ""), (".", ""), ("l̩", "ᵊl"), ("n̩", "ᵊn"), ("m̩", "ᵊm")),
    *(("eɪ", "A"), ("aɪ", "I"), ("aʊ", "W"), ("ɔɪ", "Y"), ("oʊ", "O"), ("əʊ", "O"), ("dʒ", "ʤ"), ("tʃ", "ʧ")),
    *(("ɝ", "ɜɹ"), ("ɚ", "əɹ"), ("r", "ɹ"), ("g", "ɡ"), ("ɫ", "l"), ("ɾ", "T"), ("ɒ", "ɑ"), ("e", "ɛ"), ("a", "æ")),
    *(("o", "O"), ("x", "k"), ("ɨ", "ᵻ")),
)

# The phonemes are misaki's, of Kokoro's family.
ENGLISH = Language(
    code="en",
    name="English",
    alphabet=Alphabet(
        letters="abcdefghijklmnopqrstuvwxyz",
        vowels="AIOWYaeiouæɐɑɒɔəɚɛɜɪʊʌᵊᵻ",
        consonants="bdfhjklmnprstvwxzðŋɡɹɾʃʒʔʤʧθT",
        ipa=_IPA,
    ),
    normalize=normalize,
    split_sentences=split_sentences,
    folder=Path(__file__).parent,
    lexicon="en-us",
    derive=derive,
    homograph=choose,
    finish=finish,
)
