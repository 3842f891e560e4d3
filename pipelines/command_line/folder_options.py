"""Options and output that the programs share which put a model's folder together: its weights, its card, its size."""

from __future__ import annotations

import argparse
from pathlib import Path

CARD_FACTS = ("licence", "data", "cost", "note")


def add_dtype_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--dtype``."""
    parser.add_argument(
        "--dtype",
        default="float32",
        help="weights on disk: float32, bfloat16, float16 or int8 (default: %(default)s)",
    )


def add_card_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the facts of the card; ``what`` the folder holds, such as "voice"."""
    add = parser.add_argument
    add("--licence", default="", help="for the card: the licence of the weights")
    add("--data", default="", help=f"for the card: what the {what} learned from")
    add("--cost", default="", help="for the card: hardware and hours")
    add("--note", default="", help="for the card: anything else")
    add("--figures", help="for the card: Markdown file of what was measured")


def print_size(folder: Path) -> None:
    """Print that the folder was written, and its size."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"wrote {folder}: {size / 1e6:.1f} MB")
