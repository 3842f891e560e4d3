"""Read a book aloud to one file with chapter marks.

    python pipelines/read_book.py book.epub --list                  # its chapters, with words and expected minutes
    python pipelines/read_book.py book.epub -o book.flac
    python pipelines/read_book.py book.txt -o book.mp3 --speaker fenrir --speed 1.1
    python pipelines/read_book.py chapters/ -o book.opus            # a folder: each file is a chapter
    python pipelines/read_book.py book.epub -o first.wav --chapters 1,3-5
    python pipelines/read_book.py book.epub -o book.flac --times book.srt              # or .vtt, .json
    python pipelines/read_book.py book.epub -o mine.flac --prompt me.wav --prompt-text "what I say there"

The book is .epub, .txt, .md, .html, or a folder of such files. Next to the sound, book.chapters.json and
book.chapters.vtt hold the chapters. The folder book.parts/ holds one file for each chapter that was read: the same
command resumes a reading that was stopped, and reads again only what was changed, text or settings. Delete the folder
when the book is done. What cannot be spoken is left out and counted at the end. Exit code: 0; 2 for bad input; 130
after Ctrl-C.
"""

from __future__ import annotations

import pipelines.command_line.interrupts  # noqa: F401 - Ctrl-C while torch is imported ends in one line

# isort: split
import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.audio.files import WRITABLE
from codec.common.files import sha256_file, write_text
from codec.errors import SoundloomError, quoted
from pipelines.books.chapters import Chapter, tidy
from pipelines.command_line.progress import Bar
from pipelines.command_line.run import check_numbers, make_parser, run
from pipelines.command_line.voice_options import (
    MOST_RETRIES,
    SAMPLING_RANGES,
    add_voice_options,
    check_output,
    check_prompt,
    check_times,
    describe,
    open_voice,
    voice_settings,
)

if TYPE_CHECKING:
    from pipelines.books.reading import Part, Reader

WORDS_PER_MINUTE = 190  # of the shipped voice, pauses included: 193 in the first two chapters of Genesis


def read_chapters(book: str) -> list[Chapter]:
    """Return the chapters of a file or a folder. Raises: SoundloomError."""
    from pipelines.books.epub import read_epub
    from pipelines.books.plain import HTML, MARKDOWN, TEXT, read_folder, read_plain

    path = Path(book)
    suffix, kinds = path.suffix.lower(), (*TEXT, *MARKDOWN, *HTML)
    if path.is_dir():
        return tidy(read_folder(path), book)
    if suffix == ".epub":
        return tidy(read_epub(path), book)
    if suffix in kinds:
        return tidy(read_plain(path), book)
    raise SoundloomError(f"{quoted(book)}: unknown kind of book; expected a folder or one of .epub, {', '.join(kinds)}")


def choose(asked: str | None, count: int) -> list[int]:
    """Return the chapters of "1,3-5" as indices from 0, in the order of the book. Raises: SoundloomError."""
    if asked is None:
        return list(range(count))
    chosen: set[int] = set()
    for part in asked.split(","):
        found = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last <= count:
            raise SoundloomError(f"--chapters {quoted(asked)}: expected numbers from 1 to {count}, such as 1,3-5")
        chosen.update(range(first - 1, last))
    return sorted(chosen)


def list_chapters(chapters: Sequence[Chapter], chosen: Sequence[int], speed: float) -> None:
    """Print the chosen chapters, one a line, and what they are together."""
    print(f"{'chapter':>7} {'words':>8} {'minutes':>8}  title")
    for i in chosen:
        words = chapters[i].words
        print(f"{i + 1:>7} {words:>8,} {words / WORDS_PER_MINUTE / speed:>8.1f}  {chapters[i].title}")
    total = sum(chapters[i].words for i in chosen)
    print(f"{'all':>7} {total:>8,} {total / WORDS_PER_MINUTE / speed:>8.1f}")


def make_reader(options: argparse.Namespace, output: Path) -> Reader:
    """Open the voice and check the settings before any work. Raises: SoundloomError."""
    from pipelines.books.reading import Reader

    voice = open_voice(options)
    facts: dict[str, Any] = {"device": str(voice.device)}
    if options.lexicon is not None:
        voice.add_words(options.lexicon)
        facts["lexicon"] = sha256_file(options.lexicon)
    if options.prompt is not None:
        check_prompt(options.prompt)
        facts["prompt"] = sha256_file(options.prompt)
    names = ("speaker", "prompt", "prompt_text", "speed", "retries")
    settings = voice_settings(options) | {name: getattr(options, name) for name in names}
    seed = settings.pop("seed")
    voice.speak_batch([], **settings)  # checks all of them
    return Reader(voice, output.with_suffix(".parts"), seed, settings, facts, options.times is not None)


