"""The picture of a training's learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_DIRECTIONS = {"lower": " (lower is better)", "higher": " (higher is better)", "": ""}


@dataclass(frozen=True)
class Panel:
    """One panel: a title, the log's keys of training and of validation to draw in it, and which direction is better.

    A key with a dot reads a nested figure: ``mel_by_levels.8``. A key whose values are lists gives one line an entry.
    """

    title: str
    training: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    better: Literal["lower", "higher", ""] = ""


def plot_curves(rows: Sequence[Mapping[str, Any]], path: str | Path, panels: Sequence[Panel]) -> bool:
    """Draw the panels over ``step`` from a log's rows into the picture ``path``.

    Panels without a figure in any row are left out. Returns False, and draws nothing, where matplotlib is not installed
    or there is nothing to draw.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    found = [(panel, curves) for panel in panels if (curves := _curves(rows, panel))]
    if not found:
        return False
    figure = Figure(figsize=(8, 2.6 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), squeeze=False)[:, 0]
    for axis, (panel, curves) in zip(axes, found, strict=True):
        for name, points in curves.items():
            validation = not name.startswith("training")
            few = "." if len(points) < 60 else ""
            axis.plot(*zip(*points, strict=True), linewidth=2 if validation else 1, marker=few, label=name)
        axis.set_title(panel.title + _DIRECTIONS[panel.better], fontsize="medium")
        axis.legend(fontsize="x-small", ncols=4)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    figure.savefig(path, dpi=110)
    return True


def _curves(rows: Sequence[Mapping[str, Any]], panel: Panel) -> dict[str, list[tuple[int, float]]]:
    """Return the panel's points (step, value) by the name of their line."""
    curves: dict[str, list[tuple[int, float]]] = {}
    keys = [(f"training: {key}", key) for key in panel.training]
    keys += [(f"validation: {key}", key) for key in panel.validation]
    for label, key in keys:
        for row in rows:
            value: Any = row
            for part in key.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            entries = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
            for i, number in entries:
                if isinstance(number, int | float) and isinstance(row.get("step"), int):
                    name = label if i is None else f"{label}, level {i}"
                    curves.setdefault(name, []).append((row["step"], number))
    return curves
