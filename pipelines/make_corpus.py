"""Make a speech corpus: a teacher voice reads a list of sentences.

    python pipelines/make_corpus.py corpora/heart --texts /usr/share/wordnet --teacher hibari --workers 2
    python pipelines/make_corpus.py corpora/long --texts /usr/share/wordnet --wordnet definitions --hours 10
    python pipelines/make_corpus.py corpora/slt --texts book.txt --teacher flite --voice slt --hours 2
    python pipelines/make_corpus.py corpora/many --texts book.txt --teacher espeak-ng --voice en-us,en-us+f3,en-gb
    python pipelines/make_corpus.py corpora/kokoro --texts book.txt --teacher kokoro --voice jf_alpha,jf_alpha+jm_kumo
    python pipelines/make_corpus.py corpora/bella --texts book.txt --teacher kokoro --voice af_bella --styles voices/

Texts: a text file (one sentence a line, or prose, which is cut into sentences), a WordNet folder (its example
sentences, of 2 to 30 words, or its definitions; Debian's package wordnet-base has it), or a folder of .txt files.

Writes OUT/<id[:2]>/<id>.flac, where the id is 16 hex digits of the text's sha256, and manifest.jsonl, rejects.jsonl
and corpus.json. With several voices each text gets one of them, by its id. Start it again to go on where it was cut
off; what is there stays as it is. The same texts give the same files, whatever the number of workers.

--speeds 0.85,1.15 adds each utterance played slower and faster, which also lowers and raises pitch and formants: as
speakers of their own (heart@0.85), so that a model hears more voices than the teacher has (Ko et al. 2015).
"""

from __future__ import annotations

import argparse
import itertools
import os
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from codec.audio.files import audio_info, read_audio, resample, write_audio
from codec.errors import SoundloomError
from pipelines.command_line.run import run
from pipelines.corpus.texts import pairs, read_texts, text_id
from pipelines.corpus.write import Reject, Row, read_facts, remove_leftovers, split_of, write_corpus
from pipelines.teachers.registry import TEACHERS, Teacher, open_teacher

MIN_SECONDS, MAX_SECONDS = 0.1, 60.0
SILENCE = 1e-3
_BATCH = 16


@dataclass(frozen=True)
class Job:
    """What every worker needs to know."""

    folder: Path
    teacher: str
    voices: tuple[str, ...]
    language: str
    verify: bool = False
    styles: str | None = None
    speeds: tuple[float, ...] = ()


class Reader:
    """Makes one utterance after another; opens a voice when it first needs it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._teachers: dict[str, Teacher] = {}

    def voice_of(self, name: str) -> str:
        """The voice that reads the text with this id."""
        return self.job.voices[int(name[8:], 16) % len(self.job.voices)]

    def teacher(self, voice: str) -> Teacher:
        """An open voice."""
        if voice not in self._teachers:
            self._teachers[voice] = open_teacher(self.job.teacher, voice, self.job.styles)
        return self._teachers[voice]

    def make(self, text: str) -> list[Row | Reject]:
        """Read one text into its files, unless they are there and whole; their rows, or why there is none."""
        made = self._speak(text)
        return [made] if isinstance(made, Reject) else [made, *(self._replay(made, s) for s in self.job.speeds)]

    def _replay(self, row: Row, speed: float) -> Row:
        """The utterance again, played at ``speed``."""
        name = f"{row.id}@{speed:g}"
        audio = f"{row.id[:2]}/{name}.flac"
        seconds = _duration(self.job.folder / audio, self.job.verify)
        if seconds is None:
            whole = self.job.folder / row.audio
            rate = audio_info(whole).sample_rate
            wave = resample(read_audio(whole), round(rate * speed), rate)
            write_audio(self.job.folder / audio, wave, rate)
            seconds = wave.shape[-1] / rate
        return replace(row, id=name, audio=audio, speaker=f"{row.speaker}@{speed:g}", duration=round(seconds, 4))

    def _speak(self, text: str) -> Row | Reject:
        name = text_id(text)
        audio = f"{name[:2]}/{name}.flac"
        path = self.job.folder / audio
        seconds = _duration(path, self.job.verify)
        voice = self.voice_of(name)
        if seconds is None:
            teacher = self.teacher(voice)
            try:
                wave = teacher.speak(text, seed=int(name[:8], 16))
            except Exception as error:
                # Whatever a third party's synthesizer raises on one text must not end a run of hours.
                return Reject(name, text, f"{type(error).__name__}: {error}"[:300])
            problem = _problem(wave, teacher.sample_rate)
            if problem:
                return Reject(name, text, problem)
            write_audio(path, torch.from_numpy(wave), teacher.sample_rate)
            seconds = len(wave) / teacher.sample_rate
        speaker = f"{self.job.teacher}-{voice}"
        return Row(name, audio, text, speaker, self.job.language, round(seconds, 4), split_of(name))


def _duration(path: Path, verify: bool) -> float | None:
    """Seconds of a finished file, by its header or, to ``verify``, by decoding it; None where it is not whole."""
    if not path.exists():
        return None
    try:
        if verify:
            read_audio(path)
        return audio_info(path).duration
    except SoundloomError:
        return None


def _problem(wave: np.ndarray, sample_rate: int) -> str:
    """Why speech cannot be used; empty where it can."""
    seconds = len(wave) / sample_rate
    if seconds < MIN_SECONDS:
        return f"too short: {seconds:.3f} s"
    if seconds > MAX_SECONDS:
        return f"too long: {seconds:.1f} s"
    if not np.isfinite(wave).all():
        return "NaN or infinity in the waveform"
    return "silent" if float(np.abs(wave).max()) < SILENCE else ""


# One reader a worker process, so that a voice is opened once and not for every batch.
_readers: dict[Job, Reader] = {}


def _end_with_parent() -> None:
    """Workers wait on a pipe whose other end they hold too: where the parent is killed, nothing else ends them."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _make_batch(job: Job, texts: list[str]) -> list[Row | Reject]:
    torch.set_num_threads(1)
    reader = _readers.setdefault(job, Reader(job))
    return [made for text in texts for made in reader.make(text)]


