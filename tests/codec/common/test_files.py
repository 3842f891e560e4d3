"""Files and folders: whole or not at all, and nothing but plain files is ever opened."""

import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from codec.common.files import (
    atomic_path,
    check_file,
    read_bytes,
    read_text,
    sha256_file,
    write_bytes,
    write_folder,
    write_text,
)
from codec.errors import SoundloomError


def test_pipes_devices_folders_and_large_files_are_refused_before_they_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "large").write_bytes(b"12345")
    for name, message in (
        ("pipe", "a pipe or a device"),
        ("zero", "a pipe or a device"),
        (".", "is a folder"),
        ("large", "5 bytes; expected at most 4"),
        ("absent", "is missing; give it"),
        ("a" * 300, "too long"),
        ("nul\0", "null"),
    ):
        with pytest.raises(SoundloomError, match=message):
            read_bytes(tmp_path / name, 4, missing="give it")


def test_text_must_be_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "grüße")
    assert read_text(tmp_path / "a", 100) == "grüße" and check_file(tmp_path / "a") == 7
    write_bytes(tmp_path / "a", b"\xff")
    with pytest.raises(SoundloomError, match="UTF-8"):
        read_text(tmp_path / "a", 100)
    assert len(sha256_file(tmp_path / "a")) == 64


def test_a_name_that_no_file_can_have_is_one_error(tmp_path: Path) -> None:
    for name in ("a" * 300, "nul\0x"):
        with pytest.raises(SoundloomError, match=r"cannot write it|not a file name"):
            write_bytes(tmp_path / name, b"x")


def fill_with(text: str):
    def fill(place: Path) -> None:
        (place / "inner").mkdir()
        (place / "inner" / "file").write_text(text)

    return fill


def test_a_folder_is_replaced_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "deep" / "model", fill_with("one"))
    write_folder(folder, fill_with("two"))
    assert (folder / "inner" / "file").read_text() == "two"

    def broken(place: Path) -> None:
        (place / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(SoundloomError, match="No space left"):
        write_folder(folder, broken)
    with pytest.raises(SoundloomError, match="exists already"):
        write_folder(folder, fill_with("three"), replace=False)
    replace = os.replace
    calls = []

    def fails_second(old: Path, new: Path) -> None:
        calls.append(new)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        replace(old, new)

    monkeypatch.setattr(os, "replace", fails_second)
    with pytest.raises(SoundloomError, match="Input/output"):
        write_folder(folder, fill_with("four"))
    assert (folder / "inner" / "file").read_text() == "two"  # the old one came back
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("whole", [False, True])
def test_what_safetensors_cannot_write_is_one_error(tmp_path: Path, whole: bool) -> None:
    def full(place: Path) -> None:
        (place / "half" if whole else place).write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def write() -> None:
        if whole:
            write_folder(tmp_path / "new", full)
        else:
            with atomic_path(tmp_path / "new") as temporary:
                full(temporary)

    with pytest.raises(SoundloomError, match=r"new: cannot .*No space left"):
        write()
    assert not list(tmp_path.iterdir())
