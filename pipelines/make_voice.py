"""Put a voice together: a codec, a language model (or a coarse and a fine one) and a card, as one folder.

    python pipelines/make_voice.py voices/mine --lm runs/lm_delay/best --codec runs/codec/best --name mine
    python pipelines/make_voice.py voices/mine --coarse runs/coarse/model --fine runs/fine/model --name mine \\
        --licence Apache-2.0 --data "10 hours of …" --cost "6 hours on 2 cores" --figures report/report.md
    python pipelines/make_voice.py voices/mine --lm runs/lm_delay/best --speakers more/ --about "bella: woman, Irish"
    python pipelines/make_voice.py voices/mine --seal
    python pipelines/tts.py --voice voices/mine "hello world"

--codec is a folder, a hub name, or the name of a shipped codec (default: speech-24khz). A folder is copied into the
voice; shipped codecs and those of the hub are only named, with their fingerprint. A codec that does not fit the
language model is refused. voice.json lists the SHA-256 of every file that the voice needs; after you have changed files
of a voice by hand, --seal writes the list again.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from codec.errors import SoundloomError, quoted
from pipelines.command_line.folder_options import CARD_FACTS, add_card_options, add_dtype_option, print_size
from pipelines.command_line.run import check_numbers, make_parser, run
from pipelines.command_line.voice_options import MOST_RETRIES, SAMPLING_RANGES, SETTINGS, add_sampling_options

if TYPE_CHECKING:
    from codec.pretrained import AudioCodec
    from lm.checkpoint import LoadedLM
    from pipelines.voice.config import SpeakerFacts, VoiceConfig
    from pipelines.voice.contents import SpeakerPrompt
    from pipelines.voice.folder import VoiceParts


def make_card(parts: VoiceParts, facts: dict[str, str], figures: str) -> str:
    """Return README.md of a voice, with the header that the Hugging Face hub reads. Missing facts are named so."""
    config, codec = parts.config, parts.codec
    licence = facts["licence"] or "unknown"
    front = ["---", f"language: {config.language}", f"license: {licence.lower()}", "library_name: soundloom"]
    front += ["pipeline_tag: text-to-speech", "---"]
    own = sum(value.numel() for value in (parts.decoder or {}).values())
    rows = {
        "language": config.language,
        "licence": licence,
        "language model": _describe_lm(parts.lm),
        "codec": _describe_codec(config, codec),
        "decoder": f"{own / 1e6:.1f} M of its parameters are the voice's own" if own else "",
        "more speakers": ", ".join(parts.speakers),
        "learned from": facts["data"] or "not stated (make_voice.py --data)",
        "cost": facts["cost"] or "not stated (make_voice.py --cost)",
        "note": facts["note"],
    }
    body = [f"# {config.name}", "", "A voice of soundloom: text in, speech out.", ""]
    body += [f"- **{name}:** {value}" for name, value in rows.items() if value]
    body += ["", "```", 'python pipelines/tts.py --voice THIS_FOLDER "hello world"', "```", "", "## Figures", ""]
    return "\n".join([*front, "", *body, figures.strip() or "Not measured.", ""])


def _describe_lm(lm: LoadedLM) -> str:
    from lm.checkpoint import kind_of

    size = sum(parameter.numel() for parameter in lm.model.parameters()) / 1e6
    return f"{kind_of(lm.model)}, {size:.1f} M parameters, writes {lm.codec_facts.num_levels} levels"


def _describe_codec(config: VoiceConfig, codec: AudioCodec) -> str:
    name = "its own" if config.codec == "codec" else config.codec
    return (
        f"{name}, {codec.sample_rate} Hz, {codec.frame_rate:g} frames a second, "
        f"{codec.num_levels} levels of {codec.codebook_size} codes, fingerprint {codec.fingerprint[:16]}"
    )


def make_voice(options: argparse.Namespace) -> Path:
    """Open the parts, check that they fit, write the folder."""
    import dataclasses

    from codec.folder import read_layers
    from codec.pretrained import load_codec
    from pipelines.voice.codec_part import codec_reference, require_copyable
    from pipelines.voice.folder import VoiceParts, open_lm, open_pair
    from pipelines.voice.voice import Voice

    reference, place = codec_reference(options.codec)
    codec = load_codec(place)
    require_copyable(codec, reference, options.codec)
    lm = open_lm(options.lm, codec) if options.lm else open_pair(options.coarse, options.fine, codec)
    decoder = read_layers(Path(options.decoder)) if options.decoder else None
    speakers = _speakers(options.speakers) if options.speakers else {}
    config = _config(options, codec, reference, speakers)
    parts = VoiceParts(config, codec, lm, "", decoder, speakers)
    facts = {name: getattr(options, name) for name in CARD_FACTS}
    card = make_card(parts, facts, _text_file(options.figures))
    voice = Voice(**vars(dataclasses.replace(parts, card=card)))  # which checks that the parts fit
    return prepare_speakers(voice.save(options.output, options.dtype, options.replace))


def prepare_speakers(folder: Path) -> Path:
    """Store what a voice finds out about its speakers, so that they start at once. Raises: SoundloomError."""
    from pipelines.voice.ready import write_ready
    from pipelines.voice.voice import load_voice

    voice = load_voice(folder)
    states = list(voice.plan.states())
    if states:
        write_ready(folder, voice.config, states)
    return folder


def _config(options: argparse.Namespace, codec: AudioCodec, reference: str, speakers: Iterable[str]) -> VoiceConfig:
    from lm.config import from_dict
    from lm.generation.request import GenerateConfig
    from pipelines.voice.config import VoiceConfig

    given = {name: getattr(options, name) for name in SETTINGS}
    name = options.name or Path(options.output).name
    return VoiceConfig(
        name=name,
        sample_rate=int(codec.sample_rate),
        codec=reference,
        codec_fingerprint=codec.fingerprint,
        language=options.language,
        generation=from_dict(GenerateConfig, {key: value for key, value in given.items() if value is not None}),
        retries=options.retries,
        pause_seconds=options.pause,
        max_sentence_seconds=options.max_sentence,
        carry=options.carry,
        levels=options.levels,
        speakers=_facts(options.about, [name, *speakers]),
    )


def _facts(about: list[str], known: list[str]) -> dict[str, SpeakerFacts]:
    """Return facts about speakers from "NAME: GENDER, ACCENT". Raises: SoundloomError for another form or name."""
    from pipelines.voice.config import SpeakerFacts

    facts = {}
    for text in about:
        found = re.fullmatch(r"\s*([^:]+?)\s*:\s*([^,]*?)\s*(?:,\s*(.*?)\s*)?", text)
        if found is None or found[1] not in known:
            names = ", ".join(known)
            raise SoundloomError(f'--about {quoted(text)}: expected "NAME: GENDER, ACCENT", with a name of {names}')
        facts[found[1]] = SpeakerFacts(found[2], found[3] or "")
    return facts


def _speakers(folder: str) -> dict[str, SpeakerPrompt]:
    from pipelines.voice.contents import find_speakers

    speakers = find_speakers(Path(folder))
    if not speakers:
        raise SoundloomError(f"{folder}: holds no speakers; expected NAME.flac and NAME.txt for each")
    for speaker in speakers.values():
        _ = speaker.text  # an empty or unreadable one fails here
    return speakers


def seal(folder: Path) -> Path:
    """List the SHA-256 of a voice's files again, as they now are. Raises: SoundloomError where it is no voice."""
    import dataclasses

    from codec.common.files import write_text
    from pipelines.voice.config import VOICE_FILE, read_config, write_record
    from pipelines.voice.contents import hash_files
    from pipelines.voice.folder import CARD_FILE

    config = read_config(folder / VOICE_FILE)
    files = hash_files(folder, (VOICE_FILE, CARD_FILE))
    write_text(folder / VOICE_FILE, write_record(dataclasses.replace(config, files=files)))
    return prepare_speakers(folder)


