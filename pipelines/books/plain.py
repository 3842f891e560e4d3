"""Books as plain text, Markdown, a page of HTML, or a folder of such files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from codec.common.files import read_bytes
from codec.errors import SoundloomError, quoted
from pipelines.books.chapters import MAX_CHAPTERS, Block, Chapter, at_headings, clean_title
from pipelines.books.html_text import decode_page, read_html

TEXT, MARKDOWN, HTML = (".txt", ".text"), (".md", ".markdown"), (".html", ".htm", ".xhtml")
MAX_BYTES = 64 << 20

_ONES = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
_NUMBER = (
    rf"(?:[IVXLCDM]+|[ivxlcdm]+|\d{{1,4}}|(?:the )?(?:{_ONES}|(?:twen|thir|for|fif)ty(?:-(?:{_ONES}))?|first|last))"
)
_NUMBERED = re.compile(
    rf"(?P<kind>chapter|book|part|volume|canto|act|letter|stave)\s+(?:{_NUMBER})(?P<rest>\s*$|\s*[.:\u2014\u2013-].*|\s.*)",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"(?:the )?(?:prologue|epilogue|preface|introduction|foreword|afterword|conclusion|appendix)\.?", re.IGNORECASE
)
_GUTENBERG = re.compile(r"^\*\*\* ?(START|END) OF (?:THE|THIS) PROJECT GUTENBERG.*$", re.MULTILINE)
_LONGEST_HEADING = 120

_FENCE = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1\s*$|\Z)", re.MULTILINE | re.DOTALL)
_MARKDOWN_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.*?)\s*#*\s*")
_RULE = re.compile(r" {0,3}(?:[-*_] ?){3,}\s*")
_LIST = re.compile(r"^\s*(?:[-*+]|\d{1,4}[.)])\s+")
_MARKUP = (
    (re.compile(r"!\[[^\]\n]{0,500}\]\([^)\n]{0,2000}\)"), ""),  # pictures
    (re.compile(r"\[([^\]\n]{1,500})\]\([^)\n]{0,2000}\)"), r"\1"),  # links
    (re.compile(r"(?<![\w*_`])(\*{1,3}|_{1,3}|`)(?=\S)([^*_`\n]{1,2000}?)(?<=\S)\1(?![\w*_`])"), r"\2"),
)


def read_plain(path: Path) -> list[Chapter]:
    """Return the chapters of one file, by its suffix. Raises: SoundloomError."""
    suffix, first = path.suffix.lower(), clean_title(path.stem)
    text = decode_page(read_bytes(path, MAX_BYTES)) if suffix in HTML else _decoded(path)
    if suffix in HTML:
        page = read_html(text)
        return at_headings(page.blocks, page.title or first)
    if suffix in MARKDOWN:
        return at_headings(markdown_blocks(text), first)
    return at_headings(text_blocks(text), first, level=2)


def read_folder(folder: Path) -> list[Chapter]:
    """Return the files of a folder as chapters, in the order of their names (2 before 10).

    Raises: SoundloomError.
    """
    kinds = (*TEXT, *MARKDOWN, *HTML)
    names = [entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith(".")]
    paths = sorted((folder / name for name in names if Path(name).suffix.lower() in kinds), key=_natural)
    if not paths:
        raise SoundloomError(f"{folder}: holds no chapter; expected files that end with one of {', '.join(kinds)}")
    if len(paths) > MAX_CHAPTERS:
        raise SoundloomError(f"{folder}: has {len(paths):,} files; expected at most {MAX_CHAPTERS:,}")
    chapters = []
    for path in paths:
        blocks = [block for chapter in read_plain(path) for block in chapter.blocks]
        title = next((block.text for block in blocks if block.level), path.stem)
        chapters.append(Chapter(clean_title(title), tuple(blocks)))
    return chapters


def text_blocks(text: str) -> list[Block]:
    """Return the paragraphs of a plain text; lines like "CHAPTER IV" are headings, of parts level 1, else level 2."""
    text = _without_licence(text)
    lines = text.splitlines()
    if not re.search(r"\n[ \t]*\n", text.strip()) and max(map(len, lines), default=0) > _LONGEST_HEADING:
        return [_text_block([line]) for line in lines if line.strip()]
    blocks = []
    for lines in _paragraphs(text):
        if sum(1 for line in lines if heading_level(line)) < 3:  # else a printed table of contents
            blocks.append(_text_block(lines))
    return blocks


def heading_level(line: str) -> int:
    """Return 1 for a heading like "BOOK TWO", 2 for one like "CHAPTER IV. The Cave" or "Preface", else 0."""
    line = line.strip().strip("*_=# ")
    if len(line) > _LONGEST_HEADING:
        return 0
    if _NAMED.fullmatch(line):
        return 2
    found = _NUMBERED.fullmatch(line)
    if found is None or found["kind"].islower():
        return 0
    rest = found["rest"].strip()
    if rest and rest[0] not in ".:-\u2014\u2013" and not found["kind"].isupper():
        return 0  # "Part two of the plan failed."
    return 1 if found["kind"].lower() in ("book", "part", "volume", "act") else 2


def markdown_blocks(text: str) -> list[Block]:
    """Return the headings and paragraphs of Markdown, without its marks; blocks of code are left out."""
    text = re.sub(r"<!--.*?(?:-->|\Z)", "", _FENCE.sub("", text.expandtabs(4)), flags=re.DOTALL)
    blocks: list[Block] = []
    waiting: list[str] = []

    def flush(level: int = 0) -> None:
        joined = _plain(" ".join(waiting))
        waiting.clear()
        if joined:
            blocks.append(Block(joined, level))

    for line in re.sub(r"^ {0,3}(?:> ?)+", "", text, flags=re.MULTILINE).splitlines():
        heading = _MARKDOWN_HEADING.fullmatch(line)
        if waiting and re.fullmatch(r" {0,3}(=+|--+)\s*", line):
            flush(1 if "=" in line else 2)
        elif heading is not None:
            flush()
            waiting.append(heading[2])
            flush(len(heading[1]))
        elif not line.strip() or _RULE.fullmatch(line):
            flush()
        else:
            if _LIST.match(line):
                flush()
            waiting.append(_LIST.sub("", line, count=1))
    flush()
    return blocks


def _plain(text: str) -> str:
    for pattern, instead in _MARKUP:
        text = pattern.sub(instead, text)
    return " ".join(text.split())


def _paragraphs(text: str) -> list[list[str]]:
    paragraphs: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    return [lines for lines in paragraphs if lines]


def _text_block(lines: list[str]) -> Block:
    text = " ".join(" ".join(lines).split())
    return Block(text, heading_level(lines[0]) if len(text) <= _LONGEST_HEADING else 0)


def _without_licence(text: str) -> str:
    """Return what stands between the two marks that Project Gutenberg's files have."""
    marks = {found[1]: found for found in _GUTENBERG.finditer(text)}
    begin = marks["START"].end() if "START" in marks else 0
    end = marks["END"].start() if "END" in marks else len(text)
    return text[begin:end] if begin < end else text


def _decoded(path: Path) -> str:
    data = read_bytes(path, MAX_BYTES)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SoundloomError(f"{quoted(str(path))}: is not UTF-8 text ({error.reason} at byte {error.start})") from None


def _natural(path: Path) -> list[tuple[int, str]]:
    """Order names with numbers as people do."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d{1,9})", path.name.casefold())]
