"""torchaudio where its compiled extension does not load: a stand-in for that one module."""

from __future__ import annotations

import functools
import importlib
import sys
import traceback
import types
import warnings

import torch


@functools.cache
def import_torchaudio() -> types.ModuleType:
    """Import torchaudio, with or without its compiled extension.

    torchaudio from PyPI is linked against CUDA's libraries. Next to a CPU-only torch its import ends in an OSError,
    although everything that is used here is written in Python. torchaudio supports being built without its extension;
    after that one error it is imported as if it were. Every other error is the caller's to see.
    """
    try:
        return importlib.import_module("torchaudio")
    except OSError as error:
        if not any(
            str(frame.f_globals.get("__name__")).startswith("torchaudio._extension")
            for frame, _ in traceback.walk_tb(error.__traceback__)
        ):
            raise
        if torch.version.cuda is not None:  # not the known case: warn, though nothing here needs the extension
            warnings.warn(f"torchaudio's extension does not load ({error}); its Python parts are used", stacklevel=2)
    sys.modules["torchaudio._extension"] = _absent_extension()
    try:
        return importlib.import_module("torchaudio")
    except BaseException:
        del sys.modules["torchaudio._extension"]
        raise


def _absent_extension() -> types.ModuleType:
    """Return a stand-in for ``torchaudio._extension`` as it is where torchaudio was built without it."""

    def fail(function: object) -> object:
        def absent(*args: object, **kwargs: object) -> None:
            raise RuntimeError(f"{function!r} needs torchaudio's compiled extension, which does not load here")

        return absent

    stand_in = types.ModuleType("torchaudio._extension")
    stand_in.__path__ = []
    stand_in._IS_TORCHAUDIO_EXT_AVAILABLE = False  # type: ignore[attr-defined]
    stand_in._IS_ALIGN_AVAILABLE = False  # type: ignore[attr-defined]
    stand_in.fail_if_no_align = fail  # type: ignore[attr-defined]
    return stand_in
