"""Continue a recording: the voice goes on where it ends.

    python pipelines/continue_audio.py prompt.wav --seconds 5 -o out.wav
    python pipelines/continue_audio.py prompt.wav --seconds 8 -o out.wav --prompt-text "what is said there" \\
        --text "and what shall be said then"
    python pipelines/continue_audio.py prompt.mp3 --seconds 5 --only-new -o new.wav
    ffmpeg -i talk.mp4 -f wav - | python pipelines/continue_audio.py - --seconds 5 -o - | aplay

The recording is converted to one channel at the voice's sample rate; the output holds it and its continuation, or
with --only-new the latter. Without --text exactly --seconds are added, at temperature 1 unless told otherwise; with it
the continuation may end sooner, when the text is spoken, and --prompt-text should say what the recording says. Exit
code: 0; 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from codec.errors import SoundloomError
from pipelines.command_line.run import run
from pipelines.command_line.voice_options import (
    add_voice_options,
    check_output,
    describe,
    open_voice,
    plot,
    voice_settings,
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="continue_audio.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompt", help="audio file, or - (standard input)")
    parser.add_argument("--seconds", type=float, required=True, help="how much to add, at most 600")
    parser.add_argument("-o", "--output", required=True, help="audio file (.wav, .flac …), or - (standard output)")
    parser.add_argument("--text", help="what shall be said")
    parser.add_argument("--prompt-text", help="what the recording says")
    parser.add_argument("--only-new", action="store_true", help="write the continuation without the recording")
    parser.add_argument("--plot", help="draw waveform, spectrogram and new codes: .png, .svg or .pdf")
    parser.add_argument("--retries", type=int, help="tries more where the sound gets stuck (default: the voice's)")
    add_voice_options(parser)
    options = parser.parse_args(argv)
    check_output(options.output)
    if options.plot:
        check_output(options.plot, picture=True)
    if options.prompt != "-" and not Path(options.prompt).exists():
        raise SoundloomError(f"{options.prompt}: no such file; give a recording to continue")
    voice = open_voice(options)
    began = time.perf_counter()
    speech = voice.continue_audio(
        options.prompt,
        options.seconds,
        text=options.text,
        prompt_text=options.prompt_text,
        only_new=options.only_new,
        retries=options.retries,
        **voice_settings(options),
    )
    seconds = time.perf_counter() - began
    speech.save(options.output)
    if options.plot:
        plot(options.plot, speech, voice.codec, speech.text)
    new = speech.sentences[0].num_samples / speech.sample_rate
    where = "" if options.output == "-" else f"{options.output}: "
    print(f"{where}{describe(speech, seconds, new)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
