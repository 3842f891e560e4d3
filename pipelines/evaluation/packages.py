"""Find the packages that hold the judges' weights, and name them exactly in a table."""

from __future__ import annotations

import functools
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from codec.common.extras import install_hint
from codec.common.files import sha256_file
from codec.errors import SoundloomError

EVAL_EXTRA = install_hint("eval")


def installed(module: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def package_folder(module: str, package: str, remedy: str = EVAL_EXTRA) -> Path:
    """Return the folder of a package without importing it. Raises: SoundloomError with the remedy."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise SoundloomError(f"{package} is not installed: {remedy}")
    return Path(next(iter(found.submodule_search_locations)))


def package_versions(*names: str) -> str:
    """Return ``name version`` of the packages that are installed, for tables that name their judges."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


@functools.cache
def weights_mark(path: Path) -> str:
    """Return the first 12 hex digits of the SHA-256 of a file."""
    return sha256_file(path)[:12]
