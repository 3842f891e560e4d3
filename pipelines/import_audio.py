"""Bring recordings of any kind into a corpus: FLAC at one sample rate, with a manifest.

    python pipelines/import_audio.py recordings/ corpora/studio --sample-rate 24000
    python pipelines/import_audio.py sounds/ corpora/prompts --transcripts en_US_f_Allison=core-sounds-en.txt.gz \\
        --language en_US_f_Allison=en --language fr_CA_f_June=fr
    python pipelines/import_audio.py LJSpeech-1.1/ corpora/lj

Reads what soundfile reads (WAV, FLAC, Ogg, MP3 …) and, with PyAV (pip install -e '.[corpus]'), what FFmpeg reads:
m4a, aac, opus in webm, wma, raw G.722 … Speaker: the first folder below SRC that a file is in, else SRC's own name.
Texts: LJSpeech's metadata.csv in SRC, a .txt next to a file, or --transcripts with lines "name: text" (";" opens a
comment; "[a beep]" in brackets is no speech). --transcribe gives the others what Whisper understands (English; pip
install -e '.[eval]'). Its words are kept in OUT/transcripts.txt, where they can be corrected.
Files that are there already are kept: run it again to resume.
"""

from __future__ import annotations

import pipelines.command_line.interrupts  # noqa: F401 - Ctrl-C while torch is imported ends in one line

# isort: split
import argparse
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import torch

from codec.audio.files import AUDIO_SUFFIXES, audio_info
from codec.audio.pieces import open_writer, read_pieces, resampled_pieces
from codec.common.extras import install_hint
from codec.common.files import read_packed, read_text
from codec.errors import SoundloomError
from pipelines.command_line.progress import track
from pipelines.command_line.run import check_numbers, run
from pipelines.corpus.transcribe import transcribe_rows
from pipelines.corpus.write import Reject, Row, remove_leftovers, split_of, write_corpus

# FFmpeg cannot find out the format of files that are bare samples without a header.
_RAW_FORMATS = {".g722": "g722", ".gsm": "gsm", ".ulaw": "mulaw", ".alaw": "alaw"}
AV_SUFFIXES = (".aac", ".ac3", ".amr", ".m4a", ".mka", ".mkv", ".mov", ".mp4", ".webm", ".wma", *_RAW_FORMATS)
MAX_SECONDS = 4 * 3600
_PIECE_SECONDS = 60
_MOST_TEXTS, _MOST_TEXT = 1 << 30, 1 << 20  # bytes of a list of texts, and of one text


def find_files(source: Path) -> list[Path]:
    """List every audio file below ``source``, sorted, without hidden ones and links that lead nowhere."""
    if not source.is_dir():
        raise SoundloomError(f"{source}: no such folder; give a folder of recordings")
    suffixes = (*AUDIO_SUFFIXES, *AV_SUFFIXES)
    files = [p for p in source.rglob("*") if p.suffix.lower() in suffixes and not p.name.startswith(".")]
    return sorted(path for path in files if path.is_file())


def decode(path: Path, sample_rate: int) -> Iterator[torch.Tensor]:
    """Yield a file's sound in mono at ``sample_rate``, in pieces float32 [1, n] of at most a minute.

    Raises:
        SoundloomError: it names the file.
    """
    if path.suffix.lower() not in AV_SUFFIXES:
        return read_pieces(path, sample_rate, 1, _PIECE_SECONDS * sample_rate)
    blocks = _av_blocks(path)
    rate = int(next(blocks))
    return resampled_pieces(blocks, rate, sample_rate, _PIECE_SECONDS * sample_rate)