def make_all(job: Job, texts: list[str], workers: int) -> Generator[Row | Reject, None, None]:
    """Rows and rejects in the order of ``texts``, from this process or from several; closing it stops the work.

    Raises: SoundloomError where a teacher cannot be opened, the disk refuses, or a worker dies.
    """
    if workers == 1:
        reader = Reader(job)
        yield from itertools.chain.from_iterable(map(reader.make, texts))
        return
    batches = iter([texts[i : i + _BATCH] for i in range(0, len(texts), _BATCH)])
    # spawn: a forked child would inherit torch's and onnxruntime's threads in an unknown state.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent)
    waiting: deque[Future[list[Row | Reject]]] = deque()
    try:
        for batch in itertools.islice(batches, 4 * workers):
            waiting.append(pool.submit(_make_batch, job, batch))
        while waiting:
            yield from waiting.popleft().result()
            for batch in itertools.islice(batches, 1):
                waiting.append(pool.submit(_make_batch, job, batch))
    except BrokenProcessPool as error:
        raise SoundloomError(
            f"{job.folder}: a worker died (out of memory?); start again with fewer --workers to go on"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def collect(made: Iterable[Row | Reject], hours: float | None) -> tuple[list[Row], list[Reject]]:
    """Sort what comes into rows and rejects; stop where the rows are ``hours`` long together."""
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
    """Speeds with commas between them; each 0.5 to 2, and not 1, which is there already."""
    try:
        found = list(dict.fromkeys(float(part) for part in text.split(",") if part))
    except ValueError:
        found = []
    if not found or any(not 0.5 <= speed <= 2 or speed == 1 for speed in found):
        raise argparse.ArgumentTypeError(f"{text}: expected numbers from 0.5 to 2, without 1, such as 0.85,1.15")
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
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
    p.add_argument("--styles", help="folder of more voices for kokoro (.bin files, as in the npm package kokoro-js)")
    p.add_argument("--language", default="en", help="language of the texts for the manifest (default: en)")
    p.add_argument("--limit", type=int, default=None, metavar="N", help="only the first N texts, in order of their ids")
    p.add_argument("--hours", type=float, default=None, help="stop when this much speech is there")
    p.add_argument("--workers", type=int, default=1, help="processes (default: 1); one a core is best")
    p.add_argument(
        "--speeds",
        type=speeds,
        default=[],
        metavar="S[,S…]",
        help="add each utterance played at these speeds, as speakers of their own, such as 0.85,1.15",
    )
    p.add_argument("--verify", action="store_true", help="decode the files that are there and make broken ones anew")
    p.add_argument("--max-reject-rate", type=float, default=0.01, help="end with code 1 above it (default: 0.01)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Make a corpus, or go on making it."""
    args = parser().parse_args(argv)
    if args.workers < 1:
        raise SoundloomError(f"--workers is {args.workers}; expected 1 or more")
    texts = read_texts(args.texts, args.wordnet)
    if args.pairs:
        texts = pairs(texts, lambda name: split_of(name) == "train")
    texts = sorted(texts, key=text_id)[: args.limit]
    # Opened here first: a voice that is missing should be told before any process starts.
    teachers = [open_teacher(args.teacher, voice, args.styles) for voice in args.voice.split(",")]
    voices = tuple(teacher.voice for teacher in teachers)
    job = Job(args.out, args.teacher, voices, args.language, args.verify, args.styles, tuple(args.speeds))
    _check_same(args.out, job)
    remove_leftovers(args.out)
    with closing(make_all(job, texts, args.workers)) as made:
        shown = tqdm(made, total=len(texts) * (1 + len(args.speeds)), desc=args.out.name, unit="text", smoothing=0.05)
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
    rate = len(rejects) / max(1, len(rows) + len(rejects))
    return 1 if not rows or rate > args.max_reject_rate else 0


if __name__ == "__main__":
    raise SystemExit(run(main))
