"""Checkpoints of a training: whole or absent, never half; nothing in them runs code.

    folder/step-00000100/state.safetensors   every tensor of the training, by name
                         facts.json          everything else (settings, best loss …)
                         record.json         size and sha256 of the two, written last

A checkpoint is written next to its place and renamed into it, so a killed run leaves either the whole of it or a
``.tmp-*`` folder, which the next save collects. Pruning comes after the commit: a full disk costs the new
checkpoint, never an old one.

    save_checkpoint(folder, step, module_tensors(model, "model") | optimizer_tensors(optimizer, model), facts)
    checkpoint = load_checkpoint(folder)        # the last whole one, or None
    load_module(model, checkpoint.tensors, "model"); load_optimizer(optimizer, model, checkpoint.tensors)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from codec.common.checked import read_json
from codec.common.files import check_file, sha256_file, write_folder
from codec.errors import SoundloomError
from pipelines.training.sharding import shard_like

F = TypeVar("F")

_NAME = re.compile(r"step-(\d{8,})")
_FILES = ("state.safetensors", "facts.json")
_FACTS_BYTES = 64 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder's content: the number of finished steps, tensors on the CPU, plain JSON facts."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    path: Path

    def fact(self, name: str, kind: type[F] | tuple[type[F], ...]) -> F:
        """Return a fact that must be there.

        Raises:
            SoundloomError: it is missing or of another type, as in checkpoints of other programs or edited ones.
        """
        value = self.facts.get(name)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise SoundloomError(f"{self.path}: has no usable '{name}' in its facts.json; it is not of this training")
        return value


def save_checkpoint(
    folder: str | Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keep: int = 2
) -> Path:
    """Commit ``folder/step-NNNNNNNN`` and then drop all but the ``keep`` newest checkpoints.

    Call it from one process only; the caller makes the others wait.

    Args:
        step: finished steps (0 or more).
        tensors: anything by name; copied to the CPU, so tied weights and views are fine.
        facts: JSON values; NaN and infinity are refused.

    Raises:
        SoundloomError: the disk is full or the folder cannot be written; earlier checkpoints stay as they were.
    """
    folder = Path(folder)
    final = folder / f"step-{step:08d}"

    def fill(place: Path) -> None:
        plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        save_file(plain, place / _FILES[0])
        (place / _FILES[1]).write_text(json.dumps(dict(facts), indent=1, allow_nan=False), encoding="utf-8")
        paths = {name: place / name for name in _FILES}
        files = {name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for name, path in paths.items()}
        (place / "record.json").write_text(json.dumps({"step": step, "files": files}, indent=1), encoding="utf-8")

    try:
        if folder.is_dir():
            _collect_leftovers(folder)
        # A run that went back past a broken checkpoint writes the same step again.
        write_folder(final, fill)
    except (SoundloomError, SafetensorError) as error:
        raise SoundloomError(f"{final}: could not write the checkpoint ({error}); earlier ones are intact") from error
    prune_checkpoints(folder, keep)
    return final


def load_checkpoint(folder: str | Path, warn: Callable[[str], None] | None = None, every: int = 0) -> Checkpoint | None:
    """Return the last whole checkpoint in ``folder``, or None where there is none at all.

    Broken ones are named through ``warn`` (stderr by default) and passed over. With ``every``, only those of each
    ``every``-th step count.

    Raises:
        SoundloomError: there are checkpoints and not one is whole.
    """
    warn = warn or (lambda message: print(message, file=sys.stderr))
    paths = [path for path in list_checkpoints(folder) if not every or step_of(path) % every == 0]
    for path in reversed(paths):
        try:
            return read_checkpoint(path)
        except SoundloomError as error:
            warn(f"warning: {error}; trying the one before it")
    if paths:
        raise SoundloomError(f"{folder}: none of its {len(paths)} checkpoints is whole; start anew elsewhere")
    return None


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoint folders in ``folder``, oldest step first, whole or not."""
    folder = Path(folder)
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read one checkpoint folder after checking it against its record.

    Raises:
        SoundloomError: a file is missing, has another size or sha256, or does not parse; the message names it.
    """
    path = Path(path)
    record = read_json(path / "record.json")
    try:
        step, files = int(record["step"]), {name: record["files"][name] for name in _FILES}
        for name, entry in files.items():
            size = check_file(path / name)
            if size != entry["bytes"]:
                raise SoundloomError(f"{path / name}: {size} bytes, its record says {entry['bytes']}")
            if sha256_file(path / name) != entry["sha256"]:
                raise SoundloomError(f"{path / name}: its content does not match the sha256 in record.json")
        tensors = load_file(path / _FILES[0])
    except (KeyError, TypeError, ValueError, OverflowError, OSError, SafetensorError) as error:
        raise SoundloomError(f"{path}: not a whole checkpoint ({type(error).__name__}: {error})") from error
    return Checkpoint(step, tensors, read_json(path / _FILES[1], _FACTS_BYTES), path)


def prune_checkpoints(folder: str | Path, keep: int) -> None:
    """Remove all but the ``keep`` (at least 1) checkpoints of the highest steps, and leftovers of killed saves."""
    _collect_leftovers(Path(folder))
    for path in list_checkpoints(folder)[: -max(keep, 1)]:
        _remove(path)


def remove_after(folder: str | Path, step: int) -> None:
    """Remove the checkpoints of later steps than ``step``, which a run that went back must not resume from."""
    for path in list_checkpoints(folder):
        if step_of(path) > step:
            _remove(path)


def _remove(path: Path) -> None:
    # Out of sight first: a kill in the middle of the removal must not leave half a checkpoint under its name.
    aside = path.with_name(f".tmp-old-{path.name}-{os.getpid()}")
    os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def module_tensors(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers of ``module``, named ``prefix.name``."""
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put the tensors saved by `module_tensors` back; names and shapes must match exactly (`SoundloomError`)."""
    try:
        module.load_state_dict(with_prefix(tensors, prefix))
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise SoundloomError(f"checkpoint: '{prefix}' does not fit this model's settings: {message}") from error


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors named ``prefix.name`` under ``name``."""
    return {name.removeprefix(prefix + "."): t for name, t in tensors.items() if name.startswith(prefix + ".")}


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, module: nn.Module, prefix: str = "optimizer"
) -> dict[str, Tensor]:
    """Return the optimizer's state as ``prefix.key.parameter name`` tensors (Adam: ``step``, ``exp_avg`` …).

    Learning rate and the like are not state: they come from the settings and the schedule. ``module`` gives the
    parameters' names, so the order of the groups does not matter.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{prefix}.{key}.{name}"] = torch.as_tensor(value)
    return tensors


def load_optimizer(
    optimizer: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, Tensor], prefix: str = "optimizer"
) -> None:
    """Put the state saved by `optimizer_tensors` back, in the saved precision.

    Raises:
        SoundloomError: the state names a parameter that ``module`` lacks.
    """
    parameters = dict(module.named_parameters())
    fused = any(group.get("fused") for group in optimizer.param_groups)
    state: dict[nn.Parameter, dict[str, Tensor]] = {}
    for full_name, value in with_prefix(tensors, prefix).items():
        key, _, name = full_name.partition(".")
        if name not in parameters:
            raise SoundloomError(f"checkpoint: optimizer state for '{name}', which this model does not have")
        parameter = parameters[name]
        # A scalar (Adam's step count) stays on the CPU, as the optimizers themselves keep it, unless they are fused.
        scalar = value.dim() == 0
        moved = value.to(parameter.device, copy=True) if scalar and fused else value.clone()
        state.setdefault(parameter, {})[key] = moved if scalar else shard_like(parameter, value)
    optimizer.state.clear()
    for parameter, values in state.items():
        optimizer.state[parameter] = values


def _collect_leftovers(folder: Path) -> None:
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
