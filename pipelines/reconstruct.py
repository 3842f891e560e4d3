"""Send sound through a codec and back: file to codes to file, at any number of levels.

    python pipelines/reconstruct.py in.wav -o out.wav
    python pipelines/reconstruct.py in.mp3 -o out.wav --levels 2 --plot out.png
    python pipelines/reconstruct.py in.wav -o out.wav --codec facebook/encodec_24khz
    python pipelines/reconstruct.py in.wav --codes in.loom           # compress: 44 or 48 bytes and then only codes
    python pipelines/reconstruct.py in.loom -o out.wav --levels 4    # and back
    python pipelines/reconstruct.py in.ecdc -o out.wav --codec facebook/encodec_24khz
    python pipelines/reconstruct.py recordings/ -o decoded/ --codes codes/
    ffmpeg -i talk.mp4 -f wav - | python pipelines/reconstruct.py - -o - | aplay

Codes go into .loom (packed: the file's size is the bitrate) or .safetensors (a tensor, for other programs). Files of
the encodec package (.ecdc, 24 kHz, written without a language model) are read too.
A quiet recording is raised before it is encoded, and lowered again by a gain in the file of codes; see --no-normalize.
Exit code: 0; 1 where some files of a folder could not be used; 2 for bad input.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from codec.errors import SoundloomError
from pipelines.command_line.run import check_numbers, run
from pipelines.command_line.voice_options import check_output

if TYPE_CHECKING:
    from torch import Tensor

    from codec.loom import CodeFile
    from codec.pretrained import AudioCodec


def _check(options: argparse.Namespace) -> None:
    """Report whatever can be reported before the work. Raises: `SoundloomError`."""
    if not (options.output or options.codes or options.plot):
        raise SoundloomError("nothing to do: give -o out.wav, --codes out.loom or --plot out.png")
    check_numbers(options)
    source = Path(options.input)
    if options.input != "-" and not source.exists():
        raise SoundloomError(f"{options.input}: no such file or folder")
    for target in (options.output, options.codes, options.plot):
        if target and target != "-" and os.path.realpath(target) == os.path.realpath(source):
            raise SoundloomError(f"{target}: is the input itself; choose another name")
    if source.is_dir():
        return
    if source.suffix.lower() == ".ecdc" and not options.codec:
        raise SoundloomError(f"{source}: codes of EnCodec at 24 kHz; add --codec facebook/encodec_24khz")
    if options.output:
        check_output(options.output)
    if options.plot:
        check_output(options.plot, picture=True)
    _check_codes(options.codes)


def _check_codes(path: str | None) -> None:
    from codec.loom import CODE_SUFFIXES

    if path and not path.lower().endswith(CODE_SUFFIXES):
        raise SoundloomError(f"{path}: codes go into {' or '.join(CODE_SUFFIXES)}; end its name with one of them")


def _one(
    codec: AudioCodec,
    options: argparse.Namespace,
    source: str,
    out: str | None,
    codes_path: str | None,
    plot: str | None,
) -> str:
    """Send one file through the codec, write what was asked for, and return its line."""
    from codec.audio.pieces import open_writer
    from codec.loom import save_codes
    from codec.round_trip import describe, reconstruct

    original: list[Tensor] = []  # a picture needs the whole of both
    decoded: list[Tensor] = []
    with open_writer(out, codec.sample_rate) if out else nullcontext() as write:

        def take(wave: Tensor) -> None:
            if write is not None:
                write(wave)
            if plot:
                decoded.append(wave)

        show = original.append if plot else None
        result = reconstruct(codec, source, options.levels, take, show, normalize=options.normalize)
        line = describe(result, codec)
        if codes_path:
            save_codes(codes_path, result.codes)
        if plot:
            _plot(plot, codec, result.codes, original or decoded, decoded, line)
    return line


def _plot(
    path: str, codec: AudioCodec, codes: CodeFile, original: list[Tensor], decoded: list[Tensor], line: str
) -> None:
    import torch

    from pipelines.evaluation.plots import reconstruction_figure, save_figure

    before, after = (torch.cat(pieces, 1).mean(0) for pieces in (original, decoded))
    shown = codes.codes[:, : -(-len(after) // codec.hop_length)]  # without the frame of silence at the end
    save_figure(path, reconstruction_figure(before, after, shown, codec.sample_rate, codec.codebook_size, line))


def _folder(codec: AudioCodec, options: argparse.Namespace) -> int:
    """Do as `_one` for every audio file of a folder; report bad ones and leave them out. Returns the exit code."""
    from codec.audio.files import audio_files

    root = Path(options.input)
    sources = audio_files(root)
    if not sources:
        raise SoundloomError(f"{root}: holds no audio files")
    wrong = 0
    for source in sources:
        # The suffix stays in the name: a.wav and a.mp3 of one folder must not both become a.wav.
        inside = source.relative_to(root)
        wave = "" if source.suffix.lower() == ".wav" else ".wav"
        out, codes, plot = (
            folder and str(Path(folder) / inside.with_name(inside.name + suffix))
            for folder, suffix in ((options.output, wave), (options.codes, ".loom"), (options.plot, ".png"))
        )
        try:
            print(f"{inside}: {_one(codec, options, str(source), out, codes, plot)}", flush=True)
        except SoundloomError as error:
            wrong += 1
            print(f"error: {error}", file=sys.stderr, flush=True)
    print(f"{len(sources) - wrong} files done, {wrong} could not be used")
    return 1 if wrong else 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="reconstruct.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help="audio file, folder of them, file of codes (.loom, .safetensors, .ecdc), or -")
    parser.add_argument("-o", "--output", help="audio file or folder to write, or - (WAV on standard output)")
    parser.add_argument("--codec", help="codec: a folder or a hub name (default: the shipped one)")
    parser.add_argument("--decoder", help="one of the codec's further decoders, for the same codes (default: its own)")
    parser.add_argument("--levels", type=int, help="use the first n levels only (default: all)")
    parser.add_argument("--codes", help="write the codes: a .loom or .safetensors file, or a folder for a folder")
    parser.add_argument("--plot", help="draw waveforms, spectrograms and codes: .png, .svg or .pdf, or a folder")
    parser.add_argument(
        "--no-normalize",
        dest="normalize",
        action="store_false",
        help="encode quiet recordings at their own level; what comes out has the level of the input either way",
    )
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or mps (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads for the networks (default: torch's own)")
    options = parser.parse_args(argv)
    _check(options)
    # Imported here: Ctrl-C while torch is imported then ends the program as it does later.
    import torch

    from codec.pretrained import load_codec

    if options.threads:
        torch.set_num_threads(options.threads)
    codec = load_codec(options.codec, device=options.device, decoder=options.decoder)
    if options.input != "-" and Path(options.input).is_dir():
        return _folder(codec, options)
    line = _one(codec, options, options.input, options.output, options.codes, options.plot)
    print(line, file=sys.stderr if options.output == "-" else sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
