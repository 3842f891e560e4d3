"""The configurations parse, say how they are run, and the one for a GPU trains a few steps on a CPU."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import torch

import pipelines.train_codec as program
from codec.audio.files import write_audio
from codec.model import Codec
from pipelines import train_lm, tune_decoder
from pipelines.command_line.settings import parse_settings
from pipelines.training.lm_settings import TrainLMSettings

CONFIGS = Path(__file__).parents[1] / "configs"
LARGE = CONFIGS / "codec/encodec_24khz.yaml"


TRAININGS = [
    *sorted(CONFIGS.glob("codec/*_24khz*.yaml")),
    *sorted(CONFIGS.glob("gpu/codec*")),
    CONFIGS / "tiny/codec.yaml",
    CONFIGS / "own_codec.yaml",
]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_head_is_short_and_names_command_and_hardware(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    head = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert 3 <= len(head) <= 8 and max(map(len, head)) <= 120
    assert re.search(r"pipelines/\w+\.py.* configs/", "\n".join(head))
    if "tiny" not in path.parts and "accelerate" not in path.name:
        assert "Hardware: " in "\n".join(head)


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_a_codec_configuration_parses_and_its_head_has_the_command(path: Path) -> None:
    parse_settings(program.TrainCodecSettings, ["--config", str(path)])
    assert f"pipelines/train_codec.py --config {path.relative_to(CONFIGS.parent)}" in path.read_text(encoding="utf-8")


def test_the_other_configurations_parse_and_their_heads_have_the_commands() -> None:
    programs = {
        "*/lm_*": (train_lm, TrainLMSettings),
        "lm/*": (train_lm, TrainLMSettings),
        "own_voice": (train_lm, TrainLMSettings),
        "codec/decoder_*": (tune_decoder, tune_decoder.TuneDecoderSettings),
    }
    for pattern, (module, settings) in programs.items():
        found = sorted(CONFIGS.glob(f"{pattern}.yaml"))
        assert found
        for path in found:
            parse_settings(settings, ["--config", str(path)])
            script = Path(str(module.__file__)).name
            assert f"pipelines/{script} --config {path.relative_to(CONFIGS.parent)}" in path.read_text(
                encoding="utf-8"
            ), path.name


def test_the_large_one_is_of_encodecs_size() -> None:
    settings = parse_settings(program.TrainCodecSettings, ["--config", str(LARGE)])
    codec = Codec(settings.codec)
    assert (codec.sample_rate, codec.frame_rate, codec.bitrate()) == (24_000, 75, 6000)
    assert 14e6 < sum(value.numel() for value in codec.parameters()) < 16e6  # EnCodec at 24 kHz: 14.85 M
    head = LARGE.read_text(encoding="utf-8").split("output:")[0]
    assert "ESTIMATE" in head and "NOT MEASURED" in head and "Hardware" in head


@pytest.mark.slow
def test_rehearsal_of_the_large_one(tmp_path: Path) -> None:
    """Three steps at full width: without quantizer, with it, with discriminators; then a codec that opens."""
    for i in range(3):
        write_audio(tmp_path / "audio" / f"{i}.wav", 0.1 * torch.randn(1, 60_000), 24_000)
    source = json.dumps([{"path": str(tmp_path / "audio")}])
    words = ["--config", str(LARGE), "--output", str(tmp_path / "run"), "--sources", source, "--dev_sources", source]
    sizes = {"steps": 3, "batch_size": 2, "segment_seconds": 0.5, "quantizer_start": 1, "kmeans_batches": 2}
    sizes |= {"discriminator_start": 2, "dev_crops": 1, "log_every": 1, "threads": 1}
    words += [word for key, value in sizes.items() for word in (f"--{key}", str(value))]
    assert program.main(words) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert ["residual" in row for row in rows[:3]] == [True] * 3
    assert "discriminator" in rows[2] and all(row["grad_norm"] is not None for row in rows[:3])
    codec = Codec.from_pretrained(tmp_path / "run" / "best")
    assert codec.encode(torch.randn(1, 1, 24_000)).shape == (1, 8, 75)
