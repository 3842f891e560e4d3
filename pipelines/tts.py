"""Speak an English text.

    python pipelines/tts.py "hello world" -o hello.wav
    python pipelines/tts.py "hello world" --play
    python pipelines/tts.py -f chapter.txt -o chapter.flac
    echo "hello world" | python pipelines/tts.py -o - | aplay
    python pipelines/tts.py "hello world" --stream | aplay -f S16_LE -r 24000
    python pipelines/tts.py --lines -f sentences.txt -o spoken/              # a file a line: spoken/0001.wav …
    python pipelines/tts.py --list                                           # voices and their speakers
    python pipelines/tts.py "hello world" --speaker fenrir
    python pipelines/tts.py "hello world" --prompt me.wav --prompt-text "what I say there" -o like-me.wav
    python pipelines/tts.py "Hello. [pause:0.5s] Slowly now." --speed 0.8
    python pipelines/tts.py "hello world" --times hello.srt                  # or .vtt, .json: when each word is spoken
    python pipelines/tts.py --ssml 'Now <prosody rate="slow">slowly</prosody>.'
    python pipelines/tts.py --script -f scene.txt -o scene.wav               # lines such as "isabella: Hello."
    python pipelines/tts.py "hello world" --takes 4                          # the best of four
    python pipelines/tts.py "hello world" --seed 3 --temperature 0.7 --levels 4 --plot hello.png

The text comes from the arguments, a file (-f), or standard input. Without -o the speech goes to speech.wav (with --play
nowhere). `-o -` writes WAV to standard output; --stream writes raw PCM there (16 bits, little-endian, mono) while it is
being made. What cannot be spoken (other scripts, for example) is left out with a warning, or with --strict an error.
The last line on standard error shows how long the speech is, how long it took, and whether every sentence ended well.
Exit code: 0; 1 where some lines could not be spoken (--lines); 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.errors import SoundloomError
from pipelines.command_line.run import MOST_BATCH, check_numbers, make_parser, run
from pipelines.command_line.voice_options import (
    MOST_RETRIES,
    SAMPLING_RANGES,
    add_takes_options,
    add_voice_options,
    check_lines_output,
    check_output,
    check_takes,
    check_times,
    describe,
    open_voice,
    plot,
    read_text,
    split_lines,
    takes_settings,
    voice_settings,
    warn_of_skipped,
)

if TYPE_CHECKING:
    from pipelines.voice.speech import Speech
    from pipelines.voice.turns import Turn
    from pipelines.voice.voice import Voice


def read_turns(text: str, options: argparse.Namespace, voice: Voice) -> list[Turn]:
    """Return the turns of SSML or of a script; name on standard error what is ignored. Raises: SoundloomError."""
    if options.ssml:
        from pipelines.voice.ssml import read_ssml

        document = read_ssml(text, voice.lm.tokenizer.language)
        turns, notes = document.turns, document.notes
    else:
        from pipelines.voice.script import read_script

        turns, notes = read_script(text, [voice.name, *voice.speakers])
    for note in notes:
        print(f"warning: {note}", file=sys.stderr, flush=True)
    return turns


def speak(voice: Voice, text: str | list[Turn], arguments: dict[str, Any]) -> Speech:
    """Speak a text, or turns."""
    if isinstance(text, str):
        return voice.speak(text, **arguments)
    from pipelines.voice.turns import speak_turns

    return speak_turns(voice, text, **arguments)


def stream(voice: Voice, text: str | list[Turn], arguments: dict[str, Any], to_stdout: bool) -> tuple[Speech, float]:
    """Speak chunk by chunk, as PCM to stdout if asked. Returns the whole and the seconds to the first sound."""
    from pipelines.command_line.player import write_pcm
    from pipelines.voice.turns import stream_turns

    began = time.perf_counter()
    chunks = voice.stream(text, **arguments) if isinstance(text, str) else stream_turns(voice, text, **arguments)
    first = 0.0
    for chunk in chunks:
        if to_stdout:
            write_pcm(chunk)
        first = first or time.perf_counter() - began
    assert chunks.speech is not None
    return chunks.speech, first


@dataclass
class Lines:
    """Speaks each line of a text into a file of its own."""

    voice: Voice
    folder: Path
    batch: int
    arguments: dict[str, Any]

    def speak(self, text: str) -> int:
        """Write a file for each line; report and leave out lines that cannot be spoken. Returns the exit code."""
        lines = split_lines(text, "text to speak")
        good = self._good(lines)
        began, audio = time.perf_counter(), 0.0
        for place in range(0, len(good), 4 * self.batch):  # four at a time, so that lines of one length can go together
            audio += self._group(lines, good[place : place + 4 * self.batch])
        wrong = len(lines) - len(good)
        made = describe("speech", time.perf_counter() - began, audio)
        print(f"wrote {len(good)} files: {made}, {wrong} lines could not be spoken", file=sys.stderr)
        return 1 if wrong else 0

    def _good(self, lines: list[str]) -> list[int]:
        good = []
        for number, line in enumerate(lines):
            try:
                self.voice.check_text(line, self.arguments["strict"])
                good.append(number)
            except SoundloomError as error:
                print(f"error: line {number + 1}: {error}", file=sys.stderr, flush=True)
        return good

    def _group(self, lines: list[str], numbers: list[int]) -> float:
        """Speak some lines side by side and write them; return the seconds of speech."""
        started = time.perf_counter()
        arguments = dict(self.arguments)
        seeds = [arguments.pop("seed")] * len(numbers)
        speeches = self.voice.speak_batch([lines[i] for i in numbers], seeds=seeds, batch_size=self.batch, **arguments)
        seconds, total = time.perf_counter() - started, sum(speech.seconds for speech in speeches)
        width = max(4, len(str(len(lines))))
        for number, speech in zip(numbers, speeches, strict=True):
            path = self.folder / f"{number + 1:0{width}d}.wav"
            speech.save(path)
            warn_of_skipped(speech)
            shown = describe("speech", seconds * speech.seconds / max(total, 1e-9), speech.seconds, speech)
            print(f"wrote {path}: {shown}", file=sys.stderr, flush=True)
        return total


def write_times(path: str, voice: Voice, speech: Speech) -> None:
    """Write when each word is spoken, in the format of the file's suffix."""
    from codec.common.files import write_text
    from pipelines.voice.captions import as_file
    from pipelines.voice.word_times import word_times

    write_text(path, as_file(Path(path).suffix, word_times(voice, speech)))


