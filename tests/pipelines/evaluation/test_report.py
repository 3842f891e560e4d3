"""Reports: the three files agree, nothing in the page points outside, data cannot break the page."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from codec.errors import SoundloomError
from codec.metrics import Summary
from pipelines.evaluation.report import (
    Listening,
    Picture,
    Report,
    Sound,
    Table,
    headlines,
    show,
    to_html,
    to_json,
    to_markdown,
    write_report,
)

NASTY = "</script><img src=x onerror=alert(1)>.wav"


def example() -> Report:
    sounds = [Sound("1 level", b"fLaC1", "0.6 kbit/s"), Sound("2 levels", b"fLaC2"), Sound(NASTY, b"fLaC3")]
    return Report(
        "A <title>",
        "What was done.",
        {"judge": "a & b"},
        [Table("Quality", ["system", "PESQ"], [["ours", Summary(2.5, 2.25, 2.75, 9, 1)], ["a|b", None]], "A note.")],
        [Picture("Curve", b"\x89PNG", "higher is better")],
        [Listening(NASTY, sounds[:2], sounds[2:], "what is said")],
        {"scores": {"ours": [1.0, math.nan, math.inf, None]}},
    )


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "-"),
        (1.5, "1.5"),
        (12345.6, "12,346"),
        (math.nan, "-"),
        (3, "3"),
        ("x", "x"),
        (Summary(2.5, 2.25, 2.75, 9, 0), "2.500 [2.250, 2.750]"),
        (Summary(2.5, 2.25, 2.75, 9, 2), "2.500 [2.250, 2.750] (2 failed)"),
        (Summary(math.nan, math.nan, math.nan, 0, 4), "- (4 failed)"),
    ],
)
def test_cells(cell: object, text: str) -> None:
    assert show(cell) == text  # type: ignore[arg-type]


def test_json_is_strict_and_holds_the_figures() -> None:
    record = json.loads(to_json(example()), parse_constant=pytest.fail)
    assert record["tables"][0]["rows"][0]["PESQ"]["mean"] == 2.5
    assert record["scores"]["ours"] == [1.0, None, None, None]


def test_markdown_tables_are_tables() -> None:
    text = to_markdown(example())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "| system | PESQ |" and rows[1] == "|---|---:|"
    assert rows[2] == "| ours | 2.500 [2.250, 2.750] (1 failed) |" and rows[3] == r"| a\|b | - |"
    assert "![Curve](pictures/01.png)" in text


def test_headlines_are_the_figures_of_the_systems_asked_for() -> None:
    report = example()
    report.tables.append(Table("Words", ["system", "WER"], [["ours", 0.5], ["theirs", 0.1]]))
    assert headlines(report, ["ours", "absent"], ["WER", "PESQ", "other"]) == [
        "ours: WER 0.5, PESQ 2.500 [2.250, 2.750] (1 failed)"
    ]


class Seen(HTMLParser):
    """Tags with their attributes, and the text of the scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and data.strip():
            self.scripts.append(data)


def test_page_is_whole_and_safe() -> None:
    page = to_html(example())
    seen = Seen()
    seen.feed(page)
    assert not any("onerror" in attributes for _, attributes in seen.tags)
    for _, attributes in seen.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"https?://", page)
    sounds = json.loads(seen.scripts[0])
    assert [sound["label"] for sound in sounds] == ["1 level", "2 levels", NASTY]
    slider = next(attributes for tag, attributes in seen.tags if tag == "input")
    assert (slider["min"], slider["max"]) == ("0", "1")


def test_files(tmp_path: Path) -> None:
    written = write_report(tmp_path / "report", example())
    assert [path.name for path in written] == ["report.json", "report.md", "report.html", "01.png"]
    assert all(path.stat().st_size for path in written)
    (tmp_path / "file").write_text("")
    with pytest.raises(SoundloomError, match="is a file"):
        write_report(tmp_path / "file", example())
