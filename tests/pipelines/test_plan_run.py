"""The plan of a training: counted FLOP equal closed forms, memory is what autograd keeps, and configs/gpu fit."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from codec.errors import SoundloomError
from codec.model import Codec
from pipelines import plan_run
from pipelines.benchmarks.codec_work import codec_training, make_fake_codec
from pipelines.benchmarks.lm_work import StoreShape, lm_training
from pipelines.benchmarks.roofline import GPUS, Operation, Recorder, time_of, without_memory
from pipelines.benchmarks.training_work import Training
from pipelines.command_line.settings import parse_settings
from pipelines.training.codec_settings import TrainCodecSettings
from pipelines.training.lm_settings import TrainLMSettings, make_model

ROOT = Path(__file__).parents[2]
SHAPE = StoreShape(num_levels=3, codebook_size=32, frame_rate=50.0, vocab_size=40, text_rate=10.0, seconds=1.0)
LM = ["--store", "none", "--output", "runs/none", "--steps", "100"]
LM += ["--model.dim", "64", "--model.num_layers", "2", "--model.num_heads", "4", "--model.ffn_dim", "96"]
CODEC = ["--sources", '[{"path": "none"}]', "--dev_sources", "[]", "--output", "runs/none", "--segment_seconds", "0.2"]
CODEC += ["--codec.network", "seanet", "--codec.seanet.filters", "4", "--codec.seanet.latent_dim", "16"]
CODEC += ["--codec.seanet.ratios", "[8, 4]", "--losses.balance_every", "4", "--discriminator_every", "2"]
CODEC += ["--discriminators.windows", "[128]", "--discriminators.periods", "[2]", "--steps", "100"]
CODEC += ["--codec.quantizer.num_levels", "2", "--codec.quantizer.codebook_size", "32", "--discriminator_start", "60"]
HEADS = [
    (path, float(hours), words)
    for path in sorted((ROOT / "configs/gpu").glob("*.yaml"))
    for hours, words in re.findall(r": ([\d.]+) hours, `([^`]+)`", path.read_text(encoding="utf-8"))
]


def plan_lm(*words: str) -> Training:
    return lm_training(parse_settings(TrainLMSettings, [*LM, "--frames_per_batch", "240", *words]), SHAPE)


@lru_cache
def plan_codec(*words: str) -> Training:
    return codec_training(parse_settings(TrainCodecSettings, [*CODEC, "--batch_size", "2", *words]))


def counted(training: Training) -> list[float]:
    return [phase.flop for phase in training.phases]


def lm_flop(training: Training, layers: int = 2, dim: int = 64, attention: int = 64) -> float:
    """6 N a position, the heads' products, and attention over the whole square."""
    rows, frames, units = 4, 50, 10
    positions = units + frames + 3  # the last level is two steps behind, and one step writes END
    matrices = training.parameters["transformer"] - (2 * layers + 1) * dim  # norms multiply nothing
    heads = 3 * 33 * dim * (frames + 1)
    return 6 * rows * (matrices * positions + heads) + 12 * layers * attention * rows * positions**2


def test_flop_of_a_language_model_are_six_for_each_weight_and_position_and_attention() -> None:
    training = plan_lm()
    assert training.positions_per_step == 4 * 60 and training.seconds_per_step == 4.0
    assert training.codes_per_step == 4 * 50 * 3
    assert plan_lm("--levels", "5").codes_per_step == 4 * 50 * 5
    assert sum(counted(training)) == pytest.approx(lm_flop(training), rel=1e-9)
    grouped = plan_lm("--model.num_kv_heads", "2")
    assert sum(counted(grouped)) == pytest.approx(lm_flop(grouped), rel=1e-9)


def test_the_recorder_counts_what_torchs_own_counter_counts() -> None:
    settings = parse_settings(TrainLMSettings, LM)
    counter, recorder = FlopCounterMode(display=False), Recorder()
    with without_memory():
        model: Any = make_model(settings.model, SHAPE, SHAPE, (5.0, 0.0))  # type: ignore[arg-type]
        text, codes = torch.zeros(2, 7, dtype=torch.long), torch.zeros(2, 3, 20, dtype=torch.long)
        with counter, recorder:
            model(text, torch.tensor([7, 7]), codes, torch.tensor([20, 20])).logits.sum().backward()
    assert recorder.flop == counter.get_total_flops() > 0


def test_flop_are_linear_in_the_batch_and_in_accumulation() -> None:
    once = sum(counted(plan_lm()))
    assert sum(counted(plan_lm("--frames_per_batch", "480"))) == 2 * once
    assert sum(counted(plan_lm("--gradient_accumulation", "3"))) == 3 * once
    codec = plan_codec()
    assert [2 * flop for flop in counted(codec)] == pytest.approx(counted(plan_codec("--batch_size", "4")), rel=1e-6)


def test_recomputation_costs_flop_and_saves_memory() -> None:
    words = ["--model.num_layers", "4"]
    plain, again = plan_lm(*words), plan_lm(*words, "--activation_checkpointing", "true")
    assert 1.2 < sum(counted(again)) / sum(counted(plain)) < 4 / 3
    assert again.memory.activations < plain.memory.activations == again.memory.activations_kept
    assert plain.memory.state == 20 * plain.parameters["model"]
    assert plain.memory.sharded(4).state == 5 * plain.parameters["model"]


