"""EPUB 2 and 3 to chapters, with the standard library alone. Nothing is unpacked to disk, nothing is fetched."""

from __future__ import annotations

import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

from codec.common.files import check_file
from codec.common.safe_xml import parse_xml
from codec.errors import SoundloomError, quoted
from pipelines.books.chapters import Block, Chapter, at_headings, at_marks, clean_title
from pipelines.books.html_text import decode_page, linear, read_html

MAX_BYTES = 500 << 20  # of the file, with its pictures
MAX_DIRECTORY = 4 << 20  # of the archive's list of files, about 40,000 names
MAX_PART, MAX_TEXT = 8 << 20, 64 << 20  # unpacked: of one file in the book, and of all that are read
MAX_SPINE = 5_000

Entry = tuple[str, str, str]  # of a table of contents: title, file, id in it


class Epub:
    """An opened book: its title, the files of its text in reading order, and its table of contents."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        check_file(path, MAX_BYTES)
        _check_directory(path)
        self._read = 0
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as error:
            raise SoundloomError(f"{path}: is not an EPUB ({error}); expected a zip archive") from None
        self._names = set(self._archive.namelist())
        if "META-INF/rights.xml" in self._names:
            raise SoundloomError(f"{path}: is encrypted (DRM); expected a book without protection")
        root = next(_named(self.xml("META-INF/container.xml"), "rootfile"), None)
        if root is None:
            raise SoundloomError(f"{path}: META-INF/container.xml names no package file; is it an EPUB?")
        self._package = self._inside("", root.get("full-path", ""))
        package = self.xml(self._package)
        self.title = clean_title("".join(next(_named(package, "title"), ElementTree.Element("t")).itertext()))
        self._manifest = {item.get("id", ""): item for item in _named(package, "item")}
        self.spine = self._spine(package)
        self.contents = self._contents(package)

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def page(self, name: str) -> str:
        """Return a page of the book as text. Raises: SoundloomError."""
        return decode_page(self._bytes(name))

    def xml(self, name: str) -> ElementTree.Element:
        """Return a file of the book as a tree. Raises: SoundloomError, also where it declares an entity."""
        return parse_xml(self._bytes(name), f"{self.name}: {name}")

    def _bytes(self, name: str) -> bytes:
        """Return an unpacked file, never more than the limits allow: a declared size may lie."""
        where = f"{self.name}: {name}"
        if name not in self._names:
            raise SoundloomError(f"{where} is missing; is it a whole EPUB?")
        entry = self._archive.getinfo(name)
        if entry.flag_bits & 1:
            raise SoundloomError(f"{where} is encrypted; expected a book without protection")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SoundloomError(f"{where}: compression {entry.compress_type} is not one of EPUB; expected deflate")
        limit = min(MAX_PART, MAX_TEXT - self._read)
        try:
            with self._archive.open(entry) as file:
                data = file.read(limit + 1)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, struct.error, RuntimeError) as error:
            raise SoundloomError(f"{where}: cannot be unpacked ({error})") from None
        if len(data) > limit:
            raise SoundloomError(
                f"{where}: unpacks to too much; expected at most {MAX_PART:,} bytes a file, {MAX_TEXT:,} in all"
            )
        self._read += len(data)
        return data

    def _inside(self, base: str, href: str) -> str:
        """Return the archive's name for a link in the file ``base``. Raises: SoundloomError for one that leads out."""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(base), unquote(href)))
        if path.startswith(("/", "../")) or path == ".." or "\\" in path or "\0" in path:
            raise SoundloomError(f"{self.name}: the link {quoted(href)} leads out of the book")
        return path

    def _spine(self, package: ElementTree.Element) -> list[str]:
        files = []
        for item in _named(package, "itemref"):
            entry = self._manifest.get(item.get("idref", ""))
            # The table of contents is not read aloud; nor is what stands outside the reading order.
            if entry is None or item.get("linear") == "no" or "nav" in entry.get("properties", "").split():
                continue
            files.append(self._inside(self._package, entry.get("href", "")))
        if not files or len(files) > MAX_SPINE:
            raise SoundloomError(f"{self.name}: names {len(files):,} files to read; expected 1 to {MAX_SPINE:,}")
        return list(dict.fromkeys(files))

    def _contents(self, package: ElementTree.Element) -> list[Entry]:
        """Return the table of contents: EPUB 3's navigation page, else EPUB 2's NCX, else nothing."""
        for item in self._manifest.values():
            if "nav" in item.get("properties", "").split():
                base = self._inside(self._package, item.get("href", ""))
                found = [self._entry(base, title, href) for title, href in _navigation(self.page(base))]
                if found:
                    return found
        for item in self._manifest.values():
            if item.get("media-type") == "application/x-dtbncx+xml":
                base = self._inside(self._package, item.get("href", ""))
                return [self._entry(base, title, href) for title, href in _ncx(self.xml(base))]
        return []

    def _entry(self, base: str, title: str, href: str) -> Entry:
        file, _, fragment = href.partition("#")
        return title, self._inside(base, file) if file else base, unquote(fragment)


