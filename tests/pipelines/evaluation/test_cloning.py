"""Likeness to a new speaker: a voice that listens to its prompt gets 1, one that does not gets 0."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from codec.audio.files import write_audio
from codec.errors import SoundloomError
from pipelines.evaluation.cloning import Recording, measure_cloning, read_speakers

RATE = 8000


def tone(hertz: float, seconds: float = 3.0) -> torch.Tensor:
    return 0.3 * torch.sin(torch.arange(round(seconds * RATE)) * (2 * torch.pi * hertz / RATE))


def embed(wave: torch.Tensor, rate: int) -> torch.Tensor | None:
    """A speaker is what tone it is."""
    spectrum = torch.fft.rfft(wave[:RATE]).abs()
    return None if spectrum.max() < 1e-3 else torch.nn.functional.normalize(spectrum, dim=0)


class FakeVoice:
    """Says everything in the tone of its prompt, or always in one."""

    sample_rate = RATE

    def __init__(self, listens: bool) -> None:
        self.listens = listens

    def speak_batch(self, texts: list[str], *, prompt: torch.Tensor, **_: Any) -> list[SimpleNamespace]:
        wave = prompt if self.listens else tone(777.0)
        return [SimpleNamespace(waveform=wave[None]) for _ in texts]


def speakers() -> dict[str, list[Recording]]:
    return {f"{hertz} Hz": [Recording(tone(hertz, 3 + i), "la la") for i in range(3)] for hertz in (200, 300, 450)}


@pytest.mark.parametrize(("listens", "share"), [(True, 1.0), (False, 0.0)])
def test_the_share_of_the_way_is_that_of_the_listening(listens: bool, share: float) -> None:
    found = measure_cloning(FakeVoice(listens), speakers(), ["a b", "c d"], embed, {}, 2)  # type: ignore[arg-type]
    assert found.share.mean == pytest.approx(share, abs=1e-4) and found.share.n == 3
    assert all(c == pytest.approx(1.0, abs=1e-4) for c in found.ceiling) and max(found.floor) < 0.1
    table = found.table()
    assert [row[0] for row in table.rows][:3] == found.speakers and len(table.rows) == 5


def test_speakers_come_from_a_manifest(tmp_path: Path) -> None:
    rows = []
    for name, seconds in (("a", 3), ("a", 9), ("a", 4), ("b", 3), ("b", 2.5), ("c", 3), ("b", 3), ("b", 3), ("b", 3)):
        audio = f"{len(rows)}.wav"
        write_audio(tmp_path / audio, tone(200, seconds), RATE)
        rows.append({"audio": audio, "text": "la", "speaker": name})
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_speakers(path, RATE, most=3)
    assert {name: len(recordings) for name, recordings in found.items()} == {"a": 2, "b": 3}  # 9 s is no prompt
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    with pytest.raises(SoundloomError, match="has 1 speakers"):
        read_speakers(path, RATE)
    path.write_text("[1]\n")
    with pytest.raises(SoundloomError, match="no manifest"):
        read_speakers(path, RATE)
