"""Average the weights of language models with a common start: often better than each of them.

    python pipelines/average_lm.py runs/speakers-2/best runs/speakers-3/best -o runs/speakers-mean
    python pipelines/average_lm.py runs/a/best runs/b/best runs/c/best -o runs/mean --shares 2,1,1

Use it if one model continued the training of the other, or all continued that of a third ("model soups", Wortsman et
al. 2022). The mean of unrelated models is nonsense. Compare the result's validation loss or report with theirs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from codec.errors import SoundloomError
from pipelines.command_line.folder_options import add_dtype_option
from pipelines.command_line.run import run


def average(folders: list[str], output: Path, shares: list[float], dtype: str) -> None:
    """Write the mean of the models in ``folders``, weighted by ``shares``. Raises: SoundloomError where they differ."""
    from lm.checkpoint import find_folder, kind_of, load_lm, save_lm
    from lm.text.tokenizer import MODEL_FILE

    models = [load_lm(folder) for folder in folders]
    texts = {folder: (find_folder(folder) / MODEL_FILE).read_bytes() for folder in folders}
    first = models[0]
    for folder, other in zip(folders[1:], models[1:], strict=True):
        pair = f"{folders[0]} and {folder}"
        if kind_of(other.model) != kind_of(first.model):
            raise SoundloomError(f"{pair}: a {kind_of(first.model)} and a {kind_of(other.model)} model have no mean")
        first.codec_facts.require(other.codec_facts, folders[0])
        shapes = [{name: value.shape for name, value in one.model.state_dict().items()} for one in (first, other)]
        if shapes[0] != shapes[1]:
            raise SoundloomError(f"{pair}: have other shapes, so they have no common start")
        if texts[folder] != texts[folders[0]]:
            raise SoundloomError(f"{pair}: were trained with different text tokenizers")
    states = [one.model.state_dict() for one in models]
    total = sum(shares)
    mean = {
        name: sum(share / total * state[name].double() for share, state in zip(shares, states, strict=True)).to(value)
        for name, value in states[0].items()
    }
    first.model.load_state_dict(mean)
    save_lm(output, first.model, first.tokenizer, first.codec_facts, dtype)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="average_lm.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="folders of language models, two or more")
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder to write")
    parser.add_argument("--shares", help="weights with commas between them, one a model (default: equal)")
    add_dtype_option(parser)
    options = parser.parse_args(argv)
    if len(options.models) < 2:
        raise SoundloomError("give two models or more")
    if options.output.exists():
        raise SoundloomError(f"{options.output}: exists already; choose another folder")
    try:
        shares = [float(part) for part in options.shares.split(",")] if options.shares else [1.0] * len(options.models)
    except ValueError:
        shares = []
    if len(shares) != len(options.models) or min(shares) < 0 or not 0 < sum(shares) < float("inf"):
        raise SoundloomError(f"--shares {options.shares}: expected {len(options.models)} numbers, none below 0")
    average(options.models, options.output, shares, options.dtype)
    print(options.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