def _av_blocks(path: Path) -> Iterator[torch.Tensor]:
    """Yield the sample rate and then the sound [1, n] of a file that FFmpeg reads."""
    try:
        import av
    except ImportError as error:
        raise SoundloomError(f"{path}: needs PyAV to be read: {install_hint('corpus')}") from error
    rate = length = 0
    try:
        with av.open(str(path), format=_RAW_FORMATS.get(path.suffix.lower())) as container:
            if not container.streams.audio:
                raise SoundloomError(f"{path}: holds no sound")
            convert = av.AudioResampler(format="fltp", layout="mono")
            for frame in chain(container.decode(container.streams.audio[0]), [None]):
                if not rate and frame is not None:
                    rate = frame.sample_rate
                    yield torch.tensor(rate)
                for out in convert.resample(frame):
                    block = torch.from_numpy(out.to_ndarray())
                    length += block.shape[1]
                    if length > MAX_SECONDS * rate:
                        raise SoundloomError(
                            f"{path}: longer than {MAX_SECONDS // 3600} hours; cut it into pieces first"
                        )
                    if not torch.isfinite(block).all():
                        raise SoundloomError(f"{path}: holds NaN or infinity")
                    yield block
    except (av.FFmpegError, ValueError, OSError) as error:
        raise SoundloomError(f"{path}: cannot be decoded ({error})") from error
    if length == 0:
        raise SoundloomError(f"{path}: empty")


def read_transcripts(path: Path) -> dict[str, str]:
    """Read ``name: text`` lines, gzipped or not, without comments (``;``) and sounds in brackets."""
    texts: dict[str, str] = {}
    for line in read_packed(path, _MOST_TEXTS).decode("utf-8", "replace").split("\n"):
        name, colon, text = line.partition(":")
        text = " ".join(text.split())
        if colon and not line.startswith(";") and text and not text.startswith("["):
            texts[name.strip()] = text
    if not texts:
        raise SoundloomError(f"{path}: holds no line of the form 'name: text'")
    return texts


def _read_ljspeech(path: Path) -> dict[str, str]:
    """Read LJSpeech's ``id|text|normalized text``: the normalised text by ``wavs/id``."""
    texts = {}
    for line in read_packed(path, _MOST_TEXTS).decode("utf-8", "replace").split("\n"):
        cells = line.rstrip("\r").split("|")
        if len(cells) > 1:
            texts[f"wavs/{cells[0]}"] = " ".join((cells[-1] or cells[1]).split())
    return texts


class Texts:
    """Finds the text of a file, by its path below the source folder without suffix."""

    def __init__(self, source: Path, transcripts: Iterable[tuple[str, Path]]) -> None:
        self._source = source
        self._lists = [(folder, read_transcripts(path)) for folder, path in transcripts]
        metadata = source / "metadata.csv"
        if metadata.is_file():
            self._lists.append(("", _read_ljspeech(metadata)))

    def find(self, stem: str) -> str:
        """Return the text of one file, empty where there is none."""
        for folder, texts in self._lists:
            name = stem.removeprefix(f"{folder}/") if folder else stem
            if (not folder or name != stem) and name in texts:
                return texts[name]
        beside = self._source / f"{stem}.txt"
        try:
            return " ".join(read_text(beside, _MOST_TEXT).split())
        except SoundloomError:  # it has none, or none that can be read; the count at the end shows it
            return ""


def import_file(path: Path, source: Path, out: Path, sample_rate: int, texts: Texts, languages: dict[str, str]) -> Row:
    """Convert one file, unless that is done, and return its row.

    Raises:
        SoundloomError: it names the file.
    """
    relative = path.relative_to(source)
    stem = relative.with_suffix("").as_posix()
    # Two files that differ by suffix only are two utterances.
    beside = (path.with_suffix(suffix) for suffix in (*AUDIO_SUFFIXES, *AV_SUFFIXES))
    name = relative.as_posix() if any(other != path and other.exists() for other in beside) else stem
    target = out / f"{name}.flac"
    try:
        done = audio_info(target) if target.exists() else None
    except SoundloomError:
        done = None
    if done is None or done.sample_rate != sample_rate:
        samples = 0
        with open_writer(target, sample_rate) as write:
            for piece in decode(path, sample_rate):
                write(piece)
                samples += piece.shape[1]
        seconds = samples / sample_rate
    else:
        seconds = done.duration
    speaker = relative.parts[0] if len(relative.parts) > 1 and relative.parts[0] != "wavs" else source.resolve().name
    language = languages.get(relative.parts[0], languages.get("", ""))
    return Row(name, f"{name}.flac", texts.find(stem), speaker, language, round(seconds, 4), split_of(name))


