# ruff: noqa: RUF001, SIM905 - phonemes look like letters; lists of words
"""Words that are written alike and sound unlike, chosen by the words around them.

Most are a noun (or an adjective) and a verb, for which one set of cues decides. `PAIRS` and `SINGLE` are the readings
that the lexicon does not have; where no rule speaks for them, the lexicon's reading stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lm.text.english.homograph_cues import Place

#: the verb's phonemes; the lexicon has the noun's or the adjective's
VERBS = {
    "object": "əbʤˈɛkt", "record": "ɹəkˈɔɹd", "present": "pɹəzˈɛnt", "desert": "dəzˈɜɹt", "project": "pɹəʤˈɛkt",
    "contract": "kəntɹˈækt", "conduct": "kəndˈʌkt", "conflict": "kənflˈɪkt", "contest": "kəntˈɛst",
    "convict": "kənvˈɪkt", "progress": "pɹəɡɹˈɛs", "protest": "pɹətˈɛst", "rebel": "ɹəbˈɛl", "subject": "səbʤˈɛkt",
    "suspect": "səspˈɛkt", "insult": "ɪnsˈʌlt", "decrease": "dəkɹˈis", "import": "ɪmpˈɔɹt", "export": "ɪkspˈɔɹt",
    "perfect": "pəɹfˈɛkt", "attribute": "ətɹˈɪbjˌut", "estimate": "ˈɛstəmˌAt", "separate": "sˈɛpəɹˌAt",
    "moderate": "mˈɑdəɹˌAt", "deliberate": "dəlˈɪbəɹˌAt", "graduate": "ɡɹˈæʤəwˌAt", "alternate": "ˈɔltəɹnˌAt",
    "associate": "əsˈOsiˌAt", "duplicate": "dˈupləkˌAt", "appropriate": "əpɹˈOpɹiˌAt", "delegate": "dˈɛləɡˌAt",
    "advocate": "ˈædvəkˌAt", "elaborate": "əlˈæbəɹˌAt", "articulate": "ɑɹtˈɪkjəlˌAt", "animate": "ˈænəmˌAt",
    "approximate": "əpɹˈɑksəmˌAt", "affiliate": "əfˈɪliˌAt", "house": "hˈWz", "excuse": "ɪkskjˈuz", "abuse": "əbjˈuz",
    "console": "kənsˈOl", "contrast": "kəntɹˈæst", "compound": "kəmpˈWnd", "defect": "dəfˈɛkt", "incense": "ɪnsˈɛns",
    "discount": "dɪskˈWnt", "survey": "səɹvˈA", "torment": "tɔɹmˈɛnt", "transport": "tɹænspˈɔɹt", "close": "klˈOz",
    "transfer": "tɹænsfˈɜɹ", "wind": "wˈInd", "tear": "tˈɛɹ",
}  # fmt: skip
#: the noun's phonemes; the lexicon has the verb's or the adjective's
NOUNS = {
    "produce": "pɹˈOdˌus", "convert": "kˈɑnvˌɜɹt", "permit": "pˈɜɹmˌɪt", "increase": "ˈɪnkɹˌis",
    "extract": "ˈɛkstɹˌækt", "refuse": "ɹˈɛfjˌus", "use": "jˈus", "upset": "ˈʌpsˌɛt", "insert": "ˈɪnsˌɜɹt",
    "escort": "ˈɛskˌɔɹt", "digest": "dˈIʤˌɛst", "reject": "ɹˈiʤˌɛkt", "refund": "ɹˈifˌʌnd", "compress": "kˈɑmpɹˌɛs",
    "exploit": "ˈɛksplˌYt", "resume": "ɹˈɛzəmˌA",
}  # fmt: skip
_S_FORMS = {f"{word}s": word for word in (*VERBS, *NOUNS)} | {"progresses": "progress", "compresses": "compress"}


def choose(words: Sequence[str], i: int) -> str | None:
    """Return the phonemes of word ``i`` where they differ from the lexicon's, else None.

    ``words``: those of a normalised text, with its punctuation marks as words of their own.
    """
    word = words[i].lower()
    rule = _RULES.get(word)
    base = _S_FORMS.get(word, word)
    if rule is None and base not in VERBS and base not in NOUNS:
        return None
    place = Place([one.lower() for one in words], i)
    if rule is not None:
        return rule(place)
    if base in VERBS:
        said = VERBS[base] if place.verb_score(base != word) > 0 else None
    else:
        said = NOUNS[base] if place.verb_score(base != word) < 0 else None
    return said if said is None or base == word else said + _plural(said)


def _plural(phonemes: str) -> str:
    if phonemes[-1] in "szʃʒʧʤ":
        return "ᵻz"
    return "s" if phonemes[-1] in "ptkfθ" else "z"


# --- words with cues of their own: each returns phonemes, or None for the lexicon's -----------------------------------

_PAST = frozenset("yesterday ago earlier last already once then when before".split())
_LATER = frozenset("tomorrow every usually always often sometimes now daily".split())
_PAST_VERBS = frozenset(
    "was were had did said told came went took made gave saw got knew found liked signed wrote sat left heard".split()
)


def _read(place: Place) -> str | None:
    past = "ɹˈɛd"
    if place.after_modal():
        return None
    if place.after("have has had having be been was were is are being i've you've we've they've well widely".split()):
        return past
    if place.left() in ("he", "she", "it") or place.subject_is_singular():  # the present is "reads"
        return past
    if place.left() in ("a", "an", "the", "good", "great") or place.is_first():
        return None
    if place.any_right(_LATER) and not place.any_right(("yesterday", "ago")):
        return None
    return past if place.any(_PAST) or place.any(_PAST_VERBS) else None


def _live(place: Place) -> str | None:
    adjective = "lˈIv"
    if place.verb_score(False) > 0 and not place.after(("broadcast", "shown", "streamed", "is", "was", "be")):
        return None
    if place.left() in ("we", "they", "i", "you", "who", "people", "that") or place.after_modal():
        return None
    if place.after_determiner() or place.left() in (
        "broadcast",
        "shown",
        "streamed",
        "played",
        "recorded",
        "go",
        "went",
    ):
        return adjective
    following = "music show stream video concert broadcast performance television audience wire animals fish bait"
    if place.right() in following.split() or place.left() in ("is", "was", "are", "were", "be", "goes", "going"):
        return adjective
    return adjective if place.is_last() and place.left() not in ("to", "and") and not place.plural_subject() else None


def _lives(place: Place) -> str | None:
    verb = "lˈɪvz"
    if place.left() in ("he", "she", "it", "who", "that", "nobody", "everyone", "everybody", "someone", "one"):
        return verb
    if place.after_determiner() or place.left() in (
        "many",
        "nine",
        "two",
        "three",
        "of",
        "and",
        "save",
        "saved",
        "human",
    ):
        return None
    near = "in at on near with alone here there across next by under above among off for far inside outside".split()
    return verb if place.right() in near and not place.left_is_number() else None


def _lead(place: Place) -> str | None:
    metal = "lˈɛd"
    if place.after_modal() or place.verb_score(False) > 2:
        return None
    kinds = "pipe pipes paint poisoning metal weight weights bullet bullets acid battery batteries shot mine mines"
    if place.right() in f"{kinds} roof pencil solder glass crystal oxide dust".split():
        return metal
    if place.left() in "of with without contain contains contained containing like as molten liquid and or".split():
        return metal if place.left() not in ("and", "or") or place.any(("iron", "zinc", "copper", "tin")) else None
    return metal if place.any("metal poisoning toxic melted molten zinc pipes".split()) else None


def _bass(place: Place) -> str | None:
    fish = "fish fishing fished lake river caught catch sea trout largemouth smallmouth striped grilled bait pond hook"
    return None if place.any(f"{fish} boat angler salmon fillet species stream fry fried".split()) else "bˈAs"


def _tear(place: Place) -> str | None:
    rip = "tˈɛɹ"
    if place.left() == "and" and place.left(2) == "wear":
        return rip
    if place.after_modal() or place.right() in ("up", "down", "off", "apart", "away", "out", "open", "through"):
        return rip
    if place.after_determiner() or place.left() in ("into", "of", "with", "in", "single"):
        torn = (
            "jacket coat dress shirt fabric cloth paper muscle ligament sail curtain trousers pants sleeve tissue net"
        )
        return rip if place.any_right(torn.split()) else None
    return rip if place.verb_score(False) > 0 else None


def _tears(place: Place) -> str | None:
    crying = "eyes cheek cheeks face wept cry cried burst moved".split()
    if place.any_left(crying) or place.left() in ("to", "into", "in", "of", "with", "her", "his", "my", "the", "their"):
        return None
    return "tˈɛɹz" if place.verb_score(True) > 0 else None


def _wound(place: Place) -> str | None:
    turned = "wˈWnd"
    if place.left() in ("had", "has", "have", "he", "she", "we", "they", "i", "it", "you"):
        return turned
    if place.left() in ("was", "were", "is", "be", "been") and place.right() in ("up", "around", "round", "tightly"):
        return turned
    if place.after_modal() or (place.after_determiner() and place.right() not in ("up", "through", "around")):
        return None
    return turned if place.right() in ("up", "around", "through", "round", "its", "down", "along") else None


def _bow(place: Place) -> str | None:
    bend = "bˈW"
    if place.any("ship boat deck sail stern bows vessel".split()):
        return bend
    if place.any("arrow arrows violin cello ribbon tie tied hair string hunted".split()):
        return None
    if place.any("took take takes taking actors curtain gave deep".split()) or place.right() in ("to", "before"):
        return bend
    return (
        bend if place.verb_score(False) > 0 or place.right() in ("his", "her", "their", "my", "your", "down") else None
    )


def _row(place: Place) -> str | None:
    fight = "terrible huge fierce furious blazing bitter political angry violent heated".split()
    quarrel = place.any_left(fight) or place.right() in ("about", "over", "between")
    return "ɹˈW" if quarrel and not place.after_modal() else None


def _sow(place: Place) -> str | None:
    pig = place.after_determiner() or place.any("piglets pig pigs boar barn".split())
    return "sˈW" if pig and not place.after_modal() else None


def _dove(place: Place) -> str | None:
    subjects = ("he", "she", "we", "they", "i", "it", "who", "and", "then")
    into = ("into", "in", "off", "down", "for", "under", "deep", "through", "from")
    return "dˈOv" if place.left() in subjects or (place.right() in into and not place.after_determiner()) else None


def _minute(place: Place) -> str | None:
    small = "mInˈut"
    if place.left() in ("are", "were", "is", "was", "very", "most", "so", "too", "almost"):
        return small if place.is_last() or place.left() in ("very", "most", "so", "too") else None
    things = "traces trace detail details amount amounts quantity quantities particles particle differences difference"
    return (
        small if place.right() in f"{things} changes fraction quantity scale creatures crack cracks".split() else None
    )


def _content(place: Place) -> str | None:
    happy = "kəntˈɛnt"
    be = "am is are was were be been being seem seems seemed feel feels felt look looks looked not quite perfectly more"
    if place.left() in be.split() and (
        place.right() in ("with", "to", "in", "and") or place.left() not in ("more", "is")
    ):
        return happy if place.left() != "more" or place.right() == "with" else None
    if place.right() in ("smile", "sigh", "life", "expression", "with", "to", "cat", "child", "people", "man", "woman"):
        return happy if place.right() not in ("to", "with") or not place.after_determiner() else None
    return happy if place.after_modal() else None


_PERSONS = frozenset("i you he she it we they who people there that".split())
_ACCUSTOMED = frozenset("get gets got getting am is are was were be been i'm you're he's she's we're they're".split())
_NOUN_PHRASE = frozenset("the a an my your his her its our their this that these those it him them me us being".split())


def _used(place: Place) -> str | None:
    said = "jˈust"
    if place.right() != "to":
        return None
    noun_follows = place.right(2) in _NOUN_PHRASE or place.right(2).endswith("ing")
    if place.after(_ACCUSTOMED):
        return said if noun_follows else None
    subject = place.left(3) in ("", ",", ".", ";", ":") and place.left(2) in _NOUN_PHRASE - {"a", "an"}
    return said if place.left() in _PERSONS or place.left() in ("never", "always") or subject else None


def _resume(place: Place) -> str | None:
    papers = ("your", "my", "his", "her", "their", "a", "the", "our")
    return NOUNS["resume"] if place.left() in papers else None


def _invalid(place: Place) -> str | None:
    person = place.after_determiner() and (
        place.right() in ("sat", "was", "lay", "who", "had", "in") or place.is_last()
    )
    return "ˈɪnvələd" if person and not place.any(("ticket", "code", "password", "file", "value", "number")) else None


def _learned(place: Place) -> str | None:
    people = "professor man woman scholar judge friend counsel society journal colleague gentleman book men".split()
    return "lˈɜɹnəd" if place.right() in people else None


def _aged(place: Place) -> str | None:
    people = (
        "aunt uncle father mother parents man woman relative relatives lady gentleman grandmother grandfather".split()
    )
    return "ˈAʤəd" if place.right() in people or (place.left() == "the" and place.right() in ("and", ".", "")) else None


def _number(place: Place) -> str | None:
    feel = place.any_left("feel feels felt fingers toes leg legs hand hands foot feet face".split())
    return "nˈʌməɹ" if feel and (place.right() in ("than", "and", ".", "") or place.left() in ("is", "are")) else None


def _blessed(place: Place) -> str | None:
    holy = "virgin mother sacrament trinity event relief memory thing day peace are is be".split()
    return "blˈɛsəd" if place.left() in ("the", "every", "whole") and place.right() in holy else None


def _close(place: Place) -> str | None:
    ending = place.left() in ("a", "the") and place.left(2) in ("to", "at", "before", "by", "since")
    followed = place.is_last() or place.right() in ("with", "of", "by", "when", "after", "in", "and", "today")
    return VERBS["close"] if (ending and followed) or place.verb_score(False) > 0 else None


def _winds(place: Place) -> str | None:
    along = place.right() in ("through", "around", "along", "up", "down", "its", "past", "between", "across")
    air = place.left() in ("strong", "high", "the", "cold", "north", "south", "east", "west", "gale", "of", "trade")
    return "wˈIndz" if (along and not air) or (not air and place.verb_score(True) > 0) else None


def _entrance(place: Place) -> str | None:
    return (
        "ɛntɹˈæns"
        if place.after_modal() and place.right() in ("him", "her", "us", "them", "me", "you", "the")
        else None
    )


_RULES: dict[str, Callable[[Place], str | None]] = {
    "read": _read, "live": _live, "lives": _lives, "lead": _lead, "bass": _bass, "tear": _tear, "tears": _tears,
    "wound": _wound, "bow": _bow, "row": _row, "sow": _sow, "dove": _dove, "minute": _minute, "content": _content,
    "used": _used, "invalid": _invalid, "learned": _learned, "aged": _aged, "number": _number, "blessed": _blessed,
    "entrance": _entrance, "close": _close, "winds": _winds, "resume": _resume,
}  # fmt: skip
WORDS = frozenset({*_RULES, *VERBS, *NOUNS, *_S_FORMS})
