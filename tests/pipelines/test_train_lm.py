"""Training resumes to the bit, does not depend on how a batch is cut, and survives bad steps and signals."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from lm_store import FACTS, write_store
from train_lm_runs import CONFIG, assert_same_end, history, quick, stop_after  # noqa: F401 - quick is a fixture

from codec.errors import SoundloomError
from lm import load_lm
from lm.config import LMConfig, TransformerConfig
from lm.data.dataset import Batch
from lm.fine_lm import FineLM
from lm.loss import lm_loss
from lm.step_lm import CoarseLM, DelayLM, DelayLMConfig
from pipelines import train_lm
from pipelines.command_line.run import run
from pipelines.training.checkpoints import list_checkpoints, read_checkpoint
from pipelines.training.lm_step import LevelSums, check_level_weights, train_step
from pipelines.training.log import JsonlLog

SCRIPT = Path(train_lm.__file__)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of the command line that every run here shares; 12 batches an epoch."""
    folder = tmp_path_factory.mktemp("stores")
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    train, dev = write_store(folder / "train", 40), write_store(folder / "dev", 6, seed=1)
    return ["--config", str(config), "--store", str(train), "--dev_store", str(dev)]


@pytest.mark.parametrize("kind", ["delay", "fine"])
def test_resume_is_equal_to_the_bit(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    base = [*base, "--model.kind", kind, *(["--bf16", "true", "--gradient_accumulation", "2"] * (kind == "fine"))]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train_lm.main([*base, "--output", str(whole)]) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert train_lm.main([*base, "--output", str(parts)]) == 143
    with monkeypatch.context() as patch:  # again in the same epoch
        stop_after(patch, 2)
        assert train_lm.main([*base, "--output", str(parts), "--workers", "0"]) == 143
    assert [path.name for path in list_checkpoints(parts / "checkpoints")] == ["step-00000007", "step-00000009"]
    assert train_lm.main([*base, "--output", str(parts), "--workers", "3"]) == 0
    assert_same_end(whole, parts)
    assert train_lm.main([*base, "--output", str(parts)]) == 0  # nothing left to do


def test_a_broken_last_checkpoint_costs_only_its_steps(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [*base, "--steps", "9", "--save_every", "3"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train_lm.main([*base, "--output", str(whole)]) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        train_lm.main([*base, "--output", str(parts)])
    state = parts / "checkpoints" / "step-00000007" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-9])
    assert train_lm.main([*base, "--output", str(parts)]) == 0
    assert "step-00000007" in capsys.readouterr().err
    assert_same_end(whole, parts)


@pytest.mark.parametrize("kind", ["delay", "coarse", "fine"])
def test_a_run_learns_and_leaves_a_model_that_loads(base: list[str], tmp_path: Path, kind: str) -> None:
    output = tmp_path / "run"
    words = [*base, "--output", str(output), "--model.kind", kind, "--levels", "2", "--steps", "30"]
    assert train_lm.main([*words, "--text.spell_probability", "0", "--optimizer.lr", "1e-2"]) == 0
    rows = JsonlLog(output / "log.jsonl").read()
    dev = [row["dev_loss"] for row in rows if "dev_loss" in row]
    assert dev[-1] < 0.8 * dev[0] and rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert {"per_level", "lr", "grad_norm", "frames_per_second", "audio_seconds_per_second", "epoch"} <= set(rows[-1])
    scored = [number is not None for number in rows[-1]["per_level"]]
    assert scored == {"delay": [True, True], "coarse": [True, False], "fine": [False, True]}[kind]
    loaded = load_lm(output / "best")
    assert loaded.codec_facts.num_levels == 2 and loaded.codec_fingerprint == FACTS.fingerprint
    last = read_checkpoint(list_checkpoints(output / "checkpoints")[-1])
    if min(dev) == dev[-1]:
        for name, tensor in loaded.model.named_parameters():
            assert torch.equal(tensor, last.tensors[f"ema.average.{name}"]), name
    if kind == "delay":
        codes = loaded.generate(loaded.tokenizer.encode("red ships."), max_frames=5)
        assert codes.shape[:2] == (1, 2)


@pytest.mark.parametrize("delays", [[0, 0, 0], [0, 1, 1]])
def test_a_run_with_delays_of_its_own(base: list[str], tmp_path: Path, delays: list[int]) -> None:
    words = [*base, "--output", str(tmp_path / "run"), "--steps", "3", "--model.delays", str(delays)]
    assert train_lm.main(words) == 0
    loaded = load_lm(tmp_path / "run" / "best")
    assert isinstance(loaded.model, DelayLM) and list(loaded.model.pattern.delays) == delays
    assert loaded.generate(loaded.tokenizer.encode("red ships."), max_frames=5).shape[:2] == (1, 3)


def test_no_dev_store_and_a_time_limit(base: list[str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    words = [*base[:4], "--output", str(output), "--time_limit_minutes", "0", "--log_every", "5"]
    assert train_lm.main(words) == 0
    assert [path.name for path in list_checkpoints(output / "checkpoints")] == ["step-00000001"]
    assert load_lm(output / "best").model is not None
    assert [row["step"] for row in JsonlLog(output / "log.jsonl").read()] == [1]
    assert train_lm.main(words) == 0
    assert [row["step"] for row in JsonlLog(output / "log.jsonl").read()] == [1, 2]


def test_what_a_resumed_run_cannot_change_is_refused(base: list[str], tmp_path: Path) -> None:
    words = [*base, "--output", str(tmp_path), "--steps", "1"]
    assert train_lm.main(words) == 0
    with pytest.raises(SoundloomError, match=r"resume auto"):
        train_lm.main([*words, "--resume", "never"])
    with pytest.raises(SoundloomError, match=r"text.model_type.*'char'.*'bpe'"):
        train_lm.main([*words, "--text.model_type", "bpe"])
    with pytest.raises(SoundloomError, match=r"does not fit"):
        train_lm.main([*words, "--model.dim", "32"])
    assert train_lm.main([*words, "--steps", "2", "--optimizer.lr", "1e-4"]) == 0


def test_bad_input_is_one_line_and_exit_code_2(base: list[str], tmp_path: Path, capsys: Any) -> None:
    cases = [
        (["--model.dmi", "3"], "model.dim"),
        (["--store", str(tmp_path / "nope")], "nope"),
        (["--frames_per_batch", "20"], "frames_per_batch is 20"),
        (["--levels", "9"], "levels=9"),
        (["--level_weights", "[1, 2]"], "level_weights"),
        (["--steps", "0"], "steps"),
        (["--model.num_heads", "3"], "heads"),
        (["--workers", "100000"], "workers: must be at most 64"),
        (["--text.spell_probability", "7"], "text.spell_probability"),
    ]
    for words, told in cases:
        assert run(lambda words=words: train_lm.main([*base, "--output", str(tmp_path / "run"), *words])) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ") and told in error


def test_a_bad_step_changes_nothing_and_the_fourth_in_a_row_ends_the_run(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = train_lm.clip_gradients
    seen: list[dict[str, torch.Tensor]] = []
    bad: set[int] = {1, 3}

    def poisoned(parameters: Any, max_norm: float) -> float:
        parameters = list(parameters)
        seen.append({str(i): p.detach().clone() for i, p in enumerate(parameters)})
        if len(seen) - 1 in bad:
            parameters[0].grad[0] = math.nan
        return clip(parameters, max_norm)

    monkeypatch.setattr(train_lm, "clip_gradients", poisoned)
    words = [*base, "--steps", "6", "--save_every", "1", "--output"]
    assert train_lm.main([*words, str(tmp_path / "a")]) == 0
    same = [all(torch.equal(seen[i][k], seen[i + 1][k]) for k in seen[i]) for i in range(5)]
    assert same == [False, True, False, True, False]
    assert len(re.findall(r"step \d skipped.*utt-0-\d+", capsys.readouterr().err)) == 2
    seen.clear()
    bad |= set(range(1, 9))
    with pytest.raises(SoundloomError, match=r"step 4: .*utt-0-"):
        train_lm.main([*words, str(tmp_path / "b")])
    last = read_checkpoint(list_checkpoints(tmp_path / "b" / "checkpoints")[-1])
    assert last.step == 4 and last.facts["bad_steps"] == 3
    assert all(bool(torch.isfinite(tensor).all()) for tensor in last.tensors.values())
    assert (tmp_path / "b" / "log.jsonl").read_text().count("null") <= 3  # only the norms of bad steps


# --- the loss of a step ----------------------------------------------------------------------------------------------


class Cut:
    """A plan of given batches."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def rows(self, number: int) -> np.ndarray:
        return np.arange(len(self.batches[number].ids))

    def frames(self, number: int) -> int:
        batch = self.batches[number]
        return int(batch.lengths.sum() - (0 if batch.prompt_frames is None else batch.prompt_frames.sum()))


def part(batch: Batch, rows: slice) -> Batch:
    T, L = int(batch.lengths[rows].max()), int(batch.text_lengths[rows].max())
    tensors = (batch.text_ids[rows, :L], batch.text_lengths[rows], batch.codes[rows, :, :T], batch.lengths[rows])
    prompt_frames = None if batch.prompt_frames is None else batch.prompt_frames[rows]
    return Batch(*tensors, batch.ids[rows], prompt_frames=prompt_frames)


@pytest.mark.parametrize("prompts", [False, True])
@pytest.mark.parametrize("kind", ["delay", "coarse", "fine"])
def test_gradient_accumulation_equals_the_large_batch(kind: str, prompts: bool) -> None:
    torch.manual_seed(0)
    classes: dict[str, Any] = {
        "delay": (DelayLM, DelayLMConfig),
        "coarse": (CoarseLM, LMConfig),
        "fine": (FineLM, LMConfig),
    }
    levels = 2 if kind == "fine" else 3  # with two levels, the fine model has one to draw
    shape = TransformerConfig(dim=16, num_layers=1, num_heads=2, ffn_dim=32, causal=kind != "fine")
    model_class, config_class = classes[kind]
    model = model_class(config_class(9, levels, 16, 20.0, 2.0, cfg_drop=0.0, transformer=shape))
    lengths, text_lengths = torch.tensor([9, 3, 6, 2, 1]), torch.tensor([4, 2, 3, 0, 1])
    text_ids, codes = torch.randint(9, (5, 4)), torch.randint(16, (5, levels, 9))
    prompt_frames = torch.tensor([4, 0, 1, 0, 0]) if prompts else None
    batch = Batch(text_ids, text_lengths, codes, lengths, [str(i) for i in range(5)], prompt_frames=prompt_frames)
    weights = check_level_weights([1.0, 0.5, 2.0][:levels], kind, levels)

    output = model(batch.text_ids, batch.text_lengths, batch.codes, batch.lengths)
    expected = lm_loss(output, batch.codes, batch.lengths, weights, batch.prompt_frames)
    expected.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for cuts in ([slice(0, 5)], [slice(0, 2), slice(2, 5)], [slice(i, i + 1) for i in range(5)]):
        model.zero_grad()
        batches = [part(batch, rows) for rows in cuts]
        sums = train_step(
            Accelerator(cpu=True),
            model,
            iter(batches),
            Cut(batches),  # type: ignore[arg-type]
            range(len(batches)),
            weights=weights,
            seed=0,
            bf16=False,
        )
        assert sums.loss(weights) == pytest.approx(expected.loss.item(), rel=1e-5)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)


def test_level_weights_are_checked() -> None:
    assert check_level_weights(None, "delay", 3) == [1.0, 1.0, 1.0]
    for weights, kind in [([1.0], "delay"), ([-1.0, 1.0, 1.0], "delay"), ([0.0, 1.0, 1.0], "coarse")]:
        with pytest.raises(SoundloomError, match="level_weights"):
            check_level_weights(weights, kind, 3)
    with pytest.raises(SoundloomError, match="level_weights"):
        check_level_weights([1.0, 0.0, 1.0], "fine", 3)
    sums = LevelSums(torch.tensor([2.0, 0.0, 9.0]), torch.tensor([2.0, 0.0, 3.0]), torch.tensor([1.0, 0.0, 3.0]))
    assert sums.loss([1.0, 5.0, 3.0]) == pytest.approx((1 + 9) / 4)
    assert sums.loss([1.0, 5.0, 3.0], share=0.5) == pytest.approx((0.5 * (1 + 9) + 0.5 * (0.5 + 3)) / 4)
    assert sums.per_level()[::2] == [1.0, 3.0] and math.isnan(sums.per_level()[1])


# --- other processes -------------------------------------------------------------------------------------------------


SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}


def launch(words: list[str], processes: int, sharded: bool = False, **options: Any) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | (SHARDED if sharded else {})
    command = [*launcher, str(SCRIPT), *words]
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300, **options)


def test_the_script_runs_from_anywhere_and_explains_itself(tmp_path: Path) -> None:
    done = launch(["--help"], 1, cwd=tmp_path)
    assert done.returncode == 0 and "configs/lm/delay_heart.yaml" in done.stdout and "frames_per_batch" in done.stdout
    done = launch(["--stor", "x"], 1, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.strip() == "error: settings: unknown key 'stor'; did you mean 'store'?"


@pytest.mark.slow
@pytest.mark.proof("language model: two processes equal one on the joined batch to 1e-5 and resume to the bit")
def test_two_processes_equal_one_and_resume_to_the_bit(base: list[str], tmp_path: Path, record_property: Any) -> None:
    one, two, parts = tmp_path / "one", tmp_path / "two", tmp_path / "parts"
    assert launch([*base, "--output", str(one), "--gradient_accumulation", "2"], 1).returncode == 0
    done = launch([*base, "--output", str(two)], 2)
    assert done.returncode == 0, done.stderr
    a, b = (read_checkpoint(output / "checkpoints" / "step-00000020").tensors for output in (one, two))
    record_property("largest difference of a weight:", worst_difference(a, b))
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-4, atol=1e-5, msg=name)
    # Again in three parts; the time limit ends the first two after one step each.
    for _ in range(2):
        assert launch([*base, "--output", str(parts), "--time_limit_minutes", "0"], 2).returncode == 0
    done = launch([*base, "--output", str(parts)], 2)
    assert done.returncode == 0, done.stderr
    assert_same_end(two, parts)


def worst_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> str:
    return f"{max(float((a[name].double() - b[name].double()).abs().max()) for name in a):.1e}"


@pytest.mark.slow
@pytest.mark.proof("language model under FSDP: two processes equal one to 1e-5 and resume to the bit")
@pytest.mark.parametrize("kind", ["delay", "fine"])
def test_a_sharded_model_learns_what_a_whole_one_does_and_resumes_to_the_bit(
    base: list[str], tmp_path: Path, record_property: Any, kind: str
) -> None:
    """FSDP 2 in two processes on the CPU, against one process on the joined batch."""
    words = [*base, "--model.kind", kind, "--model.dropout", "0", "--validate_batches", "3"]
    one, two, parts = tmp_path / "one", tmp_path / "two", tmp_path / "parts"
    assert launch([*words, "--output", str(one), "--gradient_accumulation", "2"], 1).returncode == 0
    config = str(Path(__file__).parents[2] / "configs" / "accelerate_fsdp.yaml")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launcher, str(SCRIPT), *words, "--output", str(two)]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "sharded over 2 processes" in done.stderr
    a, b = (read_checkpoint(output / "checkpoints" / "step-00000020").tensors for output in (one, two))
    assert a.keys() == b.keys()
    record_property("largest difference of a weight:", worst_difference(a, b))
    for name, tensor in a.items():
        assert tensor.shape == b[name].shape
        torch.testing.assert_close(tensor, b[name], rtol=1e-4, atol=1e-5, msg=name)
    for ours, theirs in zip(JsonlLog(one / "log.jsonl").read(), JsonlLog(two / "log.jsonl").read(), strict=True):
        assert {k: theirs[k] for k in ("loss", "dev_loss") if k in ours} == pytest.approx(
            {k: ours[k] for k in ("loss", "dev_loss") if k in ours}, rel=1e-5
        )
    best = [load_lm(output / "best").model.state_dict() for output in (one, two)]
    for name, tensor in best[0].items():
        torch.testing.assert_close(tensor, best[1][name], rtol=1e-4, atol=1e-5, msg=name)
    for _ in range(2):
        assert launch([*words, "--output", str(parts), "--time_limit_minutes", "0"], 2, sharded=True).returncode == 0
    assert launch([*words, "--output", str(parts)], 2, sharded=True).returncode == 0
    assert_same_end(two, parts)


def test_sharding_that_cannot_be_is_refused(base: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    words = [*base, "--output", str(tmp_path)]
    for name, value, told in [
        ("FSDP_VERSION", "1", "fsdp_version"),
        ("FSDP_OFFLOAD_PARAMS", "true", "offload"),
        ("OMP_NUM_THREADS", "1", "one process"),
    ]:
        with monkeypatch.context() as patch:
            for key, setting in {**SHARDED, name: value}.items():
                patch.setenv(key, setting)
            with pytest.raises(SoundloomError, match=told):
                train_lm.main(words)


@pytest.mark.parametrize("kind", ["delay", "fine"])
def test_activation_checkpointing_changes_nothing_but_memory(base: list[str], tmp_path: Path, kind: str) -> None:
    words = [*base, "--model.kind", kind, "--steps", "4", "--model.num_layers", "2", "--output"]
    assert train_lm.main([*words, str(tmp_path / "plain")]) == 0
    assert train_lm.main([*words, str(tmp_path / "again"), "--activation_checkpointing", "true"]) == 0
    assert_same_end(tmp_path / "plain", tmp_path / "again")


def test_tensorboard_gets_what_the_log_gets(base: list[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train_lm.main([*base, "--output", str(tmp_path), "--steps", "3", "--tensorboard", "true"]) == 0
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    rows = JsonlLog(tmp_path / "log.jsonl").read()
    seen = {event.step: event.value for event in events.Scalars("loss")}
    assert seen == pytest.approx({row["step"]: row["loss"] for row in rows}, rel=1e-5)
    assert {"per_level/0", "dev_loss", "lr", "grad_norm"} <= set(events.Tags()["scalars"])


@pytest.mark.slow
@pytest.mark.proof("SIGTERM saves and ends within 10 s")
def test_sigterm_to_one_of_two_processes_saves_and_ends_both(
    base: list[str], tmp_path: Path, record_property: Any
) -> None:
    words = [*base, "--output", str(tmp_path), "--steps", "100000", "--validate_every", "0"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.Popen(
        [*launcher, str(SCRIPT), *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if re.match(r"step 5/", line):
            process.send_signal(signal.SIGTERM)
            sent = time.monotonic()
            break
    rest = process.stderr.read()
    process.wait(60)
    seconds = time.monotonic() - sent
    record_property("seconds, of two processes of train_lm:", f"{seconds:.1f}")
    assert seconds < 10
    assert "stopped by SIGTERM, saved after step" in rest
    last = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
    assert last.step >= 5
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"] == last.step
