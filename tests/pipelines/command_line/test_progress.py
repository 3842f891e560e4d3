"""Progress: a bar on a terminal, one line every 30 s in a log."""

import io
import sys

import pytest

from pipelines.command_line import progress
from pipelines.command_line.progress import Bar, track


class Terminal(io.StringIO):
    """Standard error as a terminal has it."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_every_30_seconds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for _ in track(range(1000), "file", "corpus"):
        now[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 33 and lines[0] == "corpus: 30 of 1,000 files, about 16 min left"
    with Bar(10, "file") as bar:  # nothing is done yet, so nothing is known of the time left
        now[0] += 40
        bar.add(0)
    assert capsys.readouterr().err == "0 of 10 files\n"
    with Bar(2.5, "hour") as bar:
        now[0] += 40
        bar.add(0.5, "3 rejects")
    assert capsys.readouterr().err == "0.50 of 2.50 hours, about 160 s left, 3 rejects\n".replace("160 s", "3 min")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(track(iter("ab"), "file", "corpus", total=2)) == ["a", "b"]
    with Bar(0.5, "hour") as bar:
        bar.add(0.25, "1 rejects")
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "corpus: 100%" in shown and "0.250/0.500 hour" in shown and "1 rejects" in shown


def test_nothing_where_it_is_not_wanted_or_standard_error_is_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert list(track("ab", "file", shown=False)) == ["a", "b"] and capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", None)
    assert list(track("ab", "file")) == ["a", "b"] and capsys.readouterr().out == ""
