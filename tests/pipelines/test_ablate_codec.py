from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from store_helpers import speech

from codec.audio.files import write_audio
from codec.errors import SoundloomError
from codec.metrics import Summary
from pipelines import ablate_codec
from pipelines.ablate_codec import collect, merged, read_plan, table

CONFIGS = Path(__file__).parents[2] / "configs"


def test_later_settings_win_and_neighbours_stay() -> None:
    below = {"steps": 5, "codec": {"quantizer": {"num_levels": 8, "decay": 0.9}}}
    above = {"codec": {"quantizer": {"num_levels": 1}}}
    assert merged(below, above) == {"steps": 5, "codec": {"quantizer": {"num_levels": 1, "decay": 0.9}}}
    assert below["codec"] == {"quantizer": {"num_levels": 8, "decay": 0.9}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- 1", "must hold 'key: value' lines"),
        ("base: a\nspeech: b\nvariants: {x: {}}\nstep: 3", "expected a mapping"),
        ("base: a\nvariants: {x: {}}", "speech: expected a path"),
        ("base: a\nspeech: b\nvariants: {}", "variants: expected a mapping"),
        ("base: a\nspeech: b\nvariants: {../x: {}}", "variants.../x"),
        ("base: a\nspeech: b\nvariants: {x: 3}", "variants.x"),
        ("base: [", "not valid YAML"),
    ],
)
def test_a_wrong_plan_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(SoundloomError, match=told):
        read_plan(path)


def test_the_shipped_plan_reads() -> None:
    plan = read_plan(CONFIGS / "codec/ablations.yaml")
    assert len(plan.variants) >= 8 and (CONFIGS.parent / plan.base).is_file()


def test_scores_are_put_beside_the_training(tmp_path: Path) -> None:
    log = tmp_path / "runs" / "one" / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"step": 9, "seconds": 90.0, "effective_rank": 3.5, "usage": [0.5, 0.25]}) + "\n")
    scores = {"PESQ-WB": [2.0, 3.0], "STOI": [0.5, None], "mel distance": [1.0, 1.0], "kbit/s": [1.0, 1.0]}
    report = {"scores": {"one, 1 level": scores, "one, 2 levels": scores, "one-more, 8 levels": scores}}
    found = collect(report, ["one"], tmp_path)
    assert sorted(found["one"]["levels"]) == [1, 2]
    stoi = found["one"]["levels"][2]["STOI"]
    assert isinstance(stoi, Summary) and (stoi.mean, stoi.n_failed) == (0.5, 1)
    text = table(found, 2)
    assert "| one | 9 | 1.5 | 2 | 1.00 | 2.500" in text and "| 25% | 3.5 |" in text
    with pytest.raises(SoundloomError, match="no scores of two"):
        collect(report, ["one", "two"], tmp_path)


@pytest.mark.slow
def test_two_variants_end_in_a_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    pytest.importorskip("matplotlib")
    folder = tmp_path / "speech"
    folder.mkdir()
    for seed in range(3):
        write_audio(folder / f"{seed}.wav", torch.from_numpy(speech(3.0, seed, 24000)), 24000)
    plan = tmp_path / "plan.yaml"
    sources = f"[{{path: {folder}}}]"
    plan.write_text(
        f"base: {CONFIGS / 'tiny/codec.yaml'}\nspeech: {folder}\n"
        f"common: {{steps: 30, sources: {sources}, dev_sources: {sources}, discriminator_start: 99}}\n"
        "variants:\n  default: {}\n  one-level: {codec: {quantizer: {num_levels: 1}}, validate_levels: [1]}\n"
    )
    assert ablate_codec.main([str(plan), "-o", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert sorted(found["default"]["levels"]) == ["1", "2", "4"] and sorted(found["one-level"]["levels"]) == ["1"]
    assert found["default"]["steps"] == 30
    assert (tmp_path / "out" / "rate-quality.png").stat().st_size > 5000
    assert "| one-level | 30 |" in capfd.readouterr().out
