"""Make a corpus of music with captions: scores of a generator and of old collections, rendered by fluidsynth.

    python pipelines/make_music_corpus.py corpora/music --scores 5000 --variations 4 --workers 2    # 56 hours
    python pipelines/make_music_corpus.py corpora/tunes --scores 0 --tunes 2000
    python pipelines/make_music_corpus.py corpora/tiny --scores 5 --soundfont fonts/GeneralUser.sf2

Scores: --scores N composes them by chord progressions, melodies and the patterns of 17 styles. --tunes N adds up to N
tunes of two printed collections in music21's corpus (extra: music); a tune gets its accompaniment from the generator.
Each score becomes --variations clips in other keys, tempi and instruments, which stay in one split (train, dev, test).

Writes OUT/<id[:2]>/<id>.flac (24 kHz, mono) and <id>.json (attributes and the exact note list), manifest.jsonl,
rejects.jsonl and corpus.json. A manifest's row has a caption as its text, all captions with the attributes that each
names, and the attributes. Start it again to resume. The same numbers and sound font give the same files.

Needs the program fluidsynth and a General MIDI sound font (Debian: apt install fluidsynth fluid-soundfont-gm). They
are found on the path and in /usr/share/sounds/sf2, or named by --fluidsynth and --soundfont, or by SOUNDLOOM_FLUIDSYNTH
and SOUNDLOOM_SF2.
"""

from __future__ import annotations

import argparse
import itertools
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.errors import SoundloomError
from pipelines.command_line.progress import track
from pipelines.command_line.run import A_LOT, MOST_WORKERS, check_numbers, make_parser, run

if TYPE_CHECKING:
    from pipelines.music_corpus.make import Task

_SEED_STEP = 1_000_000  # scores of one seed
_MOST_REJECTS = 0.01


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = make_parser("make_music_corpus.py", __doc__)
    add = p.add_argument
    add("out", type=Path, help="folder of the corpus")
    add("--scores", type=int, default=1000, help="scores to compose (default: %(default)s)")
    add("--tunes", type=int, default=0, help="tunes of music21's corpus to add, at most (default: none)")
    add("--variations", type=int, default=4, help="clips of each score (default: %(default)s)")
    add("--seconds", type=float, default=10.0, help="length of a clip, 2 to 60 (default: %(default)s)")
    add("--seed", type=int, default=0, help="another seed, other scores, 0 to 9999 (default: 0)")
    add("--workers", type=int, default=1, help="processes (default: 1); one per core is best")
    add("--fluidsynth", metavar="PROGRAM", help="the program fluidsynth (default: the one on the path)")
    add("--soundfont", metavar="FILE", help="a General MIDI sound font, .sf2 or .sf3 (default: FluidR3_GM.sf2)")
    add("--verify", action="store_true", help="decode finished files and remake broken ones")
    return p


def main(argv: list[str] | None = None) -> int:
    """Make a corpus, or resume one."""
    args = parser().parse_args(argv)
    check_numbers(
        args,
        scores=(0, _SEED_STEP),
        tunes=(0, A_LOT),
        variations=(1, 1000),
        seconds=(2.0, 60.0),
        seed=(0, 9999),
        workers=(1, MOST_WORKERS),
    )
    # Imported here: torch takes seconds, and --help must not.
    from pipelines.corpus.write import Reject, remove_leftovers, write_corpus
    from pipelines.music_corpus.make import Job, MusicRow, make_all
    from pipelines.music_corpus.render import find_synthesizer

    job = Job(args.out, find_synthesizer(args.fluidsynth, args.soundfont), args.variations, args.seconds, args.verify)
    facts = {"synthesizer": job.synthesizer.facts(), "sources": _sources(args.tunes)}
    _check_same(args.out, facts)
    tasks = _tasks(args)
    if not tasks:
        raise SoundloomError("--scores 0 and no --tunes: nothing to make; give one of them")
    remove_leftovers(args.out)
    rows: list[MusicRow] = []
    rejects: list[Reject] = []
    with closing(make_all(job, tasks, args.workers)) as made:
        for item in track(made, "clip", args.out.name, len(tasks) * args.variations):
            rejects.append(item) if isinstance(item, Reject) else rows.append(item)
    written = write_corpus(args.out, rows, rejects, facts)
    hours = f"{written['utterances']:,} clips, {written['hours']:.2f} h"
    print(f"{args.out}: {hours}, {len(rejects)} left out (rejects.jsonl)")
    print(f"next: python pipelines/tokenize_corpus.py {args.out}/manifest.jsonl STORE   # for a language model")
    failed = sum(bool(reject.text) for reject in rejects)  # tunes that cannot be used have no caption
    return 1 if not rows or failed > _MOST_REJECTS * (len(rows) + failed) else 0


def _tasks(args: argparse.Namespace) -> list[Task]:
    from pipelines.music_corpus.make import Task
    from pipelines.music_corpus.tunes import tune_texts

    made = [Task(number=args.seed * _SEED_STEP + i) for i in range(args.scores)]
    found = itertools.islice(tune_texts(), args.tunes) if args.tunes else ()
    return made + [Task(name=name, source=source, text=text) for name, source, text in found]


def _sources(tunes: int) -> dict[str, str]:
    """Return the sources of the scores and their terms."""
    from pipelines.music_corpus.compose import LICENCE, SOURCE
    from pipelines.music_corpus.tunes import SOURCES

    found = {f"music21 corpus, {source.title}": source.licence for source in SOURCES} if tunes else {}
    return {SOURCE: LICENCE, **found}


def _check_same(folder: Path, facts: dict[str, Any]) -> None:
    """Refuse to mix the sounds of two sound fonts in one folder."""
    from pipelines.corpus.write import read_facts

    before = read_facts(folder)
    now = facts["synthesizer"]
    if before and before.get("synthesizer", {}).get("font_sha256") != now["font_sha256"]:
        raise SoundloomError(f"{folder}: was not made with {now['font']}; choose another folder")


if __name__ == "__main__":
    raise SystemExit(run(main))
