"""The codes of a piece as a file, so that the work of writing them is not lost when decoding fails."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from codec.common.files import atomic_path, check_file
from codec.errors import SoundloomError

SUFFIX = ".codes.safetensors"
_KEY = "soundloom"


def save_codes(path: str | Path, codes: Tensor, fingerprint: str, text: str) -> None:
    """Write codes long [K, T] with the fingerprint of their codec and their text. Raises: SoundloomError."""
    facts = json.dumps({"codec_fingerprint": fingerprint, "text": text})
    with atomic_path(path) as temporary:
        save_file({"codes": codes.cpu().contiguous()}, temporary, {_KEY: facts})


def load_codes(path: str | Path, fingerprint: str) -> Tensor:
    """Read codes long [K, T]. Raises: SoundloomError where they are not such, or belong to another codec."""
    check_file(path)
    try:
        with safe_open(path, framework="pt") as opened:
            facts = json.loads((opened.metadata() or {}).get(_KEY, "{}"))
            codes = opened.get_tensor("codes")
    except (OSError, SafetensorError, ValueError) as error:
        raise SoundloomError(f"{path}: does not hold codes that music.py --keep-codes wrote ({error})") from None
    if not isinstance(facts, dict) or facts.get("codec_fingerprint") != fingerprint:
        raise SoundloomError(f"{path}: belongs to another model; decode it with the one that wrote it")
    if codes.dim() != 2 or codes.is_floating_point():
        raise SoundloomError(f"{path}: codes have shape {list(codes.shape)}; expected whole numbers [levels, frames]")
    return codes.long()
