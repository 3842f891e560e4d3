"""read_book.py: chapters of every kind of book, one file with marks, resumed readings, hostile EPUBs."""

from __future__ import annotations

import json
import os
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from voice_helpers import tiny_voice

from codec.audio.files import audio_info
from codec.errors import SoundloomError
from pipelines import read_book
from pipelines.books.chapters import tidy
from pipelines.books.html_text import read_html
from pipelines.books.output import Mark, check_size, vtt
from pipelines.books.plain import heading_level, markdown_blocks
from pipelines.books.reading import Reader, cut_text, groups
from pipelines.command_line.run import run

CONTAINER = '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
NAV = (
    '<html><body><nav epub:type="toc"><ol><li><a href="one.xhtml">The &amp; Cave</a></li>'
    '<li><a href="two%20b.xhtml#c2">Second</a></li><li><a href="two%20b.xhtml#c3">Third</a></li></ol></nav>'
    "</body></html>"
)
ONE = (
    "<html><head><title>x</title></head><body><h1>One</h1>"
    "<p>Hello <b>wor</b>ld.<a epub:type='noteref'>7</a></p></body></html>"
)
TWO = (
    '<html><body><h1 id="c2">Two</h1><p>How are you?</p><p>* * *</p>'
    '<div id="c3"><h1>Three</h1><p>Hello, Привет.</p></div></body></html>'
)


def opf(spine: str = "<itemref idref='nav'/><itemref idref='a'/><itemref idref='b'/>", a: str = "one.xhtml") -> str:
    return (
        '<package xmlns:dc="d"><metadata><dc:title>My Book</dc:title></metadata><manifest>'
        f'<item id="nav" href="nav.xhtml" properties="nav"/><item id="a" href="{a}"/>'
        f'<item id="b" href="two%20b.xhtml"/></manifest><spine>{spine}</spine></package>'
    )


def write_epub(path: Path, **changes: str | bytes) -> Path:
    """An EPUB of three chapters; ``changes``: other contents by key."""
    names = {"container": "META-INF/container.xml", "package": "OEBPS/book.opf", "nav": "OEBPS/nav.xhtml"}
    names |= {"one": "OEBPS/one.xhtml", "two": "OEBPS/two b.xhtml", "rights": "META-INF/rights.xml"}
    files = {"container": CONTAINER, "package": opf(), "nav": NAV, "one": ONE, "two": TWO} | changes
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, content in files.items():
            archive.writestr(names[key], content)
    return path


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("voice")
    return str(tiny_voice(place / "text").save(place / "tiny"))


def read(voice: str, book: Path, out: Path, *more: str) -> int:
    return read_book.main([str(book), "-o", str(out), "--voice", voice, "--retries", "0", *more])


def titles(book: Path) -> list[str]:
    return [chapter.title for chapter in read_book.read_chapters(str(book))]


# --- chapters ---------------------------------------------------------------------------------------------------------


def test_an_epub_has_the_order_of_its_spine_and_the_titles_of_its_contents(tmp_path: Path) -> None:
    chapters = read_book.read_chapters(str(write_epub(tmp_path / "a.epub")))
    assert [chapter.title for chapter in chapters] == ["The & Cave", "Second", "Third"]
    assert [block.text for block in chapters[0].blocks] == ["One", "Hello world."]
    assert [block.text for block in chapters[1].blocks] == ["Two", "How are you?", "* * *"]
    swapped = opf("<itemref idref='b'/><itemref idref='a'/>")
    assert titles(write_epub(tmp_path / "b.epub", package=swapped)) == ["Second", "Third", "The & Cave"]