def _text_file(path: str | None) -> str:
    from codec.common.files import CARD_BYTES, read_text

    return "" if path is None else read_text(path, CARD_BYTES)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("make_voice.py", __doc__)
    add = parser.add_argument
    add("output", help="folder to make")
    add("--codec", default="speech-24khz", help="folder, shipped codec's name, or hub name (default: %(default)s)")
    add("--lm", help="folder of a model that writes all levels (delay, or coarse+fine in one)")
    add("--coarse", help="folder of a coarse model, with --fine")
    add("--fine", help="folder of a fine model, with --coarse")
    add("--decoder", help="decoder.safetensors of pipelines/tune_decoder.py, for --sampled-levels")
    add("--speakers", help="folder of more speakers: recordings, NAME.flac, and their words, NAME.txt")
    add("--about", action="append", default=[], help='facts for lists of speakers, such as "bella: woman, British"')
    add("--name", help="the voice's name (default: the folder's)")
    add("--language", default="en", help="the language that it speaks (default: en)")
    add_dtype_option(parser)
    add("--replace", action="store_true", help="replace a voice that is there")
    add("--seal", action="store_true", help="only list the files of an existing voice again")
    add_sampling_options(parser, "stored in the voice; the shipped one has")
    add("--levels", type=int, help="decode the first n levels unless asked for others (default: all)")
    add("--retries", type=int, default=2, help="extra attempts for a sentence that ends badly (default: 2)")
    add("--pause", type=float, default=0.15, help="seconds between sentences (default: 0.15)")
    add("--max-sentence", type=float, default=12.0, help="longer sentences are cut; seconds (default: 12)")
    add("--carry", action="store_true", help="the first sentence is the prompt of the following ones")
    add_card_options(parser, "voice")
    return parser


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    check_numbers(options, retries=(0, MOST_RETRIES), pause=(0, 10), max_sentence=(1, 120), **SAMPLING_RANGES)
    if options.seal:
        folder = seal(Path(options.output))
    else:
        if bool(options.lm) == bool(options.coarse or options.fine) or bool(options.coarse) != bool(options.fine):
            raise SoundloomError("give --lm, or both --coarse and --fine")
        folder = make_voice(options)
    print_size(folder)
    print(f'next: python pipelines/tts.py --voice {folder} "hello world" -o hello.wav')
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
