"""A report three times: JSON for programs, Markdown for a repository, one self-contained HTML page to hear and see.

The page needs no network: pictures and sounds are inside of it. Figures are `Summary` objects in the tables; everything
that names data (files, transcripts) is escaped.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    """One thing to hear: bytes of a FLAC file, and what stands beside its player."""

    label: str
    flac: bytes
    note: str = ""


@dataclass(frozen=True)
class Listening:
    """One utterance: ``dial`` are the stops of a slider (number of levels, say), ``others`` are buttons beside it."""

    title: str
    dial: Sequence[Sound]
    others: Sequence[Sound]
    text: str = ""
    picture: Picture | None = None


@dataclass
class Report:
    """What `write_report` writes. ``data`` goes into the JSON as it is, beside facts and tables."""

    title: str
    lead: str
    facts: dict[str, str] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    listening: list[Listening] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


def write_report(folder: str | os.PathLike[str], report: Report) -> list[Path]:
    """Write report.json, report.md with its pictures, and report.html. Returns the paths. Raises: SoundloomError."""
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
    """A cell as text: summaries as ``mean [low, high]``, failures told, figures to three digits after the point."""
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
    """Facts, tables and data as JSON; NaN and infinity become null."""
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
    """Title, facts, tables and pictures (beside the file, in pictures/) as GitHub Markdown."""
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
    """The whole report as one page without outside parts."""
    parts = [f"<h1>{_safe(report.title)}</h1><p class=lead>{_safe(report.lead)}</p>"]
    if report.listening:
        parts.append("<h2>Listen</h2>" + "".join(_listening(item) for item in report.listening))
    parts += [_table(table) for table in report.tables]
    if report.pictures:
        parts.append("<div class=pictures>" + "".join(_picture(picture) for picture in report.pictures) + "</div>")
    facts = "".join(f"<dt>{_safe(name)}<dd>{_safe(value)}" for name, value in report.facts.items())
    parts.append(f"<h2>How this was measured</h2><dl>{facts}</dl>")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{_safe(report.title)}</title><style>{_STYLE}</style><main>{''.join(parts)}</main>"
        f"<script>{_SCRIPT}</script></html>\n"
    )


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


def _safe(text: str) -> str:
    return html.escape(text, quote=True)


def _inside(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _table(table: Table) -> str:
    head = "".join(f"<th scope=col>{_safe(str(name))}" for name in table.columns)
    body = "".join(
        f"<tr><th scope=row>{_safe(show(row[0]))}" + "".join(f"<td>{_safe(show(cell))}" for cell in row[1:])
        for row in table.rows
    )
    note = f"<p class=note>{_safe(table.note)}</p>" if table.note else ""
    return f"<h2>{_safe(table.title)}</h2><div class=wide><table><thead><tr>{head}<tbody>{body}</table></div>{note}"


def _picture(picture: Picture) -> str:
    note = f": {_safe(picture.note)}" if picture.note else ""
    return (
        f"<figure><img alt='{_safe(picture.title)}' src='{_inside(picture.png, 'image/png')}'>"
        f"<figcaption><b>{_safe(picture.title)}</b>{note}</figcaption></figure>"
    )


def _listening(item: Listening) -> str:
    sounds = [*item.dial, *item.others]
    data = json.dumps([{"label": s.label, "note": s.note, "src": _inside(s.flac, "audio/flac")} for s in sounds])
    data = data.replace("<", "\\u003c")  # or a label could end the script element
    last = len(item.dial) - 1
    dial = (
        f"<label class=dial>{_safe(item.dial[0].label)}<input type=range min=0 max={last} value={last} step=1>"
        f"{_safe(item.dial[-1].label)}</label>"
        if item.dial
        else ""
    )
    buttons = "".join(
        f"<button type=button data-sound={len(item.dial) + i}>{_safe(s.label)}</button>"
        for i, s in enumerate(item.others)
    )
    text = f"<p class=note>{_safe(item.text)}</p>" if item.text else ""
    picture = _picture(item.picture) if item.picture else ""
    return (
        f"<section class=listen><h3>{_safe(item.title)}</h3>{text}<div class=controls>"
        f"<audio controls preload=none></audio>{dial}<span class=buttons>{buttons}</span><output></output></div>"
        f"{picture}<script type=application/json>{data}</script></section>"
    )


_STYLE = """
:root{color-scheme:light dark;--ink:#1b2328;--soft:#5d6b73;--line:#d9dfe2;--back:#fbfbfa;
--card:#fff;--mark:#1f6f8b}
@media(prefers-color-scheme:dark){
:root{--ink:#e7ecee;--soft:#9aa7ad;--line:#333d42;--back:#14191c;--card:#1b2226;--mark:#3f8fab}}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:70rem;margin:auto;padding:2rem 1.2rem 4rem}
h1{font-size:1.9rem;margin:.2em 0}h2{margin:2.2em 0 .6em;font-size:1.25rem}h3{margin:0 0 .4em;font-size:1rem}
.lead{color:var(--soft);max-width:46rem}.note,figcaption{color:var(--soft);font-size:.88rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.88rem;width:100%}
th,td{padding:.4em .7em;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child{text-align:left}
thead th{color:var(--soft);font-weight:600}tbody th{font-weight:600}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1.2rem;margin-top:2rem}
figure{margin:0}img{width:100%;height:auto;border-radius:6px;background:#fff}
.listen{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem;margin:1rem 0}
.controls{display:flex;flex-wrap:wrap;gap:.8rem 1.2rem;align-items:center;margin-bottom:.6rem}
audio{height:2.4rem;flex:1 1 16rem}
.dial{display:flex;gap:.6rem;align-items:center;font-size:.88rem;flex:1 1 16rem}
.dial input{flex:1;accent-color:var(--mark)}output{color:var(--soft);font-size:.88rem;min-width:14rem}
button{font:inherit;font-size:.85rem;
padding:.25em .8em;margin-right:.3em;border:1px solid var(--line);border-radius:99px;
background:none;color:inherit;cursor:pointer}
button[aria-pressed=true]{background:var(--mark);color:#fff;border-color:var(--mark)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.3em 1.2em;font-size:.88rem}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
"""

# Changing the sound keeps the place and goes on playing, so that an ear can compare within a word.
_SCRIPT = """
for (const box of document.querySelectorAll(".listen")) {
  const sounds = JSON.parse(box.querySelector("script").textContent);
  const audio = box.querySelector("audio"), said = box.querySelector("output");
  const dial = box.querySelector("input"), buttons = box.querySelectorAll("button");
  const choose = (i) => {
    const at = audio.currentTime, playing = !audio.paused && !audio.ended;
    audio.src = sounds[i].src;
    audio.onloadedmetadata = () => {
      audio.currentTime = Math.min(at, audio.duration || 0);
      if (playing) audio.play();
    };
    if (at || playing) audio.load();
    said.textContent = sounds[i].label + (sounds[i].note ? ": " + sounds[i].note : "");
    for (const b of buttons) b.setAttribute("aria-pressed", Number(b.dataset.sound) === i);
  };
  if (dial) dial.oninput = () => choose(Number(dial.value));
  for (const b of buttons) b.onclick = () => choose(Number(b.dataset.sound));
  choose(dial ? Number(dial.value) : 0);
  box.querySelectorAll("audio").forEach((a) => a.addEventListener("play", () =>
    document.querySelectorAll("audio").forEach((other) => { if (other !== a) other.pause(); })));
}
"""