def test_an_old_epub_has_an_ncx_and_one_without_contents_its_files(tmp_path: Path) -> None:
    ncx = (
        "<!DOCTYPE ncx PUBLIC 'a' 'b'><ncx><navMap><navPoint><navLabel><text>Uno</text></navLabel>"
        "<content src='one.xhtml'/><navPoint><navLabel><text>Due</text></navLabel><content src='two%20b.xhtml'/>"
        "</navPoint></navPoint></navMap></ncx>"
    )
    old = opf("<itemref idref='a'/><itemref idref='b'/>")
    old = old.replace('properties="nav"', 'media-type="application/x-dtbncx+xml"')
    assert titles(write_epub(tmp_path / "a.epub", package=old, nav=ncx)) == ["Uno", "Due"]
    bare = old.replace("application/x-dtbncx+xml", "x")
    assert titles(write_epub(tmp_path / "b.epub", package=bare)) == ["One", "Two"]


def test_chapters_of_texts(tmp_path: Path) -> None:
    text = tmp_path / "tale.txt"
    text.write_text(
        "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n\nTale.\n\nCHAPTER I. In\nCHAPTER II. On\nCHAPTER III. Up\n\n"
        "BOOK ONE\n\nCHAPTER I. In\n\nHello\nworld.\n\nChapter 2\n\nPart two of it failed.\n\nEpilogue\n\nThe end.\n\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK X ***\nlicence\n"
    )
    assert titles(text) == ["tale", "BOOK ONE: CHAPTER I. In", "Chapter 2", "Epilogue"]
    blocks = read_book.read_chapters(str(text))[1].blocks
    assert [(block.text, block.level) for block in blocks] == [
        ("BOOK ONE", 1),
        ("CHAPTER I. In", 2),
        ("Hello world.", 0),
    ]
    (tmp_path / "a.md").write_text(
        "# Book\n\nIntro *here*.\n\n## One\n- [x](http://y)\n\nTwo\n---\ntext `c`\n```\ncode\n```\n"
    )
    assert titles(tmp_path / "a.md") == ["Book", "One", "Two"]
    (tmp_path / "a.html").write_text("<title>T</title><p>Before</p><h2>A</h2><p>x</p><h2>B</h2>y<script>z</script>")
    assert titles(tmp_path / "a.html") == ["T", "A", "B"]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("10.md", "2.txt", "1.html"):
        (folder / name).write_text(f"Text {name}.")
    assert titles(folder) == ["1", "2", "10"]


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("CHAPTER IV", 2),
        ("Chapter 4: The Cave", 2),
        ("CHAPTER THE LAST", 2),
        ("Chapter Twenty-One", 2),
        ("PART II", 1),
        ("Part II of it was signed.", 0),
        ("chapter 3 is long", 0),
        ("Preface", 2),
        ("Hello", 0),
        ("Chapter 3 is", 0),
    ],
)
def test_lines_that_are_headings(line: str, level: int) -> None:
    assert heading_level(line) == level


def test_marks_of_markdown_are_not_read() -> None:
    blocks = markdown_blocks("> **Bold** and _it_ ![p](q) [link](u) snake_case_name\n\n***\n1. one\n2. two\n")
    assert [block.text for block in blocks] == ["Bold and it link snake_case_name", "one", "two"]


def test_a_title_that_comes_again_is_a_line_of_the_contents() -> None:
    page = read_html("<h1>A</h1><h1>B</h1><h1>A</h1><p>x</p><h1>B</h1><p>y</p>")
    from pipelines.books.chapters import at_headings

    assert [chapter.title for chapter in tidy(at_headings(page.blocks, "T"), "t")] == ["A", "B"]


