"""Send sound through a codec and back: file to codes to file, at any number of levels.

    python pipelines/reconstruct.py in.wav -o out.wav
    python pipelines/reconstruct.py in.mp3 -o out.wav --levels 2 --plot out.png
    python pipelines/reconstruct.py in.wav -o out.wav --codec facebook/encodec_24khz
    python pipelines/reconstruct.py in.wav --codes in.loom           # compress: 44 bytes and then only codes
    python pipelines/reconstruct.py in.loom -o out.wav --levels 4    # and back
    python pipelines/reconstruct.py recordings/ -o decoded/ --codes codes/
    ffmpeg -i talk.mp4 -f wav - | python pipelines/reconstruct.py - -o - | aplay

Codes go into .loom (packed, the honest bitrate) or .safetensors (a tensor, for other programs).
Exit code: 0; 1 where some files of a folder could not be used; 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.audio.files import audio_files, read_audio, write_audio
from codec.errors import SoundloomError
from codec.loom import CODE_SUFFIXES, CodeFile, load_codes, mark_of, pack, save_codes
from codec.metrics import mel_distance
from codec.pretrained import load_codec
from pipelines.command_line.run import run

WHOLE_SECONDS = 60  # longer recordings go through the codec in pieces of this length: the same codes in less memory


@dataclass(frozen=True)
class Reconstruction:
    """A recording [C, N] (None where the input was codes), its codes, and what they decode to [C, N]."""

    original: Tensor | None
    codes: CodeFile
    decoded: Tensor


def encode(codec: Any, wave: Tensor) -> Tensor:
    """wave [C, N] at the codec's rate -> codes [K, T]; long recordings in pieces where the codec can stream."""
    piece = int(WHOLE_SECONDS * codec.frame_rate) * codec.hop_length
    state = _stream(codec) if wave.shape[1] > piece else None
    if state is None:
        return codec.encode(wave[None])[0]
    starts = range(0, wave.shape[1], piece)
    parts = [
        codec.encode_chunk(wave[None, :, start : start + piece], state, last=start == starts[-1]) for start in starts
    ]
    return torch.cat(parts, dim=-1)[0]


def decode(codec: Any, codes: Tensor, num_samples: int) -> Tensor:
    """codes [n, T] -> wave [C, num_samples]; long ones in pieces where the codec can stream."""
    piece = int(WHOLE_SECONDS * codec.frame_rate)
    state = _stream(codec) if codes.shape[1] > piece else None
    if state is None:
        return codec.decode(codes[None])[0, :, :num_samples]
    starts = range(0, codes.shape[1], piece)
    parts = [
        codec.decode_chunk(codes[None, :, start : start + piece], state, last=start == starts[-1]) for start in starts
    ]
    return torch.cat(parts, dim=-1)[0, :, :num_samples]


def _stream(codec: Any) -> Any:
    """A fresh stream's state, or None where the codec runs on the whole only."""
    try:
        return codec.init_state(1)
    except (AttributeError, SoundloomError):
        return None


def reconstruct(codec: Any, source: str | Path, levels: int | None = None) -> Reconstruction:
    """Read ``source``, audio or a file of codes, and send it through ``codec``.

    ``levels``: use the first n levels (None: all that are there). Raises: SoundloomError.
    """
    if levels is not None and not 1 <= levels <= codec.num_levels:
        raise SoundloomError(f"--levels {levels}: this codec has levels 1 to {codec.num_levels}")
    if Path(source).suffix.lower() in CODE_SUFFIXES:
        original, file = None, load_codes(source)
        file.check_codec(codec.fingerprint, codec.sample_rate, str(source))
        if levels is not None and levels > file.codes.shape[0]:
            raise SoundloomError(f"--levels {levels}: {source} holds {file.codes.shape[0]} levels")
        codes = file.codes[:levels]
    else:
        original = read_audio(source, codec.sample_rate, codec.channels)
        codes = encode(codec, original)[:levels].cpu()
    num_samples = file.num_samples if original is None else original.shape[1]
    num_samples = min(num_samples, codes.shape[1] * codec.hop_length)
    file = CodeFile(
        codes, codec.codebook_size, codec.sample_rate, codec.hop_length, num_samples, mark_of(codec.fingerprint)
    )
    return Reconstruction(original, file, decode(codec, codes, num_samples).cpu())


