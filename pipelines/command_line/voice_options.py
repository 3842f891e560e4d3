"""What the programs that speak have in common: options, outputs, the line at the end."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.errors import SoundloomError, quoted
from pipelines.command_line.run import add_threads_option, check_numbers, set_threads

if TYPE_CHECKING:
    from pipelines.music_model.writer import Music
    from pipelines.voice.speech import Speech
    from pipelines.voice.voice import Voice

PICTURES = (".png", ".svg", ".pdf")
_MOST_BYTES, _MOST_BYTES_BY_LINE = 200_000, 64 << 20  # of text: 50,000 characters of UTF-8; lines
# The options for sampling: type, the shipped voice's value, and what it does.
SAMPLING: dict[str, tuple[type, str, str]] = {
    "temperature": (float, "0.3", "0: always the likeliest code, clear and flat; 1: lively, with more misreadings"),
    "fine_temperature": (float, "as --temperature", "the same for levels above the first"),
    "top_k": (int, "30", "sample from the k likeliest codes only"),
    "top_p": (float, "1.0", "sample from the likeliest codes that together have this probability"),
    "guidance": (float, "2.0", "how strongly the text steers; 1: no guidance and half the work"),
    "sampled_levels": (int, "1", "decode the first n levels as sampled codes, finer ones from expected latents"),
}
MOST_RETRIES, MOST_TAKES = 20, 20
# What `lm.generation` takes; checked here too, before models are opened.
SAMPLING_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "fine_temperature": (0, 100),
    "top_k": (1, 1_000_000),
    "top_p": (1e-6, 1),
    "guidance": (0, 100),
    "sampled_levels": (1, 1024),
}
SETTINGS = {name: kind for name, (kind, _, _) in SAMPLING.items()}


def add_voice_options(parser: argparse.ArgumentParser) -> None:
    """Add what all programs that speak have in common."""
    parser.add_argument("--voice", help="a folder, a shipped voice's name, or a hub name (default: heart, shipped)")
    parser.add_argument("--levels", type=int, help="decode the first n levels; fewer is rougher (default: 4 for heart)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another reading (default: 0)")
    add_sampling_options(parser)
    parser.add_argument("--device", default="cpu", help="where the models run: auto, cpu, cuda or mps (default: cpu)")
    add_threads_option(parser)


def add_sampling_options(parser: argparse.ArgumentParser, whose: str = "default: the voice's own; shipped") -> None:
    """Add --temperature and its like; the old --drawn-levels is still taken."""
    for name, (kind, shipped, text) in SAMPLING.items():
        names = [f"--{name.replace('_', '-')}", *(["--drawn-levels"] if name == "sampled_levels" else [])]
        parser.add_argument(*names, dest=name, type=kind, help=f"{text} ({whose}: {shipped})")


def add_takes_options(parser: argparse.ArgumentParser) -> None:
    """Add --takes and --choose-by."""
    parser.add_argument("--takes", type=int, default=1, help="keep the best of n takes of each sentence (default: 1)")
    parser.add_argument(
        "--choose-by",
        default="guard",
        help="with --takes: guard (length, and attention to the text), or a recogniser that counts wrong words: "
        "tiny, base or a folder; needs soundloom[eval] (default: guard)",
    )


def check_takes(options: argparse.Namespace, judge: str | None = None) -> None:
    """Raises: SoundloomError for options of `add_takes_options` that cannot be; ``judge``: a report's recogniser."""
    check_numbers(options, takes=(1, MOST_TAKES))
    if options.choose_by == "guard":
        return
    if options.takes == 1:
        raise SoundloomError(f"--choose-by {quoted(options.choose_by)} without --takes: there is nothing to choose")
    from pipelines.evaluation.word_checker import check_choice

    check_choice(options.choose_by, judge)


def takes_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `Voice.speak` needs for the options of `add_takes_options`; nothing where there is one take."""
    if options.takes == 1 or options.choose_by == "guard":
        return {} if options.takes == 1 else {"takes": options.takes}
    from pipelines.evaluation.word_checker import WordChecker

    return {"takes": options.takes, "checker": WordChecker(options.choose_by)}


def voice_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that were given, for `Voice.speak` and its like."""
    given = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    return {"seed": options.seed, "levels": options.levels, **given}


def open_voice(options: argparse.Namespace) -> Voice:
    """Open the voice that was asked for, on the device and with as many threads as were asked for."""
    from pipelines.voice.voice import load_voice

    set_threads(options.threads)
    return load_voice(options.voice, device=options.device)


def check_output(path: str, picture: bool = False) -> None:
    """Fail before the work rather than after it.

    Raises: SoundloomError where ``path`` cannot become an audio file (or a picture), or is the terminal.
    """
    from codec.audio.files import WRITABLE

    if not path.strip():
        raise SoundloomError("-o is empty; name a file to write")
    suffixes = PICTURES if picture else tuple(WRITABLE)
    if path == "-" and not picture:
        if sys.stdout is None:
            raise SoundloomError("standard output is closed; give -o FILE")
        if sys.stdout.isatty():
            raise SoundloomError("audio does not go to a terminal: pipe it into a player, or give -o FILE")
        return
    place = _local(path)
    if place.is_dir() or path.endswith(("/", os.sep)):
        raise SoundloomError(f"{path}: is a folder; name a file in it")
    if place.exists() and not place.is_file():
        return  # a pipe or a device
    if place.suffix.lower() not in suffixes:
        raise SoundloomError(f"{path}: unknown kind of file; end its name with one of {', '.join(suffixes)}")
    check_folder(place.parent, path)


