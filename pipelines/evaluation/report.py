"""Write a report three times: JSON for programs, Markdown for a repository, one HTML page to listen to.

The page (report.html.j2) needs no network: pictures and sounds are inside of it, and all text is escaped. Figures are
`Summary` objects in the tables.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from codec.common.files import write_bytes, write_text
from codec.errors import SoundloomError
from codec.metrics import Summary

Cell = str | int | float | Summary | None


@dataclass(frozen=True)
class Table:
    """A table: ``columns`` are headings, each row has a cell for each. The first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows."""

    title: str
    png: bytes
    note: str = ""


@dataclass(frozen=True)
class Sound:
    """One thing to hear: the bytes of a FLAC file, and a note for its player."""

    label: str
    flac: bytes
    note: str = ""


@dataclass(frozen=True)
class Listening:
    """One utterance: ``dial`` are the stops of a slider (numbers of levels), ``others`` are buttons next to it."""

    title: str
    dial: Sequence[Sound]
    others: Sequence[Sound]
    text: str = ""
    picture: Picture | None = None


@dataclass
class Report:
    """What `write_report` writes. ``data`` goes into the JSON unchanged, next to facts and tables."""

    title: str
    lead: str
    facts: dict[str, str] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    listening: list[Listening] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


def write_report(folder: str | os.PathLike[str], report: Report) -> list[Path]:
    """Write report.json, report.md with its pictures, and report.html. Returns the paths.

    Raises: SoundloomError where ``folder`` is a file or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise SoundloomError(f"{folder}: is a file; give a folder for the report")
    written = [folder / "report.json", folder / "report.md", folder / "report.html"]
    write_text(written[0], to_json(report))
    for i, picture in enumerate(report.pictures):
        path = folder / "pictures" / f"{i + 1:02d}.png"
        write_bytes(path, picture.png)
        written.append(path)
    write_text(written[1], to_markdown(report))
    write_text(written[2], to_html(report))
    return written


def show(cell: Cell) -> str:
    """Return a cell as text: summaries as ``mean [low, high]`` with their failures, figures to three decimals."""
    if cell is None:
        return "-"
    if isinstance(cell, Summary):
        if cell.n == 0:
            return f"- ({cell.n_failed} failed)"
        digits = 3 if abs(cell.mean) < 100 else 0
        failed = f" ({cell.n_failed} failed)" if cell.n_failed else ""
        return f"{cell.mean:.{digits}f} [{cell.low:.{digits}f}, {cell.high:.{digits}f}]{failed}"
    if isinstance(cell, float):
        return (
            "-" if math.isnan(cell) else f"{cell:.3f}".rstrip("0").rstrip(".") if abs(cell) < 1000 else f"{cell:,.0f}"
        )
    return str(cell)


def to_json(report: Report) -> str:
    """Return facts, tables and data as JSON; NaN and infinity become null."""
    tables = [
        {
            "title": table.title,
            "note": table.note,
            "rows": [dict(zip(table.columns, row, strict=True)) for row in table.rows],
        }
        for table in report.tables
    ]
    record = {"title": report.title, "facts": report.facts, "tables": tables, **report.data}
    return json.dumps(_plain(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(report: Report) -> str:
    """Return title, facts, tables and pictures (in pictures/ next to the file) as GitHub Markdown."""
    lines = [f"# {report.title}", "", report.lead, ""]
    lines += [f"- **{name}:** {value}" for name, value in report.facts.items()]
    for table in report.tables:
        lines += ["", f"## {table.title}", ""]
        rows = [[str(name) for name in table.columns], *([show(cell) for cell in row] for row in table.rows)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        lines.insert(len(lines) - len(table.rows), "|---" + "|---:" * (len(table.columns) - 1) + "|")
        lines += ["", table.note] if table.note else []
    for i, picture in enumerate(report.pictures):
        lines += ["", f"## {picture.title}", "", f"![{picture.title}](pictures/{i + 1:02d}.png)"]
        lines += ["", picture.note] if picture.note else []
    return "\n".join(lines) + "\n"


def to_html(report: Report) -> str:
    """Return the whole report as one page without outside parts."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"show": show, "inside": _inside, "sounds": _sounds}
    return environment.get_template("report.html.j2").render(report=report) + "\n"


def headlines(report: Report, systems: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return one line for each of ``systems`` with its figures in ``columns``, from all tables with rows of it."""
    lines = []
    for system in systems:
        cells: dict[str, Cell] = {}
        for table in report.tables:
            for row in table.rows:
                if row[0] == system:
                    cells = dict(zip(table.columns, row, strict=True)) | cells
        figures = [f"{name} {show(cells[name])}" for name in columns if name in cells]
        lines += [f"{system}: {', '.join(figures)}"] if figures else []
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _inside(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _sounds(item: Listening) -> list[dict[str, str]]:
    """Return all sounds of an utterance as the page's script wants them."""
    sounds = [*item.dial, *item.others]
    return [{"label": s.label, "note": s.note, "src": _inside(s.flac, "audio/flac")} for s in sounds]
