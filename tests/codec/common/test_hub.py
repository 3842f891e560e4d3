"""Names of models: a folder, a shipped one, a name on the hub, or one clear error."""

from pathlib import Path

import pytest

from codec.common.hub import resolve
from codec.errors import SoundloomError


def test_names_that_stand_for_nothing(tmp_path: Path) -> None:
    shipped = {"low": tmp_path}
    for name, message in (
        ("", "name is empty"),
        ("a" * 300, "too long"),
        ("~nosuchuser/x", "not a name of a folder|there is no such folder"),
        ("nul\0", "no such folder"),
        ("nobody", r"no voice 'nobody': there is no such folder; shipped: low; .* owner/name"),
        (str(tmp_path / "file"), "is a file"),
    ):
        (tmp_path / "file").touch()
        with pytest.raises(SoundloomError, match=message):
            resolve(name, "voice", ["*.json"], "someone/voice", shipped)
    assert resolve("low", "voice", ["*.json"], "someone/voice", shipped) == tmp_path
    assert resolve(tmp_path, "voice", ["*.json"], "someone/voice") == tmp_path