def read_aloud(reader: Reader, chapters: Sequence[Chapter]) -> list[Part]:
    """Read the chapters that were not read before, and return the records of all."""
    found = {i: part for i, chapter in enumerate(chapters) if (part := reader.find(chapter)) is not None}
    if found:
        print(f"{len(found)} of {len(chapters)} chapters were read before and are kept", file=sys.stderr)
    waiting = [i for i in range(len(chapters)) if i not in found]
    began, seconds = time.perf_counter(), 0.0
    with Bar(sum(chapters[i].words for i in waiting), "word") as bar:
        for i in waiting:
            bar.add(0, f"chapter {i + 1} of {len(chapters)}")
            # A chapter may be there twice.
            found[i] = reader.find(chapters[i]) or reader.read(chapters[i], bar.add)
            seconds += found[i].samples / found[i].sample_rate
    if waiting:
        print(describe("speech", time.perf_counter() - began, seconds), file=sys.stderr)
    return [found[i] for i in range(len(chapters))]


def report(parts: Sequence[Part]) -> None:
    """Show on standard error what could not be spoken, and sentences that did not end well."""
    skipped, bad = sum(part.skipped for part in parts), sum(part.bad for part in parts)
    if skipped:
        shown = ", ".join([quoted(text, 42) for part in parts for text in part.shown][:3])
        print(f"warning: {_counted(skipped, 'part')} of the text left out, cannot be spoken: {shown}", file=sys.stderr)
    if bad:
        total = sum(part.sentences for part in parts)
        print(f"warning: {bad} of {total} sentences did not end well; another --seed reads them anew", file=sys.stderr)


def write_times(path: str, reader: Reader, spoken: Sequence[tuple[Part, Chapter]], starts: Sequence[float]) -> None:
    """Write when each word of the book is spoken, in the format of the file's suffix."""
    from pipelines.voice.captions import as_file, moved

    words = [moved(reader.words(part.key), start) for (part, _), start in zip(spoken, starts, strict=True)]
    write_text(path, as_file(Path(path).suffix, [word for chapter in words for word in chapter]))


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def prune(folder: Path, parts: Sequence[Part]) -> None:
    """Remove the files of chapters that the book no longer has, and those of a reading that was killed."""
    kept = {f"{part.key}{suffix}" for part in parts for suffix in (".flac", ".json", ".words.json")}
    for path in folder.iterdir():
        if path.name not in kept and re.fullmatch(r"\.?[0-9a-f]{32}\b.*\.(?:flac|json)", path.name):
            path.unlink(missing_ok=True)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("read_book.py", __doc__)
    add = parser.add_argument
    add("book", help="a book (.epub, .txt, .md, .html), or a folder with a file for each chapter")
    add("-o", "--output", help=f"audio file ({', '.join(WRITABLE)}; default: the book's name with .flac)")
    add("--list", action="store_true", help="list the chapters with words and expected minutes, and read nothing")
    add("--chapters", help="read only these chapters, such as 1,3-5 (default: all)")
    add("--speaker", help="speaker name (soundloom-tts --list shows them; default: the voice's own)")
    add("--prompt", help="recording of a speaker to sound like, about 3 seconds; needs --prompt-text")
    add("--prompt-text", help="the words of the recording")
    add("--times", help="write when each word is spoken: .json, .srt or .vtt")
    add("--speed", type=float, default=1.0, help="0.5 (slow) to 2 (fast), at the same pitch (default: 1)")
    add("--lexicon", help="file of your own pronunciations, a line each: word, TAB, phonemes")
    add(
        "--retries", type=int, help="extra attempts if a sentence is cut off, loops or is silent (default: 2 for heart)"
    )
    add_voice_options(parser)
    return parser


def _output(options: argparse.Namespace) -> Path:
    """Return the file to write. Raises: SoundloomError where it cannot be written, before any work."""
    path = options.output if options.output is not None else f"{Path(options.book).resolve().stem}.flac"
    if path == "-":
        raise SoundloomError("-o -: a book goes to a file; name one, such as book.flac")
    check_output(path)
    if Path(path).exists() and not Path(path).is_file():
        raise SoundloomError(f"{path}: is a pipe or a device; name a file")
    return Path(path)


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    check_numbers(options, speed=(0.5, 2), retries=(0, MOST_RETRIES), **SAMPLING_RANGES)
    check_times(options.times)
    output = None if options.list else _output(options)
    chapters = read_chapters(options.book)
    chosen = choose(options.chapters, len(chapters))
    if output is None:
        list_chapters(chapters, chosen, options.speed)
        return 0
    from pipelines.books.output import check_size, join, write_marks

    reader, asked = make_reader(options, output), [chapters[i] for i in chosen]
    rate, channels = reader.voice.sample_rate, reader.voice.codec.channels
    minutes = sum(chapter.words for chapter in asked) / WORDS_PER_MINUTE / options.speed
    check_size(60 * minutes * rate, rate, channels, output)
    parts = read_aloud(reader, asked)
    spoken = [(part, chapter) for part, chapter in zip(parts, asked, strict=True) if part.samples]
    if not spoken:
        raise SoundloomError(f"{options.book}: nothing in it can be spoken; expected English words or numbers")
    marks = join([reader.sound(part.key) for part, _ in spoken], [chapter.title for _, chapter in spoken], output)
    files = write_marks(output, marks)
    if options.times is not None:
        write_times(options.times, reader, spoken, [mark.start for mark in marks])
    if options.chapters is None:
        prune(reader.folder, parts)
    report(parts)
    made = f"{_counted(len(marks), 'chapter')}, {marks[-1].end / 60:.1f} minutes"
    print(f"wrote {output}: {made}; {files[0].name}, {files[1].name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
