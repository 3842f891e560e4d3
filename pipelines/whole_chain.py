"""The whole chain from an empty folder, small: make a corpus, train a codec, tokenize, train the models, speak.

    python pipelines/whole_chain.py runs/chain
    python pipelines/whole_chain.py runs/chain --teacher flite --steps 1000
    python pipelines/whole_chain.py runs/chain --dry-run            only print the commands

Prints every command before it runs it; each can be run by hand, and a second start resumes where the first one stopped.
With the tiny configurations this takes minutes on two cores and ends in babble: it shows how the parts fit together.
The same commands with the large configurations made the voice in the package.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

from codec.errors import SoundloomError
from pipelines.command_line.run import A_LOT, check_numbers, run

PROGRAMS = Path(__file__).parent
CONFIGS = PROGRAMS.parent / "configs"

SENTENCES = """
The sun rose slowly over the quiet harbour. Two boats left before anyone was awake. She opened the window and
listened. A dog was barking somewhere down the road. The baker had already lit his oven. Nobody knew where the
music came from. He counted the steps to the top of the tower. It rained all night and most of the morning.
Please leave the key under the mat. The train to the coast was late again. They shared the last piece of bread.
My brother paints houses in the summer. An old clock ticked in the corner of the room. We walked home along the
river. Every lamp in the street was out. The teacher wrote a single word on the board. There was no answer to
her question. Snow fell softly on the empty fields. Three children ran across the bridge. The letter arrived on
a Tuesday. I have never seen a sky like that. The library closes at eight in the evening. Someone had moved the
chairs. He put the map back into his pocket.
""".replace("\n", " ")


def commands(folder: Path, teacher: str, steps: int | None) -> list[tuple[str, list[str]]]:
    """Each step of the chain: what it does, and the words of its command."""
    corpus, runs, stores = folder / "corpus", folder / "runs", folder / "stores"

    def train_lm(kind: str) -> list[str]:
        words = ["train_lm.py", "--config", str(CONFIGS / "tiny" / f"lm_{kind}.yaml"), "--store", str(stores / "all")]
        words += ["--output", str(runs / kind)] + (["--steps", str(steps)] if steps else [])
        # the fine model reads the same text as the coarse one
        return words + (["--text.tokenizer", str(runs / "coarse" / "text")] if kind == "fine" else [])

    train_codec = ["train_codec.py", "--config", str(CONFIGS / "tiny/codec.yaml"), "--output", str(runs / "codec")]
    train_codec += ["--corpus", str(corpus)]
    train_codec += ["--steps", str(steps)] if steps else []
    texts, codec = str(folder / "texts.txt"), str(runs / "codec" / "best")
    voice = ["make_voice.py", "--codec", codec, "--name", "tiny", "--licence", "Apache-2.0"]
    pair = ["--coarse", str(runs / "coarse" / "best"), "--fine", str(runs / "fine" / "best")]
    say = ["tts.py", "hello world", "--voice"]
    return [
        ("make a corpus", ["make_corpus.py", str(corpus), "--texts", texts, "--teacher", teacher]),
        ("train the codec", train_codec),
        ("tokenize the corpus", ["tokenize_corpus.py", str(corpus), str(stores / "all"), "--codec", codec]),
        ("train the delay model", train_lm("delay")),
        ("train the coarse model", train_lm("coarse")),
        ("train the fine model", train_lm("fine")),
        ("make a voice of the delay model", [*voice, str(folder / "delay"), "--lm", str(runs / "delay" / "best")]),
        ("make a voice of the coarse and fine models", [*voice, str(folder / "pair"), *pair]),
        ("speak with the first", [*say, str(folder / "delay"), "-o", str(folder / "delay.wav")]),
        ("speak with the second", [*say, str(folder / "pair"), "-o", str(folder / "pair.wav")]),
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty folder, or one that an earlier start left")
    parser.add_argument(
        "--teacher", default="hibari", help="teacher of the corpus (default %(default)s; extra 'corpus')"
    )
    parser.add_argument("--steps", type=int, help="training steps of each model, instead of the tiny configurations'")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    args = parser.parse_args(argv)
    check_numbers(args, steps=(1, A_LOT))
    steps = commands(args.folder, args.teacher, args.steps)
    if not args.dry_run:
        try:
            args.folder.mkdir(parents=True, exist_ok=True)
            (args.folder / "texts.txt").write_text(SENTENCES.strip(), encoding="utf-8")
        except OSError as error:
            raise SoundloomError(f"{args.folder}: cannot write there ({error.strerror})") from None
    for what, (program, *words) in steps:
        command = [str(PROGRAMS / program), *words]
        print(f"# {what}\npython {shlex.join(command)}", flush=True)
        if args.dry_run:
            continue
        start = time.monotonic()
        code = subprocess.run([sys.executable, *command], check=False).returncode
        if code:
            raise SoundloomError(f"the chain stopped at '{what}' (exit code {code}); its own message stands above")
        print(f"# {what}: {time.monotonic() - start:.0f} s\n", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
