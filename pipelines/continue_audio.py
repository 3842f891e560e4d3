"""Continue a recording: the voice resumes where it ends.

    python pipelines/continue_audio.py prompt.wav --seconds 5 -o out.wav
    python pipelines/continue_audio.py prompt.wav --seconds 8 -o out.wav --prompt-text "what is said there" \\
        --text "and what should follow"
    python pipelines/continue_audio.py prompt.mp3 --seconds 5 --only-new -o new.wav
    ffmpeg -i talk.mp4 -f wav - | python pipelines/continue_audio.py - --seconds 5 -o - | aplay

The recording is converted to one channel at the voice's sample rate. The output is the recording with its continuation
or, with --only-new, the continuation. Without --text exactly --seconds are added, at temperature 1 by default; with it
the continuation may end sooner, when the text is spoken. --prompt-text should then be the recording's words. Exit code:
0; 2 for bad input.
"""

from __future__ import annotations

import sys
import time

from pipelines.command_line.run import check_numbers, make_parser, run
from pipelines.command_line.voice_options import (
    MOST_RETRIES,
    SAMPLING_RANGES,
    add_voice_options,
    check_output,
    check_prompt,
    describe,
    open_voice,
    plot,
    voice_settings,
)


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("continue_audio.py", __doc__)
    add = parser.add_argument
    add("prompt", help="audio file, or - (standard input)")
    add("--seconds", type=float, required=True, help="how much to add, at most 600")
    add("-o", "--output", required=True, help="audio file (.wav, .flac …), or - (standard output)")
    add("--text", help="the words that should follow")
    add("--prompt-text", help="the words of the recording")
    add("--only-new", action="store_true", help="write the continuation without the recording")
    add("--plot", help="draw waveform, spectrogram and new codes: .png, .svg or .pdf")
    add("--retries", type=int, help="extra attempts if the sound gets stuck (default: 2 for heart)")
    add_voice_options(parser)
    options = parser.parse_args(argv)
    check_numbers(options, seconds=(0.02, 600), retries=(0, MOST_RETRIES), **SAMPLING_RANGES)
    check_output(options.output)
    if options.plot:
        check_output(options.plot, picture=True)
    check_prompt(options.prompt)
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
    where = "" if options.output == "-" else f"wrote {options.output}: "
    print(f"{where}{describe('new audio', seconds, new, speech)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