def list_voices(voice: str | None) -> int:
    """Print the voices and their speakers, one a line."""
    from pipelines.voice.folder import list_speakers

    print(f"{'voice':<12} {'--speaker':<14} {'gender':<8} accent")
    for name, speaker, facts in list_speakers(voice):
        print(f"{name:<12} {speaker or '(its own)':<14} {facts.gender or '-':<8} {facts.accent or '-'}")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Check everything that can be checked before the models are opened."""
    check_numbers(options, batch=(1, MOST_BATCH), speed=(0.5, 2), retries=(0, MOST_RETRIES), **SAMPLING_RANGES)
    check_takes(options)
    if options.takes > 1 and options.stream:
        raise SoundloomError("--takes with --stream: what was played cannot be taken back; leave out one of them")
    if options.ssml + options.script + options.lines > 1:
        raise SoundloomError("--ssml, --script and --lines: give one of them")
    if options.lines:
        spoilt = options.stream or options.play or bool(options.plot or options.times)
        check_lines_output(options.output, "--stream, --play, --times and --plot", spoilt)
        return
    if options.output is None and not options.play:
        options.output = "-" if options.stream else "speech.wav"
    if options.output is not None:
        check_output(options.output)
    if options.plot:
        check_output(options.plot, picture=True)
    check_times(options.times)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("tts.py", __doc__)
    add = parser.add_argument
    add("text", nargs="*", help="text to speak; omit it or use '-' to read standard input")
    add("-f", "--file", help="text file to speak (UTF-8, at most 50,000 characters), or - for standard input")
    add("-o", "--output", help="audio file (.wav, .flac, .ogg, .mp3 …), or - for standard output (default: speech.wav)")
    add("--play", action="store_true", help="play the speech when it is made")
    add("--list", action="store_true", help="list the voices and their speakers (of --voice, or all shipped ones)")
    add("--speaker", help="speaker name (--list shows them; default: the voice's own)")
    add("--prompt", help="recording of a speaker to sound like, about 3 seconds; needs --prompt-text")
    add("--prompt-text", help="the words of the recording")
    add("--speed", type=float, default=1.0, help="0.5 (slow) to 2 (fast), at the same pitch (default: 1)")
    add("--strict", action="store_true", help="fail where a part of the text cannot be spoken (default: leave it out)")
    add("--lexicon", help="file of your own pronunciations, a line each: word, TAB, phonemes")
    add("--times", help="write when each word is spoken: .json, .srt or .vtt")
    add("--stream", action="store_true", help="write PCM to standard output while it is made")
    add("--ssml", action="store_true", help="the text is SSML; docs/speak.md lists the elements that are known")
    add(
        "--script",
        action="store_true",
        help="the text is a script with lines such as '[heart] Hello.' or 'daniel: Hi.'",
    )
    add("--lines", action="store_true", help="speak each line into a file of its own, in the folder -o")
    add("--batch", type=int, default=8, help="with --lines: sentences spoken side by side (default: 8)")
    add("--plot", help="draw waveform, spectrogram and codes: .png, .svg or .pdf")
    add(
        "--retries", type=int, help="extra attempts if a sentence is cut off, loops or is silent (default: 2 for heart)"
    )
    add_takes_options(parser)
    add_voice_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.list:
        return list_voices(options.voice)
    _check(options)
    play = None
    if options.play:
        from pipelines.command_line.player import find_player

        play = find_player()
    text = read_text([] if options.text == ["-"] else options.text, options.file, options.lines)
    if not text.strip():
        raise SoundloomError("the text is empty; give some words to speak")
    voice = open_voice(options)
    if options.lexicon is not None:
        voice.add_words(options.lexicon)
    names = ("speaker", "prompt", "prompt_text", "speed", "strict")
    arguments = voice_settings(options) | {name: getattr(options, name) for name in names} | takes_settings(options)
    if options.lines:
        arguments["retries"] = options.retries
        return Lines(voice, Path(options.output), options.batch, arguments).speak(text)
    what = read_turns(text, options, voice) if options.ssml or options.script else text
    began = time.perf_counter()
    first = None
    if options.stream:
        speech, first = stream(voice, what, arguments, options.output == "-")
    else:
        speech = speak(voice, what, arguments | {"retries": options.retries})
    seconds = time.perf_counter() - began
    _write(options, voice, speech)
    late = "" if first is None else f", first sound after {1000 * first:.0f} ms"
    where = {None: "", "-": ""}.get(options.output, f"wrote {options.output}: ")
    print(f"{where}{describe('speech', seconds, speech.seconds, speech)}{late}", file=sys.stderr)
    if play is not None:
        play(speech.waveform, speech.sample_rate)
    return 0


def _write(options: argparse.Namespace, voice: Voice, speech: Speech) -> None:
    """Write the speech and what was asked for with it."""
    if options.output is not None and not (options.stream and options.output == "-"):
        speech.save(options.output)
    warn_of_skipped(speech)
    if options.times:
        write_times(options.times, voice, speech)
    if options.plot:
        plot(options.plot, speech, voice.codec, speech.text)


if __name__ == "__main__":
    raise SystemExit(run(main))
