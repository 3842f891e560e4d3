"""What the programs that speak have in common: options, outputs, the line that they end with."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.errors import SoundloomError

if TYPE_CHECKING:
    from pipelines.musicgen.model import Music
    from pipelines.voice.speech import Speech
    from pipelines.voice.voice import Voice

PICTURES = (".png", ".svg", ".pdf")
# The options for sampling: type, the shipped voice's value, and what it does.
SAMPLING: dict[str, tuple[type, str, str]] = {
    "temperature": (float, "0.3", "0: always the likeliest code, clear and flat; 1: lively, with more misreadings"),
    "fine_temperature": (float, "as --temperature", "the same for levels above the first"),
    "top_k": (int, "30", "sample from the k likeliest codes only"),
    "top_p": (float, "1.0", "sample from the likeliest codes that together have this probability"),
    "guidance": (float, "2.0", "how strongly the text steers; 1: no guidance and half the work"),
    "sampled_levels": (int, "1", "decode the first n levels as sampled codes, finer ones from expected latents"),
}
SETTINGS = {name: kind for name, (kind, _, _) in SAMPLING.items()}


def add_voice_options(parser: argparse.ArgumentParser) -> None:
    """What all programs that speak have in common."""
    parser.add_argument("--voice", help="a folder, a shipped voice's name, or a hub name (default: the shipped one)")
    parser.add_argument("--levels", type=int, help="decode the first n levels (default: the voice's own)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another reading (default: 0)")
    add_sampling_options(parser)
    parser.add_argument("--threads", type=int, help="threads for the networks (default: torch's own)")


def add_sampling_options(parser: argparse.ArgumentParser, whose: str = "default: the voice's own; shipped") -> None:
    """Add --temperature and its like; the old --drawn-levels is still taken."""
    for name, (kind, shipped, text) in SAMPLING.items():
        names = [f"--{name.replace('_', '-')}", *(["--drawn-levels"] if name == "sampled_levels" else [])]
        parser.add_argument(*names, dest=name, type=kind, help=f"{text} ({whose}: {shipped})")


def voice_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, for `Voice.speak` and its like."""
    given = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    return {"seed": options.seed, "levels": options.levels, **given}


def open_voice(options: argparse.Namespace) -> Voice:
    """The voice that was asked for, with as many threads as were asked for."""
    import torch

    from pipelines.voice.voice import load_voice

    if options.threads is not None:
        if options.threads < 1:
            raise SoundloomError(f"--threads {options.threads}: wanted at least 1")
        torch.set_num_threads(options.threads)
    return load_voice(options.voice)


def check_output(path: str, picture: bool = False) -> None:
    """Fail before the work rather than after it.

    Raises: SoundloomError where ``path`` cannot become an audio file (or a picture), or is the terminal.
    """
    from codec.audio.files import WRITABLE

    suffixes = PICTURES if picture else tuple(WRITABLE)
    if path == "-" and not picture:
        if sys.stdout.isatty():
            raise SoundloomError("audio does not go to a terminal: pipe it into a player, or give -o FILE")
        return
    place = Path(path)
    if place.is_dir() or path.endswith(("/", os.sep)):
        raise SoundloomError(f"{path}: is a folder; name a file in it")
    if place.exists() and not place.is_file():
        return  # a pipe or a device
    if place.suffix.lower() not in suffixes:
        raise SoundloomError(f"{path}: unknown kind of file; end its name with one of {', '.join(suffixes)}")
    check_folder(place.parent, path)


def check_folder(folder: Path, path: str) -> None:
    """Raises: SoundloomError where ``folder`` is not there and cannot be made, or cannot be written to."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        raise SoundloomError(f"{path}: cannot write there, {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SoundloomError(f"{path}: cannot write there, no permission for {there}; choose another place")


def check_lines_output(path: str | None, without: str, spoilt: bool) -> None:
    """--lines needs a folder to write to. Raises: SoundloomError, which also forbids what goes with one file only."""
    if spoilt or path in (None, "-"):
        raise SoundloomError(f"--lines writes a folder of files: give -o FOLDER, without {without}")
    if Path(path).exists() and not Path(path).is_dir():
        raise SoundloomError(f"{path}: is a file; --lines needs a folder")
    check_folder(Path(path), path)


def split_lines(text: str, kind: str) -> list[str]:
    """The lines that hold something, stripped. Raises: SoundloomError where none does, named by ``kind``."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise SoundloomError(f"no line with {kind}")
    return lines


def read_text(words: list[str], file: str | None) -> str:
    """The text, from the arguments, a file, or standard input. Raises: SoundloomError."""
    if words and file:
        raise SoundloomError("give the text as arguments or with -f, not both")
    if words:
        return " ".join(words)
    if file is None and sys.stdin.isatty():
        raise SoundloomError('no text: give it as an argument ("hello world"), with -f FILE, or on standard input')
    name = "standard input" if file in (None, "-") else str(file)
    try:
        data = sys.stdin.buffer.read() if file in (None, "-") else Path(str(file)).read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SoundloomError(f"{name}: is not UTF-8 text ({error})") from error
    except OSError as error:
        raise SoundloomError(f"{name}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:  # a NUL in the name
        raise SoundloomError(f"{name!r}: is not a file name") from error


def describe(speech: Speech, seconds: float, audio: float | None = None) -> str:
    """One line: what was made, how fast (``audio`` seconds of it, all by default, in ``seconds``), how it ended."""
    audio = speech.seconds if audio is None else audio
    parts = [f"{audio:.2f} s of audio", f"real-time factor {seconds / max(audio, 1e-9):.2f}"]
    parts.append(f"finish reason {speech.finish_reason}")
    if speech.attempts > 1:
        parts.append(f"{speech.attempts} attempts")
    bad = [sentence for sentence in speech.sentences if sentence.finish_reason != "end"]
    if bad and len(speech.sentences) > 1:
        parts.append(f"{len(bad)} of {len(speech.sentences)} sentences, first: {bad[0].text[:40]!r}")
    return ", ".join(parts)


def plot(path: str, made: Speech | Music, codec: Any, title: str) -> None:
    """Waveform, spectrogram and codes of what ``codec`` sounded, as a picture."""
    from pipelines.evaluation import plots

    figure = plots.new_figure(min(24.0, 8 + made.seconds), 5)
    rows = figure.subplots(3, 1, height_ratios=[1, 2, 1])
    wave = made.waveform.mean(0)
    plots.draw_waveform(rows[0], wave, made.sample_rate, "waveform")
    plots.draw_spectrogram(rows[1], wave, made.sample_rate, "mel")
    plots.draw_codes(rows[2], made.codes, codec.codebook_size, codec.frame_rate)
    rows[2].set_xlabel("seconds")
    figure.suptitle(title if len(title) <= 100 else title[:99] + "…")
    plots.save_figure(path, figure)
