"""Both trainings as whole programs on an emulated second device, and how often a step makes the host wait for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from emulated_device import Counts, emulated
from lm_store import write_store
from train_lm_runs import CONFIG as LM

from codec import load_codec
from codec.audio.files import write_audio
from codec.common import devices
from lm.checkpoint import load_lm
from pipelines import train_codec, train_lm
from pipelines.training import loop, optimizer
from pipelines.training.checkpoints import load_checkpoint

#: how often a step may make the host wait
CODEC_SYNCS, LM_SYNCS = 2, 1
CODEC = """
codec:
  spectral: {window: 192, hop: 48, decoder_window: 192, lookahead: 144, latent_dim: 8, encoder_dim: 16,
    encoder_blocks: 1, bottleneck_dim: 16, bottleneck_blocks: 1, decoder_dim: 16, decoder_blocks: 1, kernel: 3}
  quantizer: {num_levels: 3, codebook_size: 16}
discriminators: {windows: [256], stft_channels: 2, periods: [2], period_channels: 2}
optimizer: {lr: 3e-3, warmup_steps: 2}
batch_size: 2
segment_seconds: 0.1
quantizer_start: 2
kmeans_batches: 2
discriminator_start: 4
ema_decay: 0.9
dev_crops: 2
validate_levels: [1, 3]
validate_every: 0
log_every: 2
steps: 6
threads: 1
"""


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    monkeypatch.setattr(Accelerator, "device", property(lambda _: torch.device("emu")))
    monkeypatch.setattr(loop, "plot_curves", lambda *_: False)
    with emulated() as counts:
        yield counts


Step = tuple[Counter[str], Counter[str], int]  # reads by the host, copies that it waits for, operations


def counted(monkeypatch: pytest.MonkeyPatch, task: type, counts: Counts) -> list[Step]:
    """Return what every step of a task will count."""
    found: list[Step] = []
    take = task.step  # type: ignore[attr-defined]

    def step(self: Any, batch: Any) -> None:
        counts.clear()
        take(self, batch)
        found.append((Counter(counts.syncs), Counter(counts.copies), sum(counts.launches.values())))

    monkeypatch.setattr(task, "step", step)
    return found


@pytest.fixture
def codec_words(tmp_path: Path) -> list[str]:
    for i in range(2):
        noise = torch.randn(1, 12000, generator=torch.Generator().manual_seed(i))
        write_audio(tmp_path / "audio" / f"{i}.wav", 0.1 * noise, 24000)
    (tmp_path / "codec.yaml").write_text(CODEC)
    source = json.dumps([{"path": str(tmp_path / "audio")}])
    return ["--config", str(tmp_path / "codec.yaml"), "--sources", source, "--dev_sources", source]


@pytest.mark.parametrize("more", [[], ["--gradient_accumulation", "2", "--losses.balance", "sum", "--bf16", "false"]])
def test_a_codec_trains_saves_and_resumes(
    more: list[str], codec_words: list[str], tmp_path: Path, device: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = counted(monkeypatch, train_codec.CodecTask, device)
    words = [*codec_words, "--output", str(tmp_path / "run"), *more]
    assert train_codec.main([*words, "--steps", "5"]) == 0
    assert train_codec.main(words) == 0
    assert len(steps) == 6
    for number in (1, 3, 4):  # not the first after a start, which reads whether the codebooks began, nor k-means itself
        syncs, copies, _ = steps[number]
        assert 0 < sum(syncs.values()) <= CODEC_SYNCS and not copies, (number, syncs, copies)
    codec = load_codec(tmp_path / "run" / "best")
    assert codec.encode(torch.zeros(1, 1, 960)).shape == (1, 3, 10)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(isinstance(row["mel"], float) and isinstance(row["grad_norm"], float) for row in log)
    assert len(log[-1]["residual"]) == 3 and log[-1]["discriminator"] > 0


def test_both_train_on_an_apple_gpu_without_float64(
    codec_words: list[str], tmp_path: Path, device: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "WITHOUT_FLOAT64", {"emu"})
    monkeypatch.setattr(optimizer, "WITHOUT_FUSED", {"cpu", "emu"})
    device.has_float64 = False
    assert train_codec.main([*codec_words, "--output", str(tmp_path / "codec")]) == 0
    store = write_store(tmp_path / "store", 30)
    (tmp_path / "lm.yaml").write_text(LM)
    words = ["--config", str(tmp_path / "lm.yaml"), "--store", str(store), "--dev_store", str(store), "--steps", "2"]
    assert train_lm.main([*words, "--output", str(tmp_path / "lm")]) == 0


def test_the_codec_on_a_device_learns_what_it_learns_on_a_cpu(
    codec_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mel(name: str) -> list[float]:
        words = [*codec_words, "--output", str(tmp_path / name), "--bf16", "false", "--log_every", "1"]
        assert train_codec.main(words) == 0
        return [json.loads(line)["mel"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]

    there = mel("device")
    monkeypatch.undo()
    monkeypatch.setattr(loop, "plot_curves", lambda *_: False)
    assert there == pytest.approx(mel("cpu"), rel=2e-3)  # another kernel of AdamW rounds otherwise


@pytest.mark.parametrize("kind", ["delay", "fine"])
def test_a_language_model_trains_saves_and_resumes(
    kind: str, tmp_path: Path, device: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, dev = write_store(tmp_path / "store", 30), write_store(tmp_path / "dev", 5, seed=1)
    (tmp_path / "lm.yaml").write_text(LM)
    steps = counted(monkeypatch, train_lm.LMTask, device)
    words = ["--config", str(tmp_path / "lm.yaml"), "--store", str(store), "--dev_store", str(dev), "--bf16", "true"]
    words += ["--output", str(tmp_path / "run"), "--model.kind", kind, "--frames_per_batch", "300"]
    assert train_lm.main([*words, "--steps", "3"]) == 0
    assert train_lm.main([*words, "--steps", "5", "--gradient_accumulation", "2"]) == 0
    assert len(steps) == 5
    for number, (syncs, copies, _) in enumerate(steps):
        assert sum(syncs.values()) <= LM_SYNCS, (number, syncs)
        assert not copies, copies
    model = load_lm(tmp_path / "run" / "best").model
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None and checkpoint.step == 5
