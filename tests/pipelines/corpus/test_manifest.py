"""One reader for the manifests of all programs."""

import os
from pathlib import Path

import pytest

from codec.errors import SoundloomError
from codec.store.plan import Settings
from pipelines.corpus.manifest import Row, read_manifest
from pipelines.corpus.read import open_corpus


def test_rows_with_defaults_and_a_split(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(
        '\ufeff{"audio": "a/b.wav", "text": "Grüße", "duration": 2}\n\n{"split": "train"}\n'
        '{"id": "x", "audio": "c.wav", "speaker": null, "split": "dev"}\n',
        encoding="utf-8",
    )
    assert list(read_manifest(path, "dev")) == [Row("x", "c.wav", "", "", "", -1.0, "dev")]
    rows = read_manifest(path)
    assert next(rows) == Row("a/b", "a/b.wav", "Grüße", "", "", 2.0, "")
    with pytest.raises(SoundloomError, match="line 3: no manifest row"):
        next(rows)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "no manifest row"),
        ("{", "not valid JSON"),
        ('{"audio": ""}', "no manifest row"),
        ('{"audio": "a.wav", "text": 7}', "text is 7"),
        ('{"audio": "a.wav", "duration": "2"}', "duration is '2'"),
        ('{"audio": "a.wav", "duration": 1e300}', "duration is"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "m.jsonl").write_text(line + "\n")
    with pytest.raises(SoundloomError, match=rf"m\.jsonl, line 1: {message}"):
        list(read_manifest(tmp_path / "m.jsonl"))


def test_a_path_without_a_name_is_a_row_like_others(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"audio": "."}\n{"audio": "/"}\n')
    assert [row.id for row in read_manifest(tmp_path / "m.jsonl")] == [".", "/"]
    items = list(open_corpus(Settings("", str(tmp_path / "m.jsonl"))).utterances())
    assert [item.id for item in items] == [".", "/"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b'{"audio": "\xff"}\n')
    for name, message in (("pipe", "a pipe"), ("absent", "is missing"), ("latin", "UTF-8")):
        with pytest.raises(SoundloomError, match=message):
            list(read_manifest(tmp_path / name))
