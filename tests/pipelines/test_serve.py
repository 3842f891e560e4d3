"""The program serve.py: its options, its key, and that it serves."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")
from voice_helpers import tiny_voice

from codec.errors import SoundloomError
from pipelines import serve


def options(*given: str) -> argparse.Namespace:
    return serve.parser().parse_args(list(given))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("voice")
    return tiny_voice(place / "text").save(place / "tiny")


def test_this_machine_only_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(serve.KEY_VARIABLE, raising=False)
    assert options().host == "127.0.0.1"
    rules = serve.make_service(options("--voice", str(folder))).settings
    assert rules.api_key is None and not rules.allow_cloning and not rules.origins
    assert set(rules.hosts) == {"127.0.0.1", "::1", "localhost"}


def test_open_to_others_without_a_key_is_warned_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(serve.KEY_VARIABLE, raising=False)
    assert serve.make_service(options("--voice", str(folder), "--host", "0.0.0.0")).settings.hosts == ()
    assert "warning: 0.0.0.0 is open to others without a key" in capsys.readouterr().err


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(" s3cret\n")
    monkeypatch.setenv(serve.KEY_VARIABLE, "other")
    assert serve.api_key(None) == "other" and serve.api_key(str(tmp_path / "key")) == "s3cret"
    (tmp_path / "key").write_text("\n")
    for path in (tmp_path / "key", tmp_path / "none", tmp_path):
        with pytest.raises(SoundloomError, match="expected"):
            serve.api_key(str(path))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--port", "70000"], "--port"),
        (["--wyoming-port", "-1"], "--wyoming-port"),
        (["--threads", "0"], "--threads"),
        (["--slots", "0"], "slots"),
        (["--queue", "-1"], "queue"),
        (["--max-seconds", "nan"], "max-seconds"),
        (["--voice", "nobody"], "nobody"),
    ],
)
def test_bad_options_fail_before_anything_is_served(given: list[str], said: str) -> None:
    with pytest.raises(SoundloomError, match=said):
        serve.make_service(options(*given))
