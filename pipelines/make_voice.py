"""Put a voice together: a codec, a language model (or a coarse and a fine one) and a card, as one folder.

    python pipelines/make_voice.py voices/mine --lm runs/lm_delay/best --codec runs/codec/best --name mine
    python pipelines/make_voice.py voices/mine --coarse runs/coarse/model --fine runs/fine/model --name mine \\
        --licence Apache-2.0 --data "10 hours of …" --cost "6 hours on 2 cores" --figures report/report.md
    python pipelines/tts.py --voice voices/mine "hello world"

--codec is a folder, a hub name, or the name of a codec that is shipped (default: speech-24khz). A folder is copied into
the voice; shipped ones and those of the hub are only named, with their fingerprint. A codec that makes other codes than
the language model writes is refused.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from codec.errors import SoundloomError
from pipelines.command_line.run import run
from pipelines.command_line.voice_options import SETTINGS, add_sampling_options


def codec_reference(name: str) -> tuple[str, str]:
    """What voice.json calls the codec, and what `load_codec` opens: a shipped one by its name, a folder as "codec"."""
    from codec.pretrained import SHIPPED

    if re.fullmatch(r"[\w-]+", name) and (SHIPPED.parent / name).is_dir() and not Path(name).is_dir():
        return name, str(SHIPPED.parent / name)
    path = Path(name).expanduser()
    if path.is_dir() and path.resolve().parent == SHIPPED.parent.resolve():
        return path.resolve().name, str(path)
    return ("codec", name) if path.is_dir() else (name, name)


def make_card(
    facts: dict[str, str], config: Any, codec: Any, lm: Any, decoder: Any, speakers: Iterable[str], figures: str
) -> str:
    """README.md of a voice, with the header that the Hugging Face hub reads. Facts that nobody gave say so."""
    from lm.checkpoint import kind_of

    size = sum(parameter.numel() for parameter in lm.model.parameters()) / 1e6
    own = sum(value.numel() for value in (decoder or {}).values())
    licence = facts["licence"] or "unknown"
    codec_name = "its own" if config.codec == "codec" else config.codec
    front = ["---", f"language: {config.language}", f"license: {licence.lower()}", "library_name: soundloom"]
    front += ["pipeline_tag: text-to-speech", "---"]
    rows = {
        "language": config.language,
        "licence": licence,
        "language model": f"{kind_of(lm.model)}, {size:.1f} M parameters, writes {lm.codec_facts.num_levels} levels",
        "codec": f"{codec_name}, {codec.sample_rate} Hz, {codec.frame_rate:g} frames a second, "
        f"{codec.num_levels} levels of {codec.codebook_size} codes, fingerprint {codec.fingerprint[:16]}",
        "decoder": f"{own / 1e6:.1f} M of its parameters are the voice's own" if decoder else "",
        "more speakers": ", ".join(speakers),
        "learned from": facts["data"] or "not told",
        "cost": facts["cost"] or "not told",
        "note": facts["note"],
    }
    body = [f"# {config.name}", "", "A voice of soundloom: text in, speech out.", ""]
    body += [f"- **{name}:** {value}" for name, value in rows.items() if value]
    body += ["", "```", 'python pipelines/tts.py --voice THIS_FOLDER "hello world"', "```", "", "## Figures", ""]
    return "\n".join([*front, "", *body, figures.strip() or "Not measured.", ""])


def make_voice(options: argparse.Namespace) -> Path:
    """Open the parts, check that they fit, write the folder."""
    from codec.pretrained import load_codec
    from lm.config import from_dict
    from lm.generation.request import GenerateConfig
    from pipelines.voice.folder import VoiceConfig, find_speakers, open_lm, open_pair, read_decoder
    from pipelines.voice.voice import Voice

    reference, place = codec_reference(options.codec)
    codec = load_codec(place)
    if reference == "codec" and not hasattr(codec, "save_pretrained"):
        raise SoundloomError(f"{options.codec}: only codecs of soundloom can be copied; give this one by its hub name")
    lm = open_lm(options.lm, codec) if options.lm else open_pair(options.coarse, options.fine, codec)
    given = {name: getattr(options, name) for name in SETTINGS}
    generation = from_dict(GenerateConfig, {name: value for name, value in given.items() if value is not None})
    config = VoiceConfig(
        options.name or Path(options.output).name,
        int(codec.sample_rate),
        reference,
        codec.fingerprint,
        options.language,
        generation,
        options.retries,
        options.pause,
        options.max_sentence,
        options.carry,
        options.levels,
    )
    facts = {name: getattr(options, name) for name in ("licence", "data", "cost", "note")}
    decoder = read_decoder(Path(options.decoder)) if options.decoder else None
    speakers = find_speakers(Path(options.speakers)) if options.speakers else {}
    for speaker in speakers.values():
        _ = speaker.text  # an empty or unreadable one fails here
    if options.speakers and not speakers:
        raise SoundloomError(
            f"{options.speakers}: holds no speakers; wanted a folder with NAME.flac and NAME.txt of each"
        )
    card = make_card(facts, config, codec, lm, decoder, speakers, _text_file(options.figures))
    return Voice(config, codec, lm, card, decoder, speakers).save(options.output, options.dtype, options.replace)


def _text_file(path: str | None) -> str:
    if path is None:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SoundloomError(f"{path}: cannot be read as text ({error})") from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make_voice.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", help="folder to make")
    parser.add_argument("--codec", default="speech-24khz", help="a folder, a shipped codec's name, or a hub name")
    parser.add_argument("--lm", help="folder of a model that writes all levels (delay, or coarse+fine in one)")
    parser.add_argument("--coarse", help="folder of a coarse model, with --fine")
    parser.add_argument("--fine", help="folder of a fine model, with --coarse")
    parser.add_argument(
        "--decoder", help="decoder.safetensors of pipelines/tune_decoder.py, for latents (--drawn-levels)"
    )
    parser.add_argument(
        "--speakers", help="folder of more speakers: recordings, NAME.flac, and what they say, NAME.txt"
    )
    parser.add_argument("--name", help="the voice's name (default: the folder's)")
    parser.add_argument("--language", default="en")
    parser.add_argument("--dtype", default="float32", help="of the weights on disk: float32, bfloat16 or float16")
    parser.add_argument("--replace", action="store_true", help="replace a voice that is there")
    add_sampling_options(parser)
    parser.add_argument("--levels", type=int, help="decode the first n levels unless asked for others (default: all)")
    parser.add_argument("--retries", type=int, default=2, help="tries more for a sentence that ends badly (default: 2)")
    parser.add_argument("--pause", type=float, default=0.15, help="seconds between sentences (default: 0.15)")
    parser.add_argument("--max-sentence", type=float, default=12.0, help="seconds; longer ones are cut (default: 12)")
    parser.add_argument("--carry", action="store_true", help="the first sentence is the prompt of the following")
    parser.add_argument("--licence", default="", help="for the card")
    parser.add_argument("--data", default="", help="for the card: what the voice learned from")
    parser.add_argument("--cost", default="", help="for the card: hardware and hours")
    parser.add_argument("--note", default="", help="for the card")
    parser.add_argument("--figures", help="text file for the card: what was measured, as Markdown")
    options = parser.parse_args(argv)
    if bool(options.lm) == bool(options.coarse or options.fine) or bool(options.coarse) != bool(options.fine):
        raise SoundloomError("give --lm, or both --coarse and --fine")
    folder = make_voice(options)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