def _pairs(options: list[str]) -> list[tuple[str, str]]:
    """Split the ``FOLDER=VALUE`` or ``VALUE`` (folder "") of a repeatable option."""
    pairs = []
    for option in options:
        folder, equals, value = option.rpartition("=")
        pairs.append((folder.strip("/") if equals else "", value))
    return pairs


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", type=Path, help="folder of recordings")
    p.add_argument("out", type=Path, help="folder of the corpus")
    p.add_argument("--sample-rate", type=int, default=24_000, help="sample rate of the corpus (default: 24000)")
    p.add_argument("--transcripts", action="append", default=[], metavar="[FOLDER=]FILE", help="lines 'name: text'")
    p.add_argument("--language", action="append", default=[], metavar="[FOLDER=]CODE", help="such as en or fr")
    p.add_argument("--licence", default="", help="licence of the recordings, recorded in corpus.json")
    p.add_argument(
        "--transcribe",
        nargs="?",
        const="tiny",
        metavar="MODEL",
        help="transcribe English recordings without a text: Whisper tiny, base, or a folder (default with it: tiny)",
    )
    p.add_argument(
        "--max-reject-rate",
        type=float,
        default=0.01,
        help="a larger share of rejected files ends with code 1 (default: 0.01)",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Import a folder of recordings."""
    args = parser().parse_args(argv)
    check_numbers(args, sample_rate=(1000, 384_000), max_reject_rate=(0, 1))
    torch.set_num_threads(1)
    if args.out.resolve() == args.source.resolve() or args.source.resolve() in args.out.resolve().parents:
        raise SoundloomError(f"{args.out}: lies in {args.source}; choose a folder elsewhere")
    files = find_files(args.source)
    if not files:
        known = " ".join(AUDIO_SUFFIXES + AV_SUFFIXES)
        raise SoundloomError(f"{args.source}: no audio file found; known endings: {known}")
    texts = Texts(args.source, [(folder, Path(file)) for folder, file in _pairs(args.transcripts)])
    languages = dict(_pairs(args.language))
    remove_leftovers(args.out)
    rows, rejects = [], []
    for path in track(files, "file", args.out.name):
        try:
            rows.append(import_file(path, args.source, args.out, args.sample_rate, texts, languages))
        except SoundloomError as error:
            name = path.relative_to(args.source).as_posix()
            rejects.append(Reject(name, "", str(error)[:300]))
    if args.transcribe:
        from pipelines.evaluation.words import Transcriber  # the extra eval

        rows = transcribe_rows(rows, args.out, Transcriber(args.transcribe))
    origin = {"source": args.source.resolve().name, "licence": args.licence, "sample_rate": args.sample_rate}
    facts = write_corpus(args.out, rows, rejects, {"recordings": origin})
    print(f"{args.out}: {facts['utterances']:,} utterances, {facts['hours']:.2f} h, {facts['rejects']} rejected")
    _report_texts(rows)
    return 1 if not rows or len(rejects) > args.max_reject_rate * len(files) else 0


def _report_texts(rows: list[Row]) -> None:
    """Print how many recordings have a text, and how the others get one: a voice learns from no others."""
    known = sum(bool(row.text) for row in rows)
    print(f"{known:,} of {len(rows):,} have a text", end="")
    hint = "; put the words of a.wav into a.txt next to it, or give --transcripts or --transcribe, and run this again"
    print(hint if known < len(rows) else "")


if __name__ == "__main__":
    raise SystemExit(run(main))