def read_epub(path: Path) -> list[Chapter]:
    """Return the chapters of an EPUB: in the order of its spine, cut where its table of contents points.

    Without a table of contents, each file of the spine is a chapter, or where there is only one, each heading.
    Raises: SoundloomError.
    """
    book = Epub(path)
    try:
        blocks: list[Block] = []
        starts: dict[str, int] = {}
        anchors: dict[tuple[str, str], int] = {}
        titles: list[tuple[int, str]] = []
        for name in book.spine:
            page = read_html(book.page(name))
            starts[name] = len(blocks)
            anchors |= {(name, id_): len(blocks) + place for id_, place in page.anchors.items()}
            titles.append((len(blocks), next((block.text for block in page.blocks if block.level), page.title)))
            blocks += page.blocks
        first = book.title or clean_title(path.stem)
        marks = [
            (anchors.get((file, id_), starts[file]), title) for title, file, id_ in book.contents if file in starts
        ]
        marks = [mark for mark in marks if mark[0] < len(blocks)]
        if marks:
            return at_marks(blocks, marks, first)
        return at_marks(blocks, titles, first) if len(titles) > 1 else at_headings(blocks, first)
    finally:
        book.close()


def _check_directory(path: Path) -> None:
    """Look at the archive's end before `zipfile` reads a list of files that may be huge.

    Raises: SoundloomError.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 65_557))  # an end record of 22 bytes and a comment of at most 65,535
        tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) < place + 22 or tail[max(0, place - 20) : place].startswith(b"PK\x06\x07"):  # Zip64
        raise SoundloomError(f"{path}: is not an EPUB; expected a whole zip archive of less than 4 GB")
    listed = struct.unpack("<L", tail[place + 12 : place + 16])[0]
    if listed > MAX_DIRECTORY:
        raise SoundloomError(f"{path}: its list of files takes {listed:,} bytes; expected at most {MAX_DIRECTORY:,}")


def _named(tree: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Yield the elements of a name, whatever its prefix."""
    return (element for element in tree.iter() if element.tag.split(":")[-1] == name)


def _ncx(tree: ElementTree.Element) -> Iterator[tuple[str, str]]:
    for point in _named(tree, "navPoint"):
        label = next((child for child in point if child.tag.split(":")[-1] == "navLabel"), None)
        content = next((child for child in point if child.tag.split(":")[-1] == "content"), None)
        if label is not None and content is not None:
            yield clean_title("".join(label.itertext())), content.get("src", "")


class _Navigation(HTMLParser):
    """Collects the links of a navigation page's table of contents."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[tuple[str, str]] = []
        self._inside, self._href = False, ""
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "nav":
            self._inside = "toc" in (values.get("epub:type") or values.get("role") or "toc").replace("doc-", "").split()
        elif tag == "a" and self._inside:
            self._href, self._text = values.get("href") or "", []

    def handle_endtag(self, tag: str) -> None:
        if tag == "nav":
            self._inside = False
        elif tag == "a" and self._href:
            self.links.append((clean_title("".join(self._text)), self._href))
            self._href = ""

    def handle_data(self, data: str) -> None:
        self._text.append(data)


def _navigation(page: str) -> list[tuple[str, str]]:
    reader = _Navigation()
    reader.feed(linear(page))
    reader.close()
    return reader.links
