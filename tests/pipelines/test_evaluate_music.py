"""The program writes its report from renderings, copies and a model's sounds, with judges that know the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_fluidsynth import fake_fluidsynth

from codec.audio import read_audio, write_audio
from codec.errors import SoundloomError
from pipelines import evaluate_music, make_music_corpus
from pipelines.music_judge import judge as judge_module
from pipelines.music_judge.judge import Asked, Finding, score_row, shuffled
from pipelines.music_judge.notes import FoundNote
from pipelines.music_judge.systems import read_asked


def finding(**changes: Any) -> Finding:
    classes = [1.0] + [0.0] * 11
    made = {"tonic": 0, "third": "major", "tempo": 120.0, "pitch_classes": classes, "notes": [[0.0, 1.0, 60]]}
    faults = {"silent": 0.0, "clipped": False, "loop": 0.0}
    return Finding(**{**made, "tags": [0.0] * 50, "embedding": [0.0] * 8, **faults, **changes})


class KnowingJudges:
    """Stands in for the real judges: what it finds depends on the sound alone."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.facts = folder, {"judges": "none"}

    def embedding(self, wave: torch.Tensor, sample_rate: int) -> torch.Tensor:
        return torch.stack([wave[i::8].abs().mean() + wave[i] for i in range(8)])

    def __call__(self, wave: torch.Tensor, sample_rate: int) -> Finding:
        return finding(embedding=self.embedding(wave, sample_rate).tolist())


class HalfCodec:
    sample_rate = 24_000

    def to(self, device: Any) -> HalfCodec:
        return self

    def encode(self, wave: torch.Tensor) -> torch.Tensor:
        return wave.expand(-1, 8, -1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes[:, :1] * codes.shape[1] / 8


@pytest.fixture
def corpora(tmp_path: Path) -> tuple[Path, Path]:
    synthesizer = fake_fluidsynth(tmp_path)
    for name, seed, scores in (("held", 1, 2), ("reference", 0, 21)):
        options = ["--scores", str(scores), "--variations", "1", "--seconds", "2", "--seed", str(seed), *synthesizer]
        assert make_music_corpus.main([str(tmp_path / name), *options]) == 0
    return tmp_path / "held", tmp_path / "reference"


def test_the_report(corpora: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    held, reference = corpora
    monkeypatch.setattr(judge_module, "MusicJudges", KnowingJudges)
    monkeypatch.setattr("codec.pretrained.load_codec", lambda name: HalfCodec())
    made = tmp_path / "made"
    clips = read_asked(held, "all", None)
    write_audio(made / f"{clips[0][0].id}.wav", read_audio(clips[0][1]), 24_000)
    out = tmp_path / "report"
    common = ["-o", str(out), "--corpus", str(held), "--listen", "1"]
    assert evaluate_music.main([*common, "--reference", str(reference), "--outputs", str(made)]) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    tables = {table["title"]: table["rows"] for table in report["tables"]}
    systems = ["renderings", "codec, 4 levels", "codec, 8 levels", "made"]
    assert [row["system"] for row in tables["What was asked for"]] == [*systems, "shuffled captions"]
    mel = {row["system"]: row["mel distance"] for row in tables["Notes"]}
    assert mel["codec, 8 levels"]["mean"] == 0 < mel["codec, 4 levels"]["mean"]
    assert tables["What the codec keeps"][0]["same key"]["mean"] == 1
    assert "data:audio/flac" in (out / "report.html").read_text(encoding="utf-8")

    with pytest.raises(SoundloomError, match="share 2 scores"):
        evaluate_music.main([*common, "--reference", str(held)])
    with pytest.raises(SoundloomError, match="called as a clip's id"):
        evaluate_music.main([*common, "--reference", str(reference), "--no-codec", "--outputs", str(tmp_path)])
    with pytest.raises(SoundloomError, match="--levels"):
        evaluate_music.main([*common, "--reference", str(reference), "--levels", "0,4"])
    with pytest.raises(SoundloomError, match="no clips of the split"):
        evaluate_music.main([*common, "--reference", str(reference), "--split", "none"])


def test_scores_follow_what_was_asked() -> None:
    attributes = [{"tonic": t, "third": "major", "tempo": 120, "families": ["piano"]} for t in (0, 7, 2, 0)]
    names = [("key",), ("key",), ("tempo number",), ()]
    asked = [Asked(str(i), "", names[i], attributes[i], (FoundNote(0, 1, 60),)) for i in range(4)]

    class Piano:
        def likeliest(self, embedding: torch.Tensor, count: int) -> list[str]:
            return ["piano"]

    found = {one.id: finding() for one in asked}
    everything = score_row("x", found, asked, Piano(), named_only=False)  # type: ignore[arg-type]
    named = score_row("x", found, asked, Piano(), named_only=True)  # type: ignore[arg-type]
    assert [cell.mean for cell in everything[1:]] == [0.5, 0.5, 1, 1, 1, 1]  # type: ignore[union-attr]
    assert [cell.n for cell in named[1:]] == [2, 2, 2, 1, 1, 0]  # type: ignore[union-attr]
    other = shuffled(asked)
    assert [one.attributes["tonic"] for one in other] == [2, 0, 0, 7] and [one.id for one in other] == list("0123")