def _local(path: str) -> Path:
    """Return a path that the system can look up. Raises: SoundloomError where it is too long or holds a NUL."""
    try:
        os.path.lexists(path) or os.stat(path)
    except FileNotFoundError:
        return Path(path)
    except (OSError, ValueError) as error:
        if isinstance(error, NotADirectoryError):
            return Path(path)
        reason = error.strerror if isinstance(error, OSError) else error
        raise SoundloomError(f"{quoted(path)}: is not a file name ({reason})") from None
    return Path(path)


def check_times(path: str | None) -> None:
    """Raises: SoundloomError where a file of word times has another suffix than .json, .srt or .vtt."""
    from pipelines.voice.captions import SUFFIXES

    if path is not None and not path.lower().endswith(SUFFIXES):
        raise SoundloomError(f"--times {quoted(path)}: unknown kind of file; end its name with one of {SUFFIXES}")
    if path is not None:
        check_folder(_local(path).parent, path)


def check_prompt(path: str | None) -> None:
    """Raises: SoundloomError where a recording to continue is not there; "-" is standard input."""
    if path == "-" and sys.stdin is None:
        raise SoundloomError("standard input is closed; give a recording to continue")
    if path not in (None, "-") and not _local(str(path)).exists():
        raise SoundloomError(f"{path}: no such file; give a recording to continue")


def check_folder(folder: Path, path: str) -> None:
    """Raises: SoundloomError where ``folder`` is not there and cannot be made, or cannot be written to."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        raise SoundloomError(f"{path}: cannot write there, {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SoundloomError(f"{path}: cannot write there, no permission for {there}; choose another place")


def check_lines_output(path: str | None, without: str, spoilt: bool, option: str = "--lines") -> None:
    """``option`` needs a folder to write to. Raises: SoundloomError, which also forbids what goes with one file."""
    if spoilt or path in (None, "-"):
        raise SoundloomError(f"{option} writes a folder of files: give -o FOLDER, without {without}")
    folder = _local(str(path))
    if folder.exists() and not folder.is_dir():
        raise SoundloomError(f"{path}: is a file; {option} needs a folder")
    check_folder(folder, str(path))


def split_lines(text: str, kind: str) -> list[str]:
    """Return the lines that hold something, stripped. Raises: SoundloomError where none does, named by ``kind``."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise SoundloomError(f"no line with {kind}")
    return lines


def read_text(words: list[str], file: str | None, by_line: bool = False) -> str:
    """Return the text from the arguments, a file, or standard input, reading no more than can be spoken.

    ``by_line``: each line is spoken alone, so that the whole may be much longer.
    Raises: SoundloomError.
    """
    if words and file:
        raise SoundloomError("give the text as arguments or with -f, not both")
    if words:
        return " ".join(words)
    if file is None and sys.stdin is not None and sys.stdin.isatty():
        raise SoundloomError('no text: give it as an argument ("hello world"), with -f FILE, or on standard input')
    limit = _MOST_BYTES_BY_LINE if by_line else _MOST_BYTES
    name = "standard input" if file in (None, "-") else str(file)
    if name == "standard input" and sys.stdin is None:
        raise SoundloomError("standard input is closed; give the text as an argument or with -f FILE")
    try:
        if name == "standard input":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with open(name, "rb") as opened:
                data = opened.read(limit + 1)
        if len(data) > limit:
            raise SoundloomError(f"{name}: has more than {limit:,} bytes; give it in parts (a chapter each, say)")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SoundloomError(f"{name}: is not UTF-8 text ({error})") from error
    except OSError as error:
        raise SoundloomError(f"{quoted(name)}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:  # a NUL in the name
        raise SoundloomError(f"{quoted(name)}: is not a file name") from error


def describe(what: str, seconds: float, made: float, speech: Speech | None = None) -> str:
    """Return one line about what was made: ``made`` seconds of ``what`` in ``seconds``, and how ``speech`` ended."""
    times = made / max(seconds, 1e-9)
    parts = [f"{made:.2f} s of {what} in {seconds:.2f} s ({times:.1f}x real time)"]
    if speech is None:
        return parts[0]
    bad = [sentence for sentence in speech.sentences if sentence.finish_reason != "end"]
    if bad and len(speech.sentences) > 1:
        shown = quoted(bad[0].text, 40)
        parts.append(f"{len(bad)} of {len(speech.sentences)} sentences did not end well, first: {shown}")
    if bad:
        parts.append(f"finish reason: {speech.finish_reason}")
    if speech.attempts > 1:
        parts.append(f"{speech.attempts} attempts")
    return ", ".join(parts)


def warn_of_skipped(speech: Speech) -> None:
    """Count and show on standard error what could not be spoken."""
    if speech.skipped:
        from pipelines.voice.sentences import describe_skipped

        print(f"warning: {describe_skipped(speech.skipped)}", file=sys.stderr, flush=True)


def plot(path: str, made: Speech | Music, codec: Any, title: str) -> None:
    """Draw waveform, spectrogram and codes of what ``codec`` decoded, as a picture."""
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
