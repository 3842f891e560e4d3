"""A folder of many folders: listed by threads, in order, with the errors and texts of each in their place."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from codec.errors import SoundloomError
from codec.store.plan import Settings
from pipelines.corpus import folder


def listed(place: Path) -> list[tuple[str, str]]:
    return [(item.path, item.text) for item, _ in folder.read_folder(place, Settings("", str(place)))]


def test_folders_and_texts_are_read_ahead_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_TEXTS", 2)
    expected = []
    for name in (f"{number:03d}" for number in range(3 * folder._AHEAD)):
        (tmp_path / name / "in").mkdir(parents=True)
        for path, text in (
            (f"{name}/a.wav", f"text {name}"),
            (f"{name}/b.wav", ""),
            (f"{name}/in/c.flac", f"in {name}"),
        ):
            (tmp_path / path).touch()
            if text:
                (tmp_path / path).with_suffix(".txt").write_text(text)
            expected.append((path, text))
    assert listed(tmp_path) == expected


def test_several_folders_are_listed_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2 * folder._AHEAD):
        (tmp_path / f"{number:03d}").mkdir()
        (tmp_path / f"{number:03d}" / "a.wav").touch()
    now, most, lock, scan = [0], [0], threading.Lock(), folder._list

    def slow(path: str) -> list[folder._Entry]:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.005)  # as on a network's disk
        with lock:
            now[0] -= 1
        return scan(path)

    monkeypatch.setattr(folder, "_list", slow)
    assert len(listed(tmp_path)) == 2 * folder._AHEAD
    assert 2 <= most[0] <= folder._THREADS


def test_whoever_stops_reading_leaves_no_threads(tmp_path: Path) -> None:
    for number in range(2 * folder._AHEAD):
        (tmp_path / f"{number:03d}").mkdir()
        (tmp_path / f"{number:03d}" / "a.wav").touch()
    rows = folder.read_folder(tmp_path, Settings("", str(tmp_path)))
    assert next(rows)[0].path == "000/a.wav"
    rows.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("listing")]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    scan = folder.os.scandir

    def refuse(path: str) -> object:
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(folder.os, "scandir", refuse)
    with pytest.raises(SoundloomError, match="a: cannot be listed"):
        listed(tmp_path)