def test_long_paragraphs_are_cut_and_groups_are_bounded() -> None:
    text = "One two three. " * 1000
    assert " ".join(cut_text(text, 4000)) == text.strip()
    assert all(len(part) <= 4000 for part in cut_text("x" * 9000, 4000))
    page = read_html(f"<p>{text}</p><p>short</p>")
    sizes = [sum(len(block.text) for _, block in group) for group in groups(page.blocks)]
    assert len(sizes) > 2 and max(sizes) <= 6000


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_book_becomes_one_file_with_marks(voice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.flac"
    assert read(voice, write_epub(tmp_path / "a.epub"), out) == 0
    marks = json.loads((tmp_path / "out.chapters.json").read_text())
    assert [mark["title"] for mark in marks] == ["The & Cave", "Second", "Third"]
    assert marks[0]["start"] == 0 and marks[0]["end"] == marks[1]["start"]
    assert marks[-1]["end"] == pytest.approx(audio_info(out).duration, abs=0.001)
    assert "\nThe &amp; Cave\n" in (tmp_path / "out.chapters.vtt").read_text()
    said = capsys.readouterr().err
    assert "warning: 1 part of the text left out, cannot be spoken" in said and "3 chapters" in said
    assert read(voice, tmp_path / "a.epub", tmp_path / "some.wav", "--chapters", "3,1") == 0
    assert [mark["title"] for mark in json.loads((tmp_path / "some.chapters.json").read_text())] == [
        "The & Cave",
        "Third",
    ]


def test_a_reading_that_was_stopped_is_resumed_to_the_same_bytes(
    voice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    book = write_epub(tmp_path / "a.epub")
    assert read(voice, book, tmp_path / "whole.flac") == 0
    speak, done = Reader._speak, []

    def stop(self: Reader, group: Any, tally: Any) -> Any:
        for wave in speak(self, group, tally):
            yield wave
            done.append(wave)
            if len(done) == 6:  # in the middle of the second chapter
                raise KeyboardInterrupt

    out = tmp_path / "out.flac"
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "_speak", stop)
        assert run(lambda: read(voice, book, out)) == 130
    assert not out.exists() and len(list((tmp_path / "out.parts").glob("*.json"))) == 1
    # what a killed process leaves: a file without a record, and a temporary one
    (record,) = (tmp_path / "out.parts").glob("*.json")
    (tmp_path / "out.parts" / f".{record.stem}.tmp123.flac").write_bytes(b"half")
    capsys.readouterr()
    assert read(voice, book, out) == 0
    assert "1 of 3 chapters were read before" in capsys.readouterr().err
    assert out.read_bytes() == (tmp_path / "whole.flac").read_bytes()
    assert len(list((tmp_path / "out.parts").iterdir())) == 6


def test_only_what_was_changed_is_read_again(voice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, count = Reader.read, []

    def counting(self: Reader, chapter: Any, progress: Any) -> Any:
        count.append(chapter.title)
        return original(self, chapter, progress)

    monkeypatch.setattr(Reader, "read", counting)
    book, out, new = tmp_path / "a.epub", tmp_path / "out.wav", TWO.replace("you?", "you now?")
    for changes, more, expected in (
        ({}, (), ["The & Cave", "Second", "Third"]),
        ({}, (), []),
        ({"two": new}, (), ["Second"]),
        ({"two": new, "nav": NAV.replace("Third", "Last")}, (), []),  # a title is only shown
        ({}, ("--seed", "1", "--chapters", "1"), ["The & Cave"]),
        ({}, ("--speed", "1.5", "--chapters", "1"), ["The & Cave"]),
    ):
        count.clear()
        assert read(voice, write_epub(book, **changes), out, *more) == 0
        assert count == expected
    count.clear()
    for sound in (tmp_path / "out.parts").glob("*.flac"):
        sound.write_bytes(sound.read_bytes()[:-10])
    assert read(voice, book, out, "--chapters", "1") == 0 and count == ["The & Cave"]


def test_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = write_epub(tmp_path / "a.epub")
    assert read_book.main([str(book), "--list", "--chapters", "2-3"]) == 0
    rows = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    assert rows[1:] == [["2", "4", "0.0", "Second"], ["3", "3", "0.0", "Third"], ["all", "7", "0.0"]]
    assert [path.name for path in tmp_path.iterdir()] == ["a.epub"]


def test_marks_and_sizes() -> None:
    assert vtt([Mark("A --> <b>", 0, 3661.5)]) == "WEBVTT\n\n1\n00:00:00.000 --> 01:01:01.500\nA --&gt; &lt;b&gt;\n"
    check_size(1e9, 24_000, 1, Path("a.flac"))
    with pytest.raises(SoundloomError, match=r"too long.*use \.flac"):
        check_size(3e9, 24_000, 1, Path("a.wav"))


# --- bad input --------------------------------------------------------------------------------------------------------

ENTITY = '<!DOCTYPE p [<!ENTITY a "x"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"package": ENTITY + opf()}, "declares an entity"),
        ({"package": (ENTITY + opf()).encode("utf-16")}, "declares an entity"),
        ({"package": opf(a="../../etc/passwd")}, "leads out of the book"),
        ({"package": opf(a="/etc/passwd")}, "leads out of the book"),
        ({"package": opf(a="%2e%2e/%2e%2e/x")}, "leads out of the book"),
        ({"package": opf(a="absent.xhtml")}, "absent.xhtml is missing"),
        ({"package": opf("")}, "names 0 files to read"),
        ({"package": "<package"}, "not valid XML"),
        ({"container": "<container/>"}, "names no package file"),
        ({"one": b" " * (9 << 20)}, "unpacks to too much"),
        ({"rights": ""}, "encrypted"),
        ({"one": "", "two": "<p>* * *</p>"}, "has no text to read"),
    ],
)
def test_hostile_epubs_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str | bytes], message: str
) -> None:
    book = write_epub(tmp_path / "a.epub", **changes)
    assert run(lambda: read_book.main([str(book), "--list"])) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


