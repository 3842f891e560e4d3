"""HTML and XHTML to blocks of text. Nothing is fetched, and no entity but those of HTML is expanded."""

from __future__ import annotations

import codecs
import re
from html.parser import HTMLParser

from pipelines.books.chapters import Block

_SKIPPED = {"head", "script", "style", "svg", "math", "template", "rt", "rp", "audio", "video", "object", "iframe"}
_INLINE = {"a", "abbr", "b", "bdi", "bdo", "big", "cite", "code", "del", "dfn", "em", "font", "i", "img", "ins", "kbd"}
_INLINE |= {
    "mark",
    "q",
    "rb",
    "ruby",
    "s",
    "samp",
    "small",
    "span",
    "strike",
    "strong",
    "sub",
    "sup",
    "tt",
    "u",
    "var",
    "wbr",
}
_SPACES = {"br", "td", "th", "img"}  # they separate words, but not paragraphs
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
# Only encodings of books in Latin letters; Python knows others whose decoding takes the square of the length.
_ENCODING = re.compile(
    rb"""(?:encoding|charset)\s*=\s*["']?(utf-?8|us-ascii|iso-?8859-\d{1,2}|latin-?1|(?:windows-|cp)125\d|macintosh)\b""",
    re.IGNORECASE,
)


class BlockReader(HTMLParser):
    """Collects `blocks` and, in `anchors`, the number of the block at which each id stands; `title` is the page's."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self.anchors: dict[str, int] = {}
        self.title = ""
        self._text: list[str] = []
        self._level = 0
        self._skipped, self._depth = "", 0  # the element whose content is left out, and how deep it is nested
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        tag = tag.split(":")[-1]
        self._in_title = tag == "title"
        if tag == "body":
            self._skipped = ""
        if self._skipped:
            self._depth += tag == self._skipped
            return
        if tag not in _INLINE and tag not in _SPACES:
            self._flush()
            self._level = int(tag[1]) if re.fullmatch("h[1-6]", tag) else self._level
        values = dict(attrs)
        for name in (values.get("id"), values.get("name")):
            if name:
                self.anchors.setdefault(name, len(self.blocks))
        kind = (values.get("epub:type") or "").split()
        if tag not in _VOID and (tag in _SKIPPED or {"noteref", "pagebreak", "toc"} & set(kind) or "hidden" in values):
            self._skipped, self._depth = tag, 1
        if tag in _SPACES:
            self._text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        tag = tag.split(":")[-1]
        self._in_title = False
        if self._skipped:
            self._depth -= tag == self._skipped
            if self._depth == 0:
                self._skipped = ""
            return
        if tag not in _INLINE and tag not in _SPACES:
            self._flush()
            self._level = 0 if re.fullmatch("h[1-6]", tag) else self._level

    def handle_data(self, data: str) -> None:
        if self._in_title and not self.title:
            self.title = " ".join(data.split())
        elif not self._skipped:
            self._text.append(data)

    def close(self) -> None:
        super().close()
        self._flush()

    def _flush(self) -> None:
        text = " ".join("".join(self._text).split())
        self._text = []
        if text:
            self.blocks.append(Block(text, self._level))


def read_html(text: str) -> BlockReader:
    """Return what a page holds."""
    reader = BlockReader()
    reader.feed(linear(text))
    reader.close()
    return reader


def linear(text: str) -> str:
    """Return a page without what `HTMLParser` searches again and again where its end is missing."""
    text = re.sub(r"<!--.*?(?:-->|\Z)", " ", text, flags=re.DOTALL)
    text = text.replace("<![CDATA[", " ").replace("<![", " ").replace("]]>", " ")
    end = text.rfind(">") + 1
    return text[:end] + text[end:].replace("<", " ")


def decode_page(data: bytes) -> str:
    """Decode a page by its byte-order mark or by the encoding that it states; UTF-8 where there is none."""
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    found = _ENCODING.search(data[:1024])
    try:
        return data.decode(found[1].decode("ascii") if found else "utf-8", errors="replace")
    except LookupError:
        return data.decode("utf-8", errors="replace")
