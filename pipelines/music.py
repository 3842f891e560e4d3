"""Make music from a description.

    python pipelines/music.py "slow solo piano in A minor" -o piano.wav
    python pipelines/music.py "fast jazz, saxophone and piano, 160 beats per minute" --seconds 30 --seed 3 -o jazz.flac
    python pipelines/music.py "the same with strings" --prompt melody.wav --seconds 8 -o longer.wav
    python pipelines/music.py "happy folk, fiddle and harp, D major" -o - | aplay
    python pipelines/music.py "slow solo piano in A minor" --seconds 60 --stream | aplay -f S16_LE -r 24000
    python pipelines/music.py "an hour of rain" --seconds 120 -o rain.wav --keep-codes
    python pipelines/music.py --decode rain.wav.codes.safetensors -o rain.flac   # the codes again, without writing them
    python pipelines/music.py --lines -f descriptions.txt -o pieces/           # a file a line: pieces/0001.wav …
    python pipelines/music.py --corpus corpora/held-out --split test -o made/  # for evaluate_music.py --outputs made/
    python pipelines/music.py "80s pop with bassy drums" --model facebook/musicgen-small -o pop.wav --plot pop.png
    python pipelines/music.py --model facebook/musicgen-small --save-model checkpoints/copy

The model is the shipped one, which needs no network. --model names another: a folder that make_music.py wrote, or a
MusicGen checkpoint, a name on the Hugging Face hub (downloaded at first use: about 2.4 GB for musicgen-small) or a
folder in transformers' format. With --prompt the music continues a recording; --seconds is how much to add, and the
output holds both unless --only-new is given. Long pieces are written in overlapping windows (10 s; MusicGen's have 30).
A window of ours that is silent or repeats itself is tried again. The same seed, model and number of threads give the
same music. Exit code: 0; 1 where some lines failed; 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.errors import SoundloomError
from pipelines.command_line.run import MOST_BATCH, add_threads_option, check_numbers, make_parser, run, set_threads
from pipelines.command_line.voice_options import (
    SAMPLING_RANGES,
    check_folder,
    check_lines_output,
    check_output,
    check_prompt,
    describe,
    plot,
    read_text,
    split_lines,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.music_model.writer import Music, MusicWriter, Written

SAMPLING = {
    "temperature": (float, "0: always the likeliest code (default: the model's; MusicGen: 1)"),
    "top_k": (int, "sample from the k likeliest codes (default: the model's; MusicGen: 250)"),
    "top_p": (float, "sample from the likeliest codes that together have this probability (default: the model's)"),
    "guidance": (float, "how strongly the description is followed (default: the model's; MusicGen: 3)"),
}


@dataclass
class Writer:
    """Writes pieces with the options of one call; ``prompt`` [C, N] is the recording that they continue."""

    model: MusicWriter
    options: argparse.Namespace
    prompt: Tensor | None

    def one(self, text: str) -> None:
        """Write one piece to -o, or as PCM to standard output while it is written."""
        output, began, late = self.options.output, time.perf_counter(), ""
        if self.options.stream:
            music, first = self._streamed(text)
            late = f", first sound after {1000 * first:.0f} ms"
        else:
            (row,) = self.rows([text], [output])
            music = self.model.finished(row, self.prompt if self.options.only_new else None)
        seconds = time.perf_counter() - began
        if not (self.options.stream and output == "-"):
            music.save(output)
        if self.options.plot:
            plot(self.options.plot, music, self.model.codec, text)
        where = "" if output == "-" else f"wrote {output}: "
        print(f"{where}{self._described(seconds, music)}{late}", file=sys.stderr)

    def _streamed(self, text: str) -> tuple[Music, float]:
        """Write a piece chunk by chunk, as PCM where -o is -. Returns the whole and the seconds to the first sound."""
        from pipelines.command_line.player import write_pcm
        from pipelines.music_model.model import MusicModel

        options, model, began, first = self.options, self.model, time.perf_counter(), 0.0
        if not isinstance(model, MusicModel):
            raise SoundloomError("--stream: MusicGen decodes only the whole; use a model of soundloom")
        chunks = model.stream(
            text,
            options.seconds,
            prompt=self.prompt,
            only_new=options.only_new,
            seed=options.seed,
            settings=replace(model.sampling, **self._given()),
        )
        for chunk in chunks:
            if options.output == "-":
                write_pcm(chunk)
            first = first or time.perf_counter() - began
        assert chunks.music is not None
        return chunks.music, first

    def _given(self) -> dict[str, Any]:
        """Return the settings for sampling that were given."""
        return {name: getattr(self.options, name) for name in SAMPLING if getattr(self.options, name) is not None}

    def lines(self, text: str) -> int:
        """Write a file for each line; report and leave out lines that fail. Returns the exit code."""
        lines = split_lines(text, "a description")
        width = max(4, len(str(len(lines))))
        return self._files(lines, [f"{number:0{width}d}.wav" for number in range(1, len(lines) + 1)])

    def corpus(self) -> int:
        """Write a file for each clip of a corpus that has none yet. Returns the exit code."""
        from pipelines.music_corpus.asked import read_captions

        options = self.options
        asked = read_captions(Path(options.corpus), options.split, options.limit)
        left = [(name, text) for name, text in asked if not (Path(options.output) / f"{name}.wav").is_file()]
        return self._files([text for _, text in left], [f"{name}.wav" for name, _ in left])

    def _files(self, lines: list[str], names: list[str]) -> int:
        paths, batch = [Path(self.options.output) / name for name in names], self.options.batch
        return int(any([self._group(lines, paths, at, at + batch) for at in range(0, len(lines), batch)]))

    def _group(self, lines: list[str], paths: list[Path], begin: int, end: int) -> bool:
        """Write some lines side by side, or one by one where they fail together; return whether any failed."""
        began = time.perf_counter()
        try:
            rows = self.rows(lines[begin:end], [str(path) for path in paths[begin:end]])
        except SoundloomError as error:
            if end - begin > 1:
                return any([self._group(lines, paths, i, i + 1) for i in range(begin, min(end, len(lines)))])
            where = f"line {begin + 1}" if self.options.lines else paths[begin].stem
            print(f"error: {where}: {error}", file=sys.stderr, flush=True)
            return True
        for path, row in zip(paths[begin:end], rows, strict=True):
            music = self.model.finished(row, self.prompt if self.options.only_new else None)
            music.save(path)
            seconds = (time.perf_counter() - began) / len(rows)
            print(f"wrote {path}: {self._described(seconds, music)}", file=sys.stderr, flush=True)
        return False

    def _described(self, seconds: float, music: Music) -> str:
        """Return the line about a piece: how long it took, and how it ended where that was not well."""
        line = describe("music", seconds, self.options.seconds)
        if music.finish_reason != "end":
            line += f", finish reason: {music.finish_reason}; try another --seed"
        return line if music.attempts == 1 else f"{line}, {music.attempts} attempts"

    def rows(self, texts: list[str], outputs: list[str]) -> list[Written]:
        """Write the codes of some pieces, with progress on standard error; save them with --keep-codes."""
        from pipelines.command_line.progress import Progress
        from pipelines.musicgen.codes_file import SUFFIX, save_codes

        options, model = self.options, self.model
        with Progress(model.steps(options.seconds, self.prompt)) as progress:
            rows = model.write_rows(
                texts,
                options.seconds,
                prompt=self.prompt,
                seeds=[options.seed] * len(texts),
                settings=replace(model.sampling, **self._given()),
                on_step=lambda step, _: progress.advance(step),
            )
        if options.keep_codes:
            for row, text, output in zip(rows, texts, outputs, strict=True):
                save_codes(f"{output}{SUFFIX}", row.codes, model.codec.fingerprint, text)
        return rows


def _check(options: argparse.Namespace) -> None:
    """Check everything that can be checked before the model is opened."""
    check_numbers(options, seconds=(0.02, 600), batch=(1, MOST_BATCH), **SAMPLING_RANGES)
    if options.save_model:
        if options.text or options.file:
            raise SoundloomError("--save-model writes the model and makes no music; leave the description out")
        check_folder(Path(options.save_model), options.save_model)
        return
    if options.decode and (options.text or options.file or options.lines or options.prompt):
        raise SoundloomError("--decode takes codes that are written already; leave description and prompt out")
    if options.corpus and (options.text or options.file or options.lines or options.decode):
        raise SoundloomError("--corpus takes the captions of a corpus; leave the description and --lines out")
    if options.lines or options.corpus:
        spoilt = bool(options.plot or options.stream)
        check_lines_output(options.output, "--plot and --stream", spoilt, "--lines" if options.lines else "--corpus")
    else:
        if options.output is None:
            options.output = "-" if options.stream else "music.wav"
        check_output(options.output)
        if options.keep_codes and options.output == "-":
            raise SoundloomError("--keep-codes writes a file next to -o; name a file with -o")
    if options.stream and (options.keep_codes or options.decode):
        raise SoundloomError("--stream decodes while it writes; leave --keep-codes and --decode out")
    if options.plot:
        check_output(options.plot, picture=True)
    check_prompt(options.prompt)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("music.py", __doc__)
    add = parser.add_argument
    add("text", nargs="*", help="what the music should be like; omit it or use '-' to read standard input")
    add("-f", "--file", help="text file with the description, or - (standard input)")
    add("-o", "--output", help="audio file (.wav, .flac …), or - (default: music.wav)")
    add("--model", default="shipped", help="a folder, or the name of a MusicGen checkpoint (default: the shipped one)")
    add("--seconds", type=float, default=8.0, help="how much to make or to add, at most 600 (default: %(default)s)")
    add("--prompt", help="recording to continue, or - (standard input)")
    add("--only-new", action="store_true", help="write the continuation without the recording")
    add("--stream", action="store_true", help="write PCM to standard output while it is made (16 bits, little-endian)")
    add("--lines", action="store_true", help="make a piece for each line, in files of the folder -o")
    add("--corpus", help="make a piece for each clip of this corpus of make_music_corpus.py, called as its id")
    add("--split", default="all", help="with --corpus: clips of this split only (default: all)")
    add("--limit", type=int, help="with --corpus: the first n clips only")
    add("--batch", type=int, default=4, help="with --lines and --corpus: pieces written side by side (default: 4)")
    add("--keep-codes", action="store_true", help="write the codes to OUTPUT.codes.safetensors before they are decoded")
    add("--decode", metavar="CODES", help="decode such a file instead of writing a new piece")
    add("--seed", type=int, default=0, help="another seed, another piece (default: 0)")
    for name, (kind, text) in SAMPLING.items():
        add(f"--{name.replace('_', '-')}", type=kind, help=text)
    add("--plot", help="draw waveform, spectrogram and codes: .png, .svg or .pdf")
    add("--device", default="cpu", help="where the networks run: auto, cpu, cuda or mps (default: cpu)")
    add("--save-model", help="write the model, in the format that it was opened from and float32")
    add_threads_option(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    _check(options)
    text = ""
    if not (options.save_model or options.decode or options.corpus):
        text = read_text([] if options.text == ["-"] else options.text, options.file, options.lines)
        if not text.strip():
            raise SoundloomError("the text is empty; say what the music should be like")
    set_threads(options.threads)
    from pipelines.music_model.choice import open_model

    model = open_model(options.model, device=options.device)
    if options.save_model:
        model.save_pretrained(options.save_model)
        print(f"wrote {options.save_model}", file=sys.stderr)
        return 0
    if options.decode:
        return decode(model, options)
    writer = Writer(model, options, None if options.prompt is None else model.read_prompt(options.prompt))
    if options.lines or options.corpus:
        return writer.lines(text) if options.lines else writer.corpus()
    writer.one(" ".join(text.split()))
    return 0


def decode(model: MusicWriter, options: argparse.Namespace) -> int:
    """Decode the codes of an earlier piece. Returns the exit code."""
    from pipelines.musicgen.codes_file import load_codes

    began = time.perf_counter()
    music = model.music(load_codes(options.decode, model.codec.fingerprint))
    music.save(options.output)
    if options.plot:
        plot(options.plot, music, model.codec, Path(options.decode).name)
    where = "" if options.output == "-" else f"wrote {options.output}: "
    print(f"{where}{describe('music', time.perf_counter() - began, music.seconds)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