def describe(result: Reconstruction, codec: Any) -> str:
    """One line: duration, levels, bitrate as the codes and as a packed file have it, mel distance."""
    seconds = result.codes.num_samples / codec.sample_rate
    levels = result.codes.codes.shape[0]
    packed = 8 * len(pack(result.codes)) / seconds
    parts = [
        f"{seconds:.2f} s",
        f"{levels} of {codec.num_levels} levels",
        f"{codec.bitrate(levels) / 1000:.2f} kbit/s (packed file {packed / 1000:.2f})",
    ]
    if result.original is not None:
        distance = mel_distance(result.original[:, : result.codes.num_samples], result.decoded, codec.sample_rate)
        parts.append(f"mel distance {distance:.3f}")
    return ", ".join(parts)


def _one(codec: Any, source: str, out: str | None, codes_path: str | None, plot: str | None, levels: int | None) -> str:
    result = reconstruct(codec, source, levels)
    if codes_path:
        save_codes(codes_path, result.codes)
    if plot:
        from pipelines.evaluation.plots import reconstruction_figure, save_figure

        line = describe(result, codec)
        original = result.decoded if result.original is None else result.original
        figure = reconstruction_figure(
            original.mean(0), result.decoded.mean(0), result.codes.codes, codec.sample_rate, codec.codebook_size, line
        )
        save_figure(plot, figure)
    if out:
        write_audio(out, result.decoded, codec.sample_rate)
    return describe(result, codec)


def _folder(codec: Any, options: argparse.Namespace) -> int:
    """Every audio file of a folder; bad ones are told and left out. Returns the exit code."""
    root = Path(options.input)
    sources = audio_files(root)
    if not sources:
        raise SoundloomError(f"{root}: holds no audio files")
    wrong = 0
    for source in sources:
        # The suffix stays in the name: a.wav and a.mp3 of one folder must not meet in one a.wav.
        inside = source.relative_to(root)
        targets = [
            None if folder is None else str(Path(folder) / inside.with_name(inside.name + suffix))
            for folder, suffix in ((options.output, ".wav"), (options.codes, ".loom"), (options.plot, ".png"))
        ]
        targets[0] = targets[0] and (targets[0][:-4] if source.suffix.lower() == ".wav" else targets[0])
        try:
            print(f"{inside}: {_one(codec, str(source), *targets, options.levels)}", flush=True)
        except SoundloomError as error:
            wrong += 1
            print(f"error: {error}", file=sys.stderr, flush=True)
    print(f"{len(sources) - wrong} files done, {wrong} could not be used")
    return 1 if wrong else 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="reconstruct.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help="audio file, folder of them, .loom or .safetensors file of codes, or - (stdin)")
    parser.add_argument("-o", "--output", help="audio file or folder to write, or - (WAV on stdout)")
    parser.add_argument("--codec", help="codec: a folder or a hub name (default: the one that is shipped)")
    parser.add_argument("--levels", type=int, help="use the first n levels only (default: all)")
    parser.add_argument("--codes", help="write the codes: a .loom or .safetensors file, or a folder for a folder")
    parser.add_argument("--plot", help="draw waveforms, spectrograms and codes: .png, .svg or .pdf, or a folder")
    parser.add_argument("--threads", type=int, help="threads for the networks (default: torch's own)")
    options = parser.parse_args(argv)
    if not (options.output or options.codes or options.plot):
        raise SoundloomError("nothing to do: give -o out.wav, --codes out.loom or --plot out.png")
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.input != "-" and not Path(options.input).exists():
        raise SoundloomError(f"{options.input}: no such file or folder")
    codec = load_codec(options.codec)
    if options.input != "-" and Path(options.input).is_dir():
        return _folder(codec, options)
    line = _one(codec, options.input, options.output, options.codes, options.plot, options.levels)
    print(line, file=sys.stderr if options.output == "-" else sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