def test_broken_archives(tmp_path: Path) -> None:
    good = write_epub(tmp_path / "a.epub").read_bytes()
    end = good.rfind(b"PK\x05\x06")
    huge = good[: end + 12] + struct.pack("<L", 1 << 30) + good[end + 16 :]
    encrypted = bytearray(good)
    place = good.find(b"PK\x01\x02")
    encrypted[place + 8] |= 1
    spoilt = bytearray(good)
    spoilt[60:90] = bytes(30)
    for data, message in (
        (b"", "not an EPUB"),
        (b"hello" * 100, "not an EPUB"),
        (good[: len(good) // 2], "not an EPUB"),
        (huge, "its list of files takes"),
        (good[:end] + b"PK\x06\x07" + bytes(16) + good[end:], "not an EPUB"),
        (bytes(encrypted), "is encrypted"),
        (bytes(spoilt), "cannot be unpacked"),
    ):
        (tmp_path / "b.epub").write_bytes(data)
        with pytest.raises(SoundloomError, match=message):
            read_book.read_chapters(str(tmp_path / "b.epub"))


@pytest.mark.parametrize(
    "text", ["<!--", "<!-- >", "<![x>", "<!", "<a b='", "<p>", "<?", "</", "<script></", "&#", '<a b="><']
)
def test_no_page_takes_long(text: str) -> None:
    began = time.perf_counter()
    read_html(text * (200_000 // len(text)))
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.epub"], "absent.epub"),
        (["a.pdf"], "unknown kind of book"),
        (["empty"], "holds no chapter"),
        (["bad.txt"], "not UTF-8"),
        (["a.epub", "--chapters", "4"], "expected numbers from 1 to 3"),
        (["a.epub", "--chapters", "2-1"], "expected numbers from 1 to 3"),
        (["a.epub", "--speed", "9"], "--speed 9.0: expected 0.5 to 2"),
        (["a.epub", "-o", "-"], "a book goes to a file"),
        (["a.epub", "-o", "a.doc"], "unknown kind of file"),
        (["a.epub", "--speaker", "bob"], "no speaker 'bob'"),
        (["ornaments.txt"], "has no text"),
    ],
)
def test_bad_input_is_one_line(
    voice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_epub(Path("a.epub"))
    Path("empty").mkdir()
    Path("bad.txt").write_bytes(b"\xff\xfe\x00")
    Path("ornaments.txt").write_text("* * *\n")
    before = set(os.listdir())
    with pytest.raises(SoundloomError, match=message):
        read_book.main([*arguments, "--voice", voice])
    assert set(os.listdir()) == before
