"""What text from pages, books and chats carries along: markup, invisible characters, addresses, emoji."""

from __future__ import annotations

import html
import re
import unicodedata

from lm.text.inline import without_phonemes

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours of a terminal
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,300}>")
_ENTITY = re.compile(r"&(?:[A-Za-z]{2,31}|#\d{1,7}|#x[0-9A-Fa-f]{1,6});")
_FENCE = re.compile(r"^\s*(?:```|~~~)\w*\s*$", re.M)
_LINK = re.compile(
    r"!?\[([^\[\]\n]{1,300})\]\((?!/[^/\s()]{0,200}[^\x00-\x7f/\s()][^/\s()]{0,200}/\))[^()\s]{1,2000}(?:\s+\"[^\"\n]*\")?\)"
)
_AUTOLINK = re.compile(r"<((?:https?://|mailto:)[^<>\s]{1,2000})>")
_HEADING = re.compile(r"^[ \t]{0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*$", re.M)
_QUOTE = re.compile(r"^[ \t]{0,3}(?:>[ \t]?)+(?=\S)", re.M)
_BULLET = re.compile(r"^[ \t]*(?:[-*+•‣◦▪])[ \t]+(?=\S)", re.M)
_RULE = re.compile(r"^[ \t]*(?:-[ \t]*){3,}$|^[ \t]*(?:\*[ \t]*){3,}$|^[ \t]*(?:_[ \t]*){3,}$", re.M)
_TABLE_RULE = re.compile(r"^[ \t]*\|?(?:[ \t]*:?-{2,}:?[ \t]*\|)+[ \t]*:?-*:?[ \t]*$", re.M)
_STRONG = re.compile(r"(?<![\w*])(\*{1,3}|_{1,3})(?=[^\s*_])([^*\n]{0,500}?[^\s*_])\1(?![\w*])")
_STRUCK = re.compile(r"~~([^~\n]{1,300})~~")
_CODE = re.compile(r"`{1,2}([^`\n]{1,300})`{1,2}")
_EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u23e9-\u23ff\ufe0f\u20e3]")


def plain(text: str, keep_phonemes: bool = False) -> str:
    """Remove markup (HTML, Markdown, terminal colours) and invisible characters; what people read stays.

    Phonemes that the text gives for a word (`lm.text.inline`) are markup, too, unless they are to be kept.

    Category Cf (soft hyphens, zero-width joiners, byte order marks) vanishes, so that no word is torn.
    """
    text = _ESCAPES.sub("", text if keep_phonemes else without_phonemes(text))
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = _AUTOLINK.sub(lambda m: m[1].removeprefix("mailto:"), _COMMENT.sub(" ", text))
    text = _ENTITY.sub(lambda m: html.unescape(m[0]), _TAG.sub(" ", text))
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    for pattern in (_FENCE, _TABLE_RULE, _RULE, _QUOTE):
        text = pattern.sub("", text)
    text = _BULLET.sub("\n", _HEADING.sub(r"\n\1\n", text))  # paragraphs of their own, so that a pause follows
    text = _LINK.sub(r"\1", text)
    text = _CODE.sub(r"\1", _STRUCK.sub(r"\1", text))
    return _STRONG.sub(r"\2", _STRONG.sub(r"\2", text))


def name_emoji(text: str) -> str:
    """Replace each emoji by its Unicode name: a thumbs-up becomes ``, thumbs up sign,``."""
    return _EMOJI.sub(lambda m: f", {unicodedata.name(m[0], '').lower()}, " if m[0] not in "\ufe0f\u20e3" else "", text)


# Endings of addresses that are read as such without "http" in front.
_ENDINGS = (
    "com org net edu gov mil int io co ai app dev me tv info biz name pro xyz online site shop tech cloud uk us ca au "
    "nz ie de fr es it nl be ch at se no dk fi pl pt gr cz ru ua tr in jp cn kr br mx ar za eu"
)
_URL = re.compile(
    r"(?<![\w.@-])(?:(https?|ftp)://)?((?:www\.)?(?:[A-Za-z0-9-]{1,63}\.)+"
    rf"(?:{'|'.join(sorted(_ENDINGS.split(), key=len, reverse=True))})|(?<=://)[A-Za-z0-9.-]{{1,253}}|localhost(?=:))"
    r"(?::(\d{1,5}))?((?:/[^\s<>\"]*)?(?:\?[^\s<>\"]*)?(?:#[^\s<>\"]*)?)(?![\w@])"
)
_EMAIL = re.compile(r"(?<![\w.+-])([\w.+-]{1,64})@((?:[\w-]{1,63}\.)+[A-Za-z]{2,24})\b")
_HASHTAG = re.compile(r"(?<![\w&/#])#(\d{0,9}[A-Za-z]\w{1,80})")
_HANDLE = re.compile(r"(?<![\w.@/])@([A-Za-z_]\w{1,40})")
_SAID = {".": " dot ", "/": " slash ", "-": " dash ", "_": " underscore ", "?": " question mark ", "=": " equals ",
         "&": " and ", "#": " hash ", "+": " plus ", "%": " percent ", "~": " tilde ", ":": " colon "}  # fmt: skip


def addresses(text: str) -> str:
    """Read e-mail and web addresses, hashtags and handles as people say them."""
    text = _EMAIL.sub(lambda m: f"{_read(m[1])} at {_read(m[2])}", text)
    text = _URL.sub(_url, text)
    text = _HASHTAG.sub(lambda m: f"hashtag {_camel(m[1])}", text)
    return _HANDLE.sub(lambda m: f"at {_camel(m[1])}", text)


def _url(match: re.Match[str]) -> str:
    host, port, rest = match[2], match[3], match[4]
    end = re.search(r"[.,;:!?)\]'*]*$", rest)  # punctuation of the sentence
    tail = end[0] if end else ""
    rest = rest[: len(rest) - len(tail)].rstrip("/")
    host = host.removeprefix("www.")
    said = _read(host) + (f" port {port}" if port else "") + _read(rest)
    return " ".join(said.split()) + tail


def _read(address: str) -> str:
    return "".join(_SAID.get(c, c) for c in address)


def _camel(name: str) -> str:
    """``HelloWorld_2`` as ``Hello World 2``."""
    return re.sub(r"(?<=[a-z\d])(?=[A-Z])|_+", " ", name)