def test_phases_of_a_codec() -> None:
    training = plan_codec()
    assert [phase.steps for phase in training.phases] == [60, 10, 30, 20] and training.steps == 100
    plain, measured, shared, own = counted(training)
    assert plain < shared < measured and own > 0
    without = plan_codec("--discriminator_start", "100")
    assert counted(without) == [plain] and without.memory.state < training.memory.state
    parts = plan_codec("--discriminator_start", "100", "--gradient_accumulation", "2")
    assert 2 * 1.1 < counted(parts)[0] / plain < 2 * 4 / 3  # the networks run forward twice, the losses once


def test_a_codec_is_counted_with_its_lstm() -> None:
    config = parse_settings(TrainCodecSettings, CODEC)
    real = Codec(config.codec)
    with without_memory():
        fake, _ = make_fake_codec(config, recompute=False)
        lstm = next(module for name, module in fake.named_modules() if name.endswith("lstm"))
        recorder = Recorder()
        with recorder:
            lstm(torch.zeros(15, 2, 16))
    assert sum(p.numel() for p in fake.parameters()) == sum(p.numel() for p in real.parameters())
    assert recorder.flop == 2 * (2 * 16 * 4 * 16) * 15 * 2 * config.codec.seanet.lstm_layers


def test_saved_bytes_are_what_the_backward_pass_needs() -> None:
    recorder = Recorder()
    with without_memory():
        layer, x = nn.Linear(8, 16), torch.zeros(4, 8)
        with recorder:
            layer(x).relu().sum().backward()
    assert recorder.saved == 4 * (4 * 8 + 4 * 16)  # the input and relu's output, in float32; no weights


def test_time_is_the_roofline_of_each_operation_and_at_least_the_hosts() -> None:
    gpu = GPUS["h100"]
    assert time_of([Operation(gpu.flops, 1)], gpu).total == pytest.approx(1 / 0.6)
    assert time_of([Operation(0, gpu.bandwidth)] * 2, gpu).total == pytest.approx(2 / 0.8)
    assert "starting" in time_of([Operation(1, 1)], gpu).limit


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert plan_run.main(["configs/tiny/lm_delay.yaml", "--gpu", "l4", *words]) == 0
    return capsys.readouterr().out


def test_what_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = shown(capsys)
    assert "ASSUMED" in text and "ESTIMATE" in text and "cost" not in text
    plan = json.loads(shown(capsys, "--json", "--mfu", "0.5", "--price", "2", "--gpus", "3"))
    assert plan["hours"] == pytest.approx(plan["flop_in_all"] / 3 / (0.5 * 121e12) / 3600)
    assert plan["cost"] == pytest.approx(6 * plan["hours"]) and plan["memory"]["fits"]
    assert plan["memory"]["gradients_exchanged"] == plan["memory"]["gradients"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["configs/tiny/codec.yaml", "--gpu", "rtx3091"], "--gpu 'rtx3091': unknown; expected one of h100, h200"),
        (["configs/codec/decoder_heart.yaml", "--gpu", "h100"], "neither a codec's nor a language model's"),
        (["configs/tiny/codec.yaml", "--gpu", "h100", "--gpus", "0"], "--gpus 0: expected 1 to 100000"),
        (["configs/tiny/codec.yaml", "--gpu", "h100", "--mfu", "2"], "--mfu 2.0: expected"),
        (["configs/tiny/codec.yaml", "--gpu", "h100", "--no_such", "2"], "unknown key 'no_such'"),
    ],
)
def test_errors_are_one_line(words: list[str], error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SoundloomError, match=re.escape(error)) as caught:
        plan_run.main(words)
    assert "\n" not in str(caught.value)


def test_every_gpu_configuration_has_a_plan_in_its_head() -> None:
    assert {path for path, _, _ in HEADS} == set((ROOT / "configs/gpu").glob("*.yaml"))
    guide = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    for path, hours, words in HEADS:
        assert f"plan_run.py configs/gpu/{path.name} {words}`" in guide and f"| {hours} |" in guide


def one_a_file() -> list[Any]:
    """Each file's first plan runs every day; the others take seconds too, and differ in the card or the batch."""
    first = {path: words for path, _, words in reversed(HEADS)}
    marks = [() if first[path] == words else pytest.mark.slow for path, _, words in HEADS]
    return [pytest.param(*h, marks=m, id=f"{h[0].stem} {h[2]}") for h, m in zip(HEADS, marks, strict=True)]


@pytest.mark.parametrize(("path", "hours", "words"), one_a_file())
def test_a_gpu_configuration_fits_its_card_in_the_hours_of_its_head(
    path: Path, hours: float, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan_run.main([str(path), *words.split(), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["memory"]["fits"]
    assert plan["hours"] == pytest.approx(hours, rel=0.1)  # kernels change a little with torch's version
    size = re.search(r"of ([\d,]+) M parameters", path.read_text(encoding="utf-8"))
    assert size is None or round(plan["parameters"]["model"] / 1e6) == int(size[1].replace(",", ""))
