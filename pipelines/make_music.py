"""Put a music model together: a codec, a language model that writes music and a card, as one folder.

    python pipelines/make_music.py models/mine --lm runs/lm_music_small/best --codec music-24khz
    python pipelines/make_music.py models/mine --lm runs/lm_music_small/best --codec runs/codec_music/best --levels 4 \\
        --guidance 2.5 --temperature 1 --top-k 250 --dtype float16 --licence Apache-2.0 --data "60 hours of …"
    python pipelines/make_music.py models/mine --lm runs/lm_music_small/best --decoder runs/tuned/decoder.safetensors
    python pipelines/music.py --model models/mine "slow solo piano in A minor"

--codec is a folder, a hub name, or the name of a shipped codec (default: music-24khz). A folder is copied into the
model's; shipped codecs and those of the hub are only named, with their fingerprint. A codec that does not fit the
language model is refused. music.json lists the SHA-256 of every file that the model needs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from codec.errors import SoundloomError
from pipelines.command_line.folder_options import add_card_options, add_dtype_option, print_size
from pipelines.command_line.run import check_numbers, make_parser, run
from pipelines.command_line.voice_options import MOST_RETRIES, SAMPLING_RANGES

if TYPE_CHECKING:
    from pipelines.music_model.folder import MusicParts

SAMPLING = {
    "temperature": (float, 1.0, "0: always the likeliest code"),
    "fine_temperature": (float, None, "the same for levels above the first; without it as --temperature"),
    "top_k": (int, 250, "sample from the k likeliest codes"),
    "top_p": (float, 1.0, "sample from the likeliest codes that together have this probability"),
    "guidance": (float, 2.5, "how strongly the caption is followed; 1: no guidance and half the work"),
}


def make_music(options: argparse.Namespace) -> Path:
    """Open the parts, check that they fit, write the folder."""
    from codec.folder import read_layers
    from codec.pretrained import load_codec
    from lm.generation.sampling import SamplingConfig
    from pipelines.music_model.config import MusicConfig
    from pipelines.music_model.folder import MusicParts, write_music
    from pipelines.music_model.model import MusicModel
    from pipelines.voice.codec_part import codec_reference, require_copyable
    from pipelines.voice.folder import open_lm

    reference, place = codec_reference(options.codec)
    codec = load_codec(place)
    require_copyable(codec, reference, options.codec)
    lm = open_lm(options.lm, codec)
    config = MusicConfig(
        name=options.name or Path(options.output).name,
        sample_rate=int(codec.sample_rate),
        codec=reference,
        codec_fingerprint=codec.fingerprint,
        levels=lm.codec_facts.num_levels if options.levels is None else options.levels,
        sampled_levels=options.sampled_levels,
        sampling=SamplingConfig(**{name: getattr(options, name) for name in SAMPLING}),
        retries=options.retries,
        window_seconds=options.window,
        stride_seconds=options.stride,
    )
    decoder = read_layers(Path(options.decoder)) if options.decoder else None
    parts = MusicParts(config, codec, lm, decoder)
    MusicModel(parts)  # which checks that they fit
    parts = MusicParts(config, codec, lm, decoder, make_card(parts, options))
    return write_music(options.output, parts, options.dtype, options.replace)


def make_card(parts: MusicParts, options: argparse.Namespace) -> str:
    """Return README.md of a music model, with the header that the Hugging Face hub reads. Missing facts are named."""
    from codec.common.files import CARD_BYTES, read_text

    config, codec, lm = parts.config, parts.codec, parts.lm
    licence = options.licence or "unknown"
    size = sum(value.numel() for value in lm.model.state_dict().values()) / 1e6
    own = sum(value.numel() for value in (parts.decoder or {}).values())
    named = "its own" if config.codec == "codec" else config.codec
    rows = {
        "licence": licence,
        "language model": f"{size:.1f} M parameters, writes {lm.codec_facts.num_levels} levels",
        "codec": f"{named}, {codec.sample_rate} Hz, {codec.frame_rate:g} frames a second, {codec.num_levels} levels of "
        f"{codec.codebook_size} codes, fingerprint {codec.fingerprint[:16]}",
        "decoder": f"{own / 1e6:.1f} M of its parameters are the model's own" if own else "",
        "learned from": options.data or "not stated (make_music.py --data)",
        "cost": options.cost or "not stated (make_music.py --cost)",
        "note": options.note,
    }
    front = ["---", f"license: {licence.lower()}", "library_name: soundloom", "pipeline_tag: text-to-audio", "---", ""]
    body = [f"# {config.name}", "", "A music model of soundloom: a caption in, music out.", ""]
    body += [f"- **{name}:** {value}" for name, value in rows.items() if value]
    body += ["", "```", 'python pipelines/music.py --model THIS_FOLDER "slow solo piano in A minor"', "```", ""]
    figures = read_text(options.figures, CARD_BYTES).strip() if options.figures else ""
    return "\n".join([*front, *body, "## Figures", "", figures or "Not measured.", ""])


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("make_music.py", __doc__)
    add = parser.add_argument
    add("output", help="folder to make")
    add("--lm", required=True, help="folder of a language model that train_lm.py made, such as runs/x/best")
    add("--codec", default="music-24khz", help="folder, shipped codec's name, or hub name (default: %(default)s)")
    add("--decoder", help="decoder.safetensors: layers of the codec's decoder that are tuned for the model")
    add("--name", help="the model's name (default: the folder's)")
    add("--levels", type=int, help="decode the first n levels (default: all that the model writes)")
    add("--sampled-levels", type=int, help="of these, the first n as sampled codes, finer ones from expected latents")
    for name, (kind, default, text) in SAMPLING.items():
        shown = "" if default is None else " (default: %(default)s)"
        add(f"--{name.replace('_', '-')}", type=kind, default=default, help=text + shown)
    add("--retries", type=int, default=2, help="extra tries for a window that is silent or loops (default: 2)")
    add("--window", type=float, default=10.0, help="seconds that the model writes at once (default: 10)")
    add("--stride", type=float, default=5.0, help="seconds that each further window adds (default: 5)")
    add_dtype_option(parser)
    add("--replace", action="store_true", help="replace a music model that is there")
    add_card_options(parser, "model")
    return parser


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    check_numbers(options, retries=(0, MOST_RETRIES), window=(1, 120), stride=(0.5, 120), **SAMPLING_RANGES)
    if options.stride > options.window:
        raise SoundloomError(f"--stride {options.stride:g}: expected at most --window, {options.window:g}")
    folder = make_music(options)
    print_size(folder)
    print(f'next: python pipelines/music.py --model {folder} "slow solo piano in A minor" -o piano.wav')
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
