"""Keep a training's history: lines of JSON, and TensorBoard where it is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from codec.common.files import write_text
from codec.errors import SoundloomError


class JsonlLog:
    """A training's history: one JSON object a line, each with its ``step``.

    NaN and infinity are written as null, so that every line is valid JSON.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SoundloomError(f"{self.path.parent}: cannot be made a folder ({error.strerror})") from None
        if self.path.exists() and not self.path.is_file():
            raise SoundloomError(f"{self.path}: is no plain file; move it away, or choose another output")

    def write(self, **values: Any) -> None:
        """Append one line; floats are kept to 7 digits."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(_plain(values), allow_nan=False) + "\n")
        except OSError as error:
            raise SoundloomError(
                f"{self.path}: cannot be written ({error.strerror}); resume when there is room"
            ) from None

    def read(self) -> list[dict[str, Any]]:
        """Return every whole line (a torn last one is skipped)."""
        rows = []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines() if self.path.exists() else []
        for line in lines:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows

    def rewind(self, step: int) -> None:
        """Forget the lines after ``step``, which a resumed training writes again."""
        if self.path.exists():
            steps = ((row, row.get("step", 0)) for row in self.read())
            rows = [row for row, at in steps if isinstance(at, int) and at <= step]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))


def open_tensorboard(folder: str | Path, wanted: bool) -> Any:
    """Return a writer of TensorBoard events into ``folder``, or None where nobody asked for it."""
    if not wanted:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SoundloomError("tensorboard: true, but TensorBoard is not installed; pip install tensorboard") from error
    return SummaryWriter(folder)


def record(log: JsonlLog, board: Any, step: int, figures: Mapping[str, Any]) -> None:
    """Write figures to the log and, where it is open, to TensorBoard; lists and mappings as one curve an entry."""
    log.write(step=step, **figures)
    for key, value in figures.items() if board is not None else ():
        entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
        for name, number in [(key, value)] if entries is None else [(f"{key}/{i}", item) for i, item in entries]:
            board.add_scalar(name, number, step)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
