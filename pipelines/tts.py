"""Speak a text.

    python pipelines/tts.py "hello world" -o hello.wav
    python pipelines/tts.py -f chapter.txt -o chapter.flac
    echo "hello world" | python pipelines/tts.py -o - | aplay
    python pipelines/tts.py "hello world" --stream | aplay -f S16_LE -r 24000
    python pipelines/tts.py --lines -f sentences.txt -o spoken/              # a file a line: spoken/0001.wav …
    python pipelines/tts.py "hello world" --speaker fenrir
    python pipelines/tts.py "hello world" --prompt me.wav --prompt-text "what I say there" -o like-me.wav
    python pipelines/tts.py "hello world" --seed 3 --temperature 0.7 --levels 4 --plot hello.png

The text comes from the arguments, a file (-f), or standard input. Without -o the speech goes to speech.wav. `-o -`
writes WAV to standard output; --stream writes raw PCM there (16 bits, little-endian, mono) while it is being made. The
last line on standard error tells seconds of audio, real-time factor and how it ended (`end` is good).
Exit code: 0; 1 where some lines could not be spoken (--lines); 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.errors import SoundloomError
from pipelines.command_line.run import run
from pipelines.command_line.voice_options import (
    add_voice_options,
    check_lines_output,
    check_output,
    describe,
    open_voice,
    plot,
    read_text,
    split_lines,
    voice_settings,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.voice.speech import Speech
    from pipelines.voice.voice import Voice


def stream(voice: Voice, text: str, arguments: dict[str, Any], to_stdout: bool) -> tuple[Speech, float]:
    """Speak chunk by chunk, as PCM to stdout where wanted. Returns the whole and the seconds to the first sound."""
    began = time.perf_counter()
    chunks = voice.stream(text, **arguments)
    first = 0.0
    for chunk in chunks:
        if to_stdout:
            sys.stdout.buffer.write(pcm(chunk))
            sys.stdout.buffer.flush()
        first = first or time.perf_counter() - began
    assert chunks.speech is not None
    return chunks.speech, first


def pcm(wave: Tensor) -> bytes:
    """wave float [C, n] -> 16-bit little-endian samples, channels interleaved."""
    import torch

    scaled = (wave.clamp(-1, 1) * 32767).round().to(torch.int16)
    return scaled.t().contiguous().numpy().astype("<i2").tobytes()


def speak_lines(voice: Voice, text: str, folder: Path, batch: int, arguments: dict[str, Any]) -> int:
    """A file a line; lines that cannot be spoken are told and left out. Returns the exit code."""
    lines = split_lines(text, "text to speak")
    width, audio = max(4, len(str(len(lines)))), 0.0
    good: list[int] = []
    for number, line in enumerate(lines):
        try:
            voice.check_text(line)
            good.append(number)
        except SoundloomError as error:
            print(f"error: line {number + 1}: {error}", file=sys.stderr, flush=True)
    began = time.perf_counter()
    seed = arguments.pop("seed")
    for place in range(0, len(good), 4 * batch):  # four at a time, so that lines of one length can go together
        started = time.perf_counter()
        group = good[place : place + 4 * batch]
        speeches = voice.speak_batch(
            [lines[i] for i in group], seeds=[seed] * len(group), batch_size=batch, **arguments
        )
        seconds, total = time.perf_counter() - started, sum(speech.seconds for speech in speeches)
        for number, speech in zip(group, speeches, strict=True):
            path = folder / f"{number + 1:0{width}d}.wav"
            speech.save(path)
            shown = describe(speech, seconds * speech.seconds / max(total, 1e-9))
            print(f"{path}: {shown}", file=sys.stderr, flush=True)
        audio += total
    wrong = len(lines) - len(good)
    factor = (time.perf_counter() - began) / max(audio, 1e-9)
    print(
        f"{len(good)} files, {audio:.2f} s of audio, real-time factor {factor:.2f}, {wrong} lines could not be spoken",
        file=sys.stderr,
    )
    return 1 if wrong else 0


def _check(options: argparse.Namespace) -> None:
    """Everything that can be told before the models are opened."""
    if options.batch < 1:
        raise SoundloomError(f"--batch {options.batch}: wanted 1 or more")
    if options.lines:
        check_lines_output(options.output, "--stream and --plot", options.stream or bool(options.plot))
        return
    options.output = options.output or ("-" if options.stream else "speech.wav")
    check_output(options.output)
    if options.plot:
        check_output(options.plot, picture=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tts.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", nargs="*", help="words to speak; - and nothing read standard input")
    parser.add_argument("-f", "--file", help="text file to speak, or - (standard input)")
    parser.add_argument("-o", "--output", help="audio file (.wav, .flac, .ogg, .mp3 …), or - (standard output)")
    parser.add_argument("--lines", action="store_true", help="speak each line into a file of its own, in the folder -o")
    parser.add_argument("--batch", type=int, default=8, help="with --lines: sentences spoken side by side (default: 8)")
    parser.add_argument("--stream", action="store_true", help="write PCM to standard output as it is made")
    parser.add_argument(
        "--speaker", help="one of the voice's other speakers; a name that it has not shows those it has"
    )
    parser.add_argument("--prompt", help="recording of a speaker to sound like, about 3 seconds")
    parser.add_argument("--prompt-text", help="what the recording says")
    parser.add_argument("--plot", help="draw waveform, spectrogram and codes: .png, .svg or .pdf")
    parser.add_argument("--retries", type=int, help="tries more for a sentence that ends badly (default: the voice's)")
    add_voice_options(parser)
    options = parser.parse_args(argv)
    _check(options)
    text = read_text([] if options.text == ["-"] else options.text, options.file)
    if not text.strip():
        raise SoundloomError("the text is empty; give some words to speak")
    voice = open_voice(options)
    speaker = {"speaker": options.speaker, "prompt": options.prompt, "prompt_text": options.prompt_text}
    arguments = voice_settings(options) | speaker
    if options.lines:
        arguments["retries"] = options.retries
        return speak_lines(voice, text, Path(options.output), options.batch, arguments)
    began = time.perf_counter()
    first = None
    if options.stream:
        speech, first = stream(voice, text, arguments, options.output == "-")
    else:
        speech = voice.speak(text, retries=options.retries, **arguments)
    seconds = time.perf_counter() - began
    if not (options.stream and options.output == "-"):
        speech.save(options.output)
    if options.plot:
        plot(options.plot, speech, voice.codec, speech.text)
    where = "" if options.output == "-" else f"{options.output}: "
    late = "" if first is None else f", first sound after {1000 * first:.0f} ms"
    print(f"{where}{describe(speech, seconds)}{late}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
