"""A checkpoint in the format of the Hugging Face hub: config.json next to safetensors, in one file or in shards.

Nothing is allocated for what a header only claims: a tensor is read when it is asked for, after its shape is checked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from codec.common.checked import read_json
from codec.common.files import check_file
from codec.errors import SoundloomError, quoted

CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE = "config.json", "model.safetensors", "model.safetensors.index.json"
#: a model's own tensors: those of the files, each with its shape; several are stacked along the first axis
Table = dict[str, list[tuple[str, list[int]]]]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(
    name: str | os.PathLike[str],
    what: str,
    patterns: Sequence[str],
    example: str,
    shipped: Mapping[str, Path] | None = None,
) -> Path:
    """Return the local folder that a name stands for.

    That is a folder of this name, one of the ``shipped`` by its name, or a hub repository's copy, which is downloaded
    (only files of ``patterns``).

    Raises:
        SoundloomError: it says what was looked for, and how to get it where the hub did not answer.
    """
    name, shipped = os.fspath(name), shipped or {}
    wanted = f"no {what} {quoted(name)}"
    if not name:
        raise SoundloomError(f"{wanted}: the name is empty; give a folder or a hub name such as {example}")
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        exists = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long; the home of an unknown user; a NUL
        reason = getattr(error, "strerror", None) or error
        raise SoundloomError(f"{wanted}: not a name of a folder ({reason})") from None
    if exists:
        raise SoundloomError(f"{name} is a file; give the folder that holds it")
    if name in shipped and shipped[name].is_dir():
        return shipped[name]
    if not _HUB_NAME.fullmatch(name):
        known = f"shipped: {', '.join(sorted(shipped))}; " if shipped else ""
        raise SoundloomError(
            f"{wanted}: there is no such folder; {known}a name on the hub has the form owner/name, such as {example}"
        )
    return _download(name, wanted, patterns)


def _download(name: str, wanted: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's client fails in a dozen ways
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SoundloomError(
            f"{wanted}: there is no such folder here (`hf download {name} --local-dir FOLDER` fetches it "
            f"where the hub can be reached; then give FOLDER), and the Hugging Face hub did not give it: {said}"
        ) from None


class Weights:
    """The tensors of a checkpoint folder by name, from ``model.safetensors`` or the shards that its index names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        whole, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
        if whole.is_file():
            self._places = dict.fromkeys(self._open(whole).keys(), whole)
        elif index.is_file():
            self._places = self._read_index(index)
        else:
            raise SoundloomError(f"{folder} holds no {WEIGHTS_FILE}; weights in other formats are not read")

    def _open(self, path: Path) -> Any:
        if path.name not in self._files:
            check_file(path)
            try:
                self._files[path.name] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise SoundloomError(f"{path}: not readable as safetensors ({error})") from None
        return self._files[path.name]

    def _read_index(self, path: Path) -> dict[str, Path]:
        places = read_json(path).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise SoundloomError(f'{path}: "weight_map" should be an object of tensor and file names')
        for name, file in places.items():
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                raise SoundloomError(f"{path}: {quoted(name)} is in {quoted(file)}; expected a file of this folder")
            if name not in self._open(path.parent / file).keys():  # noqa: SIM118 - not a dict
                raise SoundloomError(f"{path.parent / file}: lacks tensor {quoted(name)}, which {path.name} promises")
        return {name: path.parent / file for name, file in places.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Return the names of all tensors that begin with ``prefix``, in order."""
        return (name for name in sorted(self._places) if name.startswith(prefix))

    def shape(self, name: str) -> list[int]:
        """Return a tensor's shape without reading it.

        Raises:
            SoundloomError: there is no tensor of this name.
        """
        if name not in self._places:
            raise SoundloomError(f"{self.place(name)}: lacks tensor {name!r}")
        return list(self._open(self._places[name]).get_slice(name).get_shape())

    def place(self, name: str) -> Path:
        """Return the file of a tensor; for an unknown name, where it should be."""
        path = self._places.get(name)
        if path is None:
            whole = self.folder / WEIGHTS_FILE
            path = whole if whole.is_file() else self.folder / INDEX_FILE
        return path

    def tensor(self, name: str, shape: Sequence[int] | None = None, copy: bool = True) -> Tensor:
        """Return a tensor in float32 (integers keep their type), of this shape where one is given.

        Its memory is its own; ``copy=False`` may leave it in the file, mapped.

        Raises:
            SoundloomError: it names the file and the tensor.
        """
        self._require(name, self.shape(name) if shape is None else shape)
        try:
            value = self._open(self._places[name]).get_tensor(name)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise SoundloomError(f"{self.place(name)}: {name} cannot be read ({error})") from None
        if not value.is_floating_point():
            return value.clone() if copy else value
        value = value.to(torch.float32, copy=copy)
        if not bool(torch.isfinite(value).all()):
            raise SoundloomError(f"{self.place(name)}: {name} holds values that are not finite")
        return value

    def read(self, table: Table, ignored: Sequence[str] = (), elsewhere: tuple[str, ...] = ()) -> dict[str, Tensor]:
        """Return a model's tensors in float32, by its own names; all shapes are checked before any tensor is read.

        A tensor of the files that the table lacks is an error too, unless it is ``ignored`` or begins with one of
        ``elsewhere``.

        Raises:
            SoundloomError: it names the file and the tensor.
        """
        sources = dict(source for parts in table.values() for source in parts)
        for name, shape in sources.items():
            self._require(name, shape)
        for stray in sorted(set(self._places) - set(sources) - set(ignored)):
            if not stray.startswith(elsewhere):
                raise SoundloomError(f"{self.place(stray)}: tensor {quoted(stray)} is unknown")
        tensors = {}
        for ours, parts in table.items():
            found = [self.tensor(name, shape, copy=len(parts) == 1) for name, shape in parts]
            tensors[ours] = found[0] if len(parts) == 1 else torch.cat(found)
        return tensors

    def _require(self, name: str, shape: Sequence[int]) -> None:
        found = self.shape(name)
        if found != list(shape):
            raise SoundloomError(f"{self.place(name)}: {name} has shape {found}, {CONFIG_FILE} says {list(shape)}")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return all tensors whose names begin with ``prefix``, without it."""
        return {name.removeprefix(prefix): self.tensor(name) for name in self.names(prefix)}


def unstack(tensors: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Undo `Weights.read`: return a model's tensors by the names of the files, float32 on the CPU."""
    files: dict[str, Tensor] = {}
    for ours, parts in table.items():
        pieces = tensors[ours].detach().to("cpu", torch.float32).split([shape[0] for _, shape in parts])
        files |= {name: piece.clone() for (name, _), piece in zip(parts, pieces, strict=True)}
    return files
