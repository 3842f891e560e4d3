"""Make a speech corpus: a teacher voice reads a list of sentences.

    python pipelines/make_corpus.py corpora/heart --texts /usr/share/wordnet --teacher hibari --workers 2
    python pipelines/make_corpus.py corpora/long --texts /usr/share/wordnet --wordnet definitions --hours 10
    python pipelines/make_corpus.py corpora/slt --texts book.txt --teacher flite --voice slt --hours 2
    python pipelines/make_corpus.py corpora/many --texts book.txt --teacher espeak-ng --voice en-us,en-us+f3,en-gb
    python pipelines/make_corpus.py corpora/kokoro --texts book.txt --teacher kokoro --voice jf_alpha,jf_alpha+jm_kumo
    python pipelines/make_corpus.py corpora/bella --texts book.txt --teacher kokoro --voice af_bella --styles voices/

Texts: a text file (one sentence a line, or prose, which is split into sentences), a WordNet folder (its example
sentences, of 2 to 30 words, or its definitions; Debian's package wordnet-base has it), or a folder of .txt files.

Writes OUT/<id[:2]>/<id>.flac, where the id is 16 hex digits of the text's sha256, and manifest.jsonl, rejects.jsonl
and corpus.json. With several voices each text gets one of them, by its id. Start it again to resume where it stopped;
finished files are kept. The same texts give the same files, whatever the number of workers.

--speeds 0.85,1.15 adds each utterance played slower and faster, which also lowers and raises pitch and formants. They
count as speakers of their own (heart@0.85), so that a model learns from more voices than the teacher has (Ko et al.
2015).
"""

from __future__ import annotations

import pipelines.command_line.interrupts  # noqa: F401 - Ctrl-C while torch is imported ends in one line

# isort: split
import argparse
import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from codec.errors import SoundloomError
from pipelines.command_line.progress import track
from pipelines.command_line.run import A_LOT, MOST_WORKERS, check_numbers, run
from pipelines.corpus.texts import pairs, read_texts, text_id
from pipelines.corpus.write import Reject, Row, read_facts, remove_leftovers, split_of, write_corpus
from pipelines.teachers.reading import Job, make_all
from pipelines.teachers.registry import TEACHERS, open_teacher, teacher_options


def collect(made: Iterable[Row | Reject], hours: float | None) -> tuple[list[Row], list[Reject]]:
    """Sort into rows and rejects; stop once the rows add up to ``hours``."""
    rows: list[Row] = []
    rejects: list[Reject] = []
    seconds = 0.0
    for item in made:
        if isinstance(item, Reject):
            rejects.append(item)
            continue
        rows.append(item)
        seconds += item.duration
        if hours is not None and seconds >= hours * 3600:
            break
    return rows, rejects


def _check_same(folder: Path, job: Job) -> None:
    """Refuse to mix two teachers in one folder."""
    facts = read_facts(folder)
    before = (facts.get("teacher", {}).get("name"), tuple(facts.get("teacher", {}).get("voices", ())))
    if facts and before != (job.teacher, job.voices):
        raise SoundloomError(
            f"{folder}: was made by {before[0]} with {', '.join(before[1])}, not by {job.teacher} with "
            f"{', '.join(job.voices)}; choose another folder"
        )


def speeds(text: str) -> list[float]:
    """Parse speeds with commas between them, each 0.5 to 2 and not 1, the speed of the original."""
    try:
        found = list(dict.fromkeys(float(part) for part in text.split(",") if part))
    except ValueError:
        found = []
    if not found or any(not 0.5 <= speed <= 2 or speed == 1 for speed in found):
        raise argparse.ArgumentTypeError(f"{text}: expected numbers from 0.5 to 2, without 1, such as 0.85,1.15")
    return found


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path, help="folder of the corpus")
    p.add_argument("--texts", type=Path, required=True, help="text file, WordNet folder or folder of .txt files")
    p.add_argument(
        "--wordnet",
        choices=("examples", "definitions"),
        default="examples",
        help="what a WordNet folder gives: its example sentences, or its longer definitions (default: examples)",
    )
    p.add_argument("--pairs", action="store_true", help="join the texts two by two into longer sentences")
    p.add_argument("--teacher", default="hibari", choices=sorted(TEACHERS), help="who reads (default: hibari)")
    p.add_argument("--voice", default="", help="one of the teacher's voices, or several with commas between")
    for option, text in teacher_options().items():
        p.add_argument(f"--{option}", help=text)
    p.add_argument("--language", default="en", help="language of the texts for the manifest (default: en)")
    p.add_argument("--limit", type=int, default=None, metavar="N", help="only the first N texts, in order of their ids")
    p.add_argument("--hours", type=float, default=None, help="stop after this many hours of speech")
    p.add_argument("--workers", type=int, default=1, help="processes (default: 1); one per core is best")
    p.add_argument(
        "--speeds",
        type=speeds,
        default=[],
        metavar="S[,S…]",
        help="add each utterance played at these speeds, as speakers of their own, such as 0.85,1.15",
    )
    p.add_argument("--verify", action="store_true", help="decode finished files and remake broken ones")
    p.add_argument("--max-reject-rate", type=float, default=0.01, help="end with code 1 above it (default: 0.01)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Make a corpus, or resume one."""
    args = parser().parse_args(argv)
    check_numbers(args, workers=(1, MOST_WORKERS), hours=(0.001, A_LOT), max_reject_rate=(0, 1))
    texts = read_texts(args.texts, args.wordnet)
    if args.pairs:
        texts = pairs(texts, lambda name: split_of(name) == "train")
    texts = sorted(texts, key=text_id)[: args.limit]
    options = {name: getattr(args, name) for name in teacher_options() if getattr(args, name) is not None}
    # open every voice here, so that a missing one fails before workers start
    teachers = [open_teacher(args.teacher, voice, **options) for voice in args.voice.split(",")]
    voices = tuple(teacher.voice for teacher in teachers)
    job = Job(args.out, args.teacher, voices, args.language, args.verify, tuple(options.items()), tuple(args.speeds))
    _check_same(args.out, job)
    remove_leftovers(args.out)
    with closing(make_all(job, texts, args.workers)) as made:
        shown = track(made, "text", args.out.name, len(texts) * (1 + len(args.speeds)))
        rows, rejects = collect(shown, args.hours)
    facts = write_corpus(
        args.out,
        rows,
        rejects,
        {
            "teacher": {**teachers[0].facts(), "voices": job.voices},
            "texts": {"source": os.path.basename(os.path.abspath(args.texts)), "count": len(texts)},
        },
    )
    print(f"{args.out}: {facts['utterances']:,} utterances, {facts['hours']:.2f} h, {facts['rejects']} rejected")
    print(f"next: python pipelines/tokenize_corpus.py {args.out}/manifest.jsonl STORE   # for a language model")
    rate = len(rejects) / max(1, len(rows) + len(rejects))
    return 1 if not rows or rate > args.max_reject_rate else 0


if __name__ == "__main__":
    raise SystemExit(run(main))
