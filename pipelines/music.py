"""Make music from a description, with a MusicGen checkpoint.

    python pipelines/music.py "a calm piano piece" -o piano.wav
    python pipelines/music.py "80s pop with bassy drums" --seconds 12 --seed 3 -o pop.flac --plot pop.png
    python pipelines/music.py "the same with strings" --prompt melody.wav --seconds 8 -o longer.wav
    python pipelines/music.py "slow jazz" --model checkpoints/musicgen-medium -o - | aplay
    python pipelines/music.py --lines -f descriptions.txt -o pieces/           # a file a line: pieces/0001.wav …
    python pipelines/music.py --model facebook/musicgen-small --save-model checkpoints/copy

The model is a name on the Hugging Face hub (downloaded at first use: about 2.4 GB for musicgen-small) or a folder in
transformers' format: config.json, safetensors, tokenizer. Mono and stereo kinds open. With --prompt the music goes on
from a recording; --seconds says how much to add, and the output holds both unless --only-new is given. The same seed,
model and number of threads give the same music. Exit code: 0; 1 where some lines failed (--lines); 2 for bad input.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.errors import SoundloomError
from pipelines.command_line.run import run
from pipelines.command_line.voice_options import (
    check_folder,
    check_lines_output,
    check_output,
    plot,
    read_text,
    split_lines,
)

if TYPE_CHECKING:
    from pipelines.musicgen.model import Music, MusicGen

SETTINGS = {"temperature": float, "top_k": int, "top_p": float, "guidance": float}


def write_music(model: MusicGen, text: str, options: argparse.Namespace, prompt: Any) -> tuple[Music, float]:
    """One piece, with progress on standard error; returns it and the seconds that it took."""
    from lm.musicgen.generate import CrossSettings
    from pipelines.command_line.progress import Progress

    settings = CrossSettings(
        **{name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    )
    began = time.perf_counter()
    steps = round(options.seconds * model.codec.frame_rate) + model.decoder.config.lag
    with Progress(steps) as progress:
        music = model.write(
            text,
            options.seconds,
            prompt=prompt,
            only_new=options.only_new,
            seed=options.seed,
            settings=settings,
            on_step=lambda step, _: progress.advance(step),
        )
    return music, time.perf_counter() - began


def describe(music: Music, seconds: float, made: float) -> str:
    """One line: what was made, and how fast (``made`` seconds of it in ``seconds``)."""
    return f"{music.seconds:.2f} s of music, real-time factor {seconds / max(made, 1e-9):.2f}"


def write_lines(model: MusicGen, text: str, options: argparse.Namespace, prompt: Any) -> int:
    """A file a line; lines that fail are told and left out. Returns the exit code."""
    lines = split_lines(text, "a description")
    width, wrong = max(4, len(str(len(lines)))), 0
    for number, line in enumerate(lines, 1):
        path = Path(options.output) / f"{number:0{width}d}.wav"
        try:
            music, seconds = write_music(model, line, options, prompt)
        except SoundloomError as error:
            wrong += 1
            print(f"error: line {number}: {error}", file=sys.stderr, flush=True)
            continue
        music.save(path)
        print(f"{path}: {describe(music, seconds, options.seconds)}", file=sys.stderr, flush=True)
    return 1 if wrong else 0


def _check(options: argparse.Namespace) -> None:
    """Everything that can be told before the model is opened."""
    if options.threads is not None and options.threads < 1:
        raise SoundloomError(f"--threads {options.threads}: wanted at least 1")
    if not 0 < options.seconds < math.inf:
        raise SoundloomError(f"--seconds {options.seconds:g}: wanted more than 0")
    if options.save_model:
        if options.text or options.file:
            raise SoundloomError("--save-model writes the model and makes no music; leave the description out")
        check_folder(Path(options.save_model), options.save_model)
        return
    if options.lines:
        check_lines_output(options.output, "--plot", bool(options.plot))
    else:
        options.output = options.output or "music.wav"
        check_output(options.output)
    if options.plot:
        check_output(options.plot, picture=True)
    if options.prompt not in (None, "-") and not Path(options.prompt).exists():
        raise SoundloomError(f"{options.prompt}: no such file; give a recording to continue")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="music.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", nargs="*", help="what the music should be like; - and nothing read standard input")
    parser.add_argument("-f", "--file", help="text file with the description, or - (standard input)")
    parser.add_argument("-o", "--output", help="audio file (.wav, .flac …), or - (default: music.wav)")
    parser.add_argument("--model", default="facebook/musicgen-small", help="hub name or folder (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="how much to make or to add (default: %(default)s)")
    parser.add_argument("--prompt", help="recording to continue, or - (standard input)")
    parser.add_argument("--only-new", action="store_true", help="write the continuation without the recording")
    parser.add_argument("--lines", action="store_true", help="a piece for each line, in files of the folder -o")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another piece (default: 0)")
    parser.add_argument("--temperature", type=float, help="0: always the likeliest code (default: 1)")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest codes (default: 250)")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest codes of this share (default: 1)")
    parser.add_argument("--guidance", type=float, help="how strongly the description is followed (default: 3)")
    parser.add_argument("--plot", help="draw waveform, spectrogram and codes: .png, .svg or .pdf")
    parser.add_argument("--threads", type=int, help="threads for the networks (default: torch's own)")
    parser.add_argument("--save-model", help="write the model, in transformers' format and float32, to this folder")
    return parser


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    _check(options)
    text = "" if options.save_model else read_text([] if options.text == ["-"] else options.text, options.file)
    if not (options.save_model or text.strip()):
        raise SoundloomError("the text is empty; say what the music should be like")
    import torch

    from pipelines.musicgen.model import load_musicgen

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = load_musicgen(options.model)
    if options.save_model:
        model.save_pretrained(options.save_model)
        print(f"{options.save_model}: written", file=sys.stderr)
        return 0
    prompt = None if options.prompt is None else model.read_prompt(options.prompt)
    if options.lines:
        return write_lines(model, text, options, prompt)
    music, seconds = write_music(model, " ".join(text.split()), options, prompt)
    music.save(options.output)
    if options.plot:
        plot(options.plot, music, model.codec, text)
    where = "" if options.output == "-" else f"{options.output}: "
    print(f"{where}{describe(music, seconds, options.seconds)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
