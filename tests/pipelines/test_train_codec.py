"""Training of the codec: it learns, resumes to the bit, survives bad steps, and keeps codes where it must."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import pipelines.train_codec as program
from codec import SoundloomError
from codec.audio.files import write_audio
from codec.common.distributed import alike_over_processes
from codec.model import Codec
from codec.quantize import VectorQuantizer
from pipelines.command_line.run import run
from pipelines.training import quality_clips
from pipelines.training.checkpoints import load_checkpoint
from pipelines.training.codec_crops import AugmentSettings, Crops, Source

TINY = """
codec:
  spectral: {window: 192, hop: 48, decoder_window: 192, lookahead: 144, latent_dim: 8, encoder_dim: 16,
    encoder_blocks: 1, bottleneck_dim: 16, bottleneck_blocks: 1, decoder_dim: 16, decoder_blocks: 1, kernel: 3}
  quantizer: {num_levels: 3, codebook_size: 16}
discriminators: {windows: [256], stft_channels: 2, periods: [2], period_channels: 2}
optimizer: {lr: 3e-3, schedule: wsd, warmup_steps: 2, beta1: 0.8, beta2: 0.95, weight_decay: 0.01}
batch_size: 2
segment_seconds: 0.2
quantizer_start: 4
kmeans_batches: 4
discriminator_start: 8
ema_decay: 0.9
bf16: false
dev_crops: 2
validate_levels: [1, 3]
validate_every: 6
log_every: 1
threads: 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("codec")
    generator = torch.Generator().manual_seed(0)
    for i in range(4):
        time = torch.arange(16000) / 16000
        tone = sum(torch.sin(2 * torch.pi * 110 * (i + 1) * k * time) / k for k in range(1, 8))
        write_audio(root / "audio" / f"{i}.wav", 0.1 * tone + 0.01 * torch.randn(16000, generator=generator), 16000)
    (root / "tiny.yaml").write_text(TINY)
    return root


def train(folder: Path, output: str, *more: str) -> int:
    source = json.dumps([{"path": str(folder / "audio")}])
    words = ["--config", str(folder / "tiny.yaml"), "--sources", source, "--dev_sources", source]
    return program.main([*words, "--output", str(folder / output), *more])


def state_of(folder: Path, output: str) -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(folder / output / "checkpoints")
    assert checkpoint is not None
    return checkpoint.tensors


def losses_of(folder: Path, output: str) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / output / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["mel"] for row in rows if "mel" in row}


def test_it_resumes_to_the_bit_through_all_phases(folder: Path) -> None:
    faster = ("--losses.balance_every", "3", "--losses.discriminator_seconds", "0.15")
    assert train(folder, "whole", "--steps", "12", *faster) == 0
    for steps in ("3", "7", "10", "12"):  # before and after the quantizer and the discriminators enter
        assert train(folder, "parts", "--steps", steps, "--optimizer.schedule", "cosine") == 0
    assert train(folder, "parts2", "--steps", "12", "--time_limit_minutes", "0.0001", *faster) == 0
    assert load_checkpoint(folder / "parts2" / "checkpoints").step == 1
    for _ in range(2):
        assert train(folder, "parts2", "--steps", "12", *faster) == 0
    whole, parts = state_of(folder, "whole"), state_of(folder, "parts2")
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    assert losses_of(folder, "whole") == losses_of(folder, "parts2")
    assert {row for row in losses_of(folder, "parts")} == set(range(1, 13))


def test_it_leaves_a_codec_that_opens_and_a_log(folder: Path) -> None:
    train(folder, "opens", "--steps", "12")
    codec = Codec.from_pretrained(folder / "opens" / "best")
    assert codec.encode(torch.randn(1, 1, 2400)).shape == (1, 3, 25)
    rows = [json.loads(line) for line in (folder / "opens" / "log.jsonl").read_text().splitlines()]
    assert any("discriminator" in row for row in rows)
    report = [row for row in rows if "mel_by_levels" in row][-1]
    assert set(report["mel_by_levels"]) == {"1", "3"} and len(report["usage"]) == 3
    assert report["effective_rank"] > 1


def test_it_learns(folder: Path) -> None:
    train(folder, "learns", "--steps", "80", "--quantizer_start", "20", "--discriminator_start", "1000")
    losses = losses_of(folder, "learns")
    assert sum(losses[i] for i in range(75, 81)) < 0.7 * sum(losses[i] for i in range(1, 7))


def test_a_sick_codec_raises_the_alarm(folder: Path, monkeypatch, capsys) -> None:
    def collapse(self: VectorQuantizer, *words: object, **more: object) -> int:
        self.codebook[:] = 0.01
        return 0

    monkeypatch.setattr(VectorQuantizer, "start", collapse)
    monkeypatch.setattr(VectorQuantizer, "update", collapse)
    assert train(folder, "sick", "--steps", "6") == 0
    told = capsys.readouterr().err
    assert "ALARM perplexity: levels [0, 1, 2]" in told and "k-means" in told
    assert "ALARM energy" in told


def test_discriminators_that_do_not_learn_raise_the_alarm(folder: Path, monkeypatch, capsys) -> None:
    words = ["--steps", "40", "--discriminator_start", "5", "--validate_every", "40", "--optimizer.lr", "1e-5"]
    assert train(folder, "idle", *words, "--discriminator_lr", "1e-12") == 0
    assert "ALARM discriminators: " in capsys.readouterr().err
    assert train(folder, "busy", *words, "--discriminator_lr", "1e-2") == 0
    assert "ALARM discriminators" not in capsys.readouterr().err
    row = [json.loads(line) for line in (folder / "busy" / "log.jsonl").read_text().splitlines()][-1]
    assert {"score_real", "score_fake", "feature", "share_adversarial", "share_feature"} <= row.keys()


def test_quality_of_validation_clips_is_logged_where_a_predictor_is_there(folder: Path, monkeypatch, capsys) -> None:
    class Loudness:
        def __call__(self, wave: torch.Tensor, sample_rate: int) -> float:
            assert wave.shape == (1, 8 * sample_rate)
            return float(wave.square().mean().sqrt())

    monkeypatch.setattr(quality_clips, "open_predictor", Loudness)
    words = ["--steps", "6", "--quality_clips", "2"]
    assert train(folder, "scored", *words) == 0
    row = [json.loads(line) for line in (folder / "scored" / "log.jsonl").read_text().splitlines()][-1]
    assert set(row["distillmos"]) == {"1", "3"} and row["distillmos_original"] > 0

    def missing() -> None:
        raise ImportError("no module distillmos")

    monkeypatch.setattr(quality_clips, "open_predictor", missing)
    assert train(folder, "unscored", *words) == 0
    assert "DistillMOS is not available" in capsys.readouterr().err
    plain = state_of(folder, "unscored")
    assert all(torch.equal(value, plain[name]) for name, value in state_of(folder, "scored").items())


def test_a_decoder_alone_keeps_every_code(folder: Path) -> None:
    train(folder, "first", "--steps", "8")
    start = folder / "first" / "best"
    train(folder, "decoder", "--steps", "6", "--start_from", str(start), "--decoder_only", "true")
    before, after = Codec.from_pretrained(start), Codec.from_pretrained(folder / "decoder" / "best")
    assert before.fingerprint == after.fingerprint
    codes = before.encode(torch.randn(1, 1, 2400))
    assert not torch.equal(before.decode(codes), after.decode(codes))


def test_a_bad_step_changes_nothing_and_three_end_it(folder: Path, monkeypatch, capsys) -> None:
    train(folder, "bad", "--steps", "6")
    before = state_of(folder, "bad")
    real = Crops.batch

    def broken(self: Crops, step: int, rank: int | None = None) -> tuple[torch.Tensor, list[str]]:
        wave, names = real(self, step, rank)
        return (wave if step < 6 else wave * float("nan")), names

    monkeypatch.setattr(Crops, "batch", broken)
    train(folder, "bad", "--steps", "7")
    after = state_of(folder, "bad")
    assert ".wav" in capsys.readouterr().err
    assert [n for n in before if n.startswith(("codec.", "ema.average")) and not torch.equal(before[n], after[n])] == []
    with pytest.raises(SoundloomError, match="not finite"):
        train(folder, "bad", "--steps", "20")


#: the discriminators enter at the last step: their gradients are compared, since Adam makes whole steps of the noise in
#: those that cancel out (a hinge loss that all scores are inside of does not depend on a bias)
LAST_STEP = ("--steps", "11", "--discriminator_start", "10")


def assert_close_state(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> str:
    worst = 0.0
    assert a.keys() == b.keys() and any(name.startswith("judge_optimizer.exp_avg.") for name in a)
    for name, tensor in a.items():
        if name.startswith(("codec.", "ema.", "judge_optimizer.exp_avg.")):
            worst = max(worst, float((tensor.double() - b[name].double()).abs().max()))
            torch.testing.assert_close(tensor, b[name], rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    return f"{worst:.1e}"


def test_gradient_accumulation_is_the_large_batch(folder: Path) -> None:
    """In every phase, though codebooks, balance and whitening are no sums over clips."""
    words = [*LAST_STEP]
    assert train(folder, "large", *words, "--batch_size", "6") == 0
    assert train(folder, "parts3", *words, "--batch_size", "2", "--gradient_accumulation", "3") == 0
    assert_close_state(state_of(folder, "large"), state_of(folder, "parts3"))
    for step, loss in losses_of(folder, "large").items():
        assert losses_of(folder, "parts3")[step] == pytest.approx(loss, rel=1e-5)


def test_activation_checkpointing_changes_nothing_but_memory(folder: Path) -> None:
    words = ["--steps", "10"]
    assert train(folder, "plain", *words) == 0
    assert train(folder, "checkpointed", *words, "--activation_checkpointing", "true") == 0
    a, b = state_of(folder, "plain"), state_of(folder, "checkpointed")
    assert a.keys() == b.keys() and [name for name in a if not torch.equal(a[name], b[name])] == []


def test_tensorboard_gets_what_the_log_gets(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train(folder, "board", "--steps", "6", "--tensorboard", "true") == 0
    events = EventAccumulator(str(folder / "board"))
    events.Reload()
    seen = {event.step: event.value for event in events.Scalars("mel")}
    assert seen == pytest.approx(losses_of(folder, "board"), rel=1e-5)
    assert {"mel_by_levels/1", "usage/0", "lr"} <= set(events.Tags()["scalars"])


def launch(folder: Path, output: str, processes: int, *more: str) -> None:
    source = json.dumps([{"path": str(folder / "audio")}])
    words = ["--config", str(folder / "tiny.yaml"), "--sources", source, "--dev_sources", source]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    done = subprocess.run(
        check=False,
        args=[*launcher, str(Path(program.__file__)), *words, "--output", str(folder / output), *more],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.proof("codec: two processes equal one on the joined batch to 1e-5 and resume to the bit")
def test_two_processes_equal_one_and_resume_to_the_bit(folder: Path, record_property: Any) -> None:
    words = [*LAST_STEP]
    launch(folder, "one", 1, *words, "--batch_size", "4")
    launch(folder, "two", 2, *words)
    record_property(
        "largest difference of a weight:", assert_close_state(state_of(folder, "one"), state_of(folder, "two"))
    )
    for step, loss in losses_of(folder, "one").items():
        assert losses_of(folder, "two")[step] == pytest.approx(loss, rel=1e-5)
    for _ in range(2):  # the time limit ends each after one step
        launch(folder, "two-parts", 2, *words, "--time_limit_minutes", "0.00001")
    launch(folder, "two-parts", 2, *words)
    whole, parts = state_of(folder, "two"), state_of(folder, "two-parts")
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def compare_in_process(rank: int, port: int, results: Any) -> None:
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    module = torch.nn.BatchNorm1d(4)
    same = alike_over_processes(module)
    if rank == 1:  # one bit of one number
        module.running_mean.view(torch.int32)[2] ^= 1
    results[rank] = (same, alike_over_processes(module))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_that_differ_in_a_bit_are_seen() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = torch.multiprocessing.Manager().dict()
    torch.multiprocessing.spawn(compare_in_process, (port, results), nprocs=2)
    assert dict(results) == {0: (True, False), 1: (True, False)}


def test_a_codec_is_not_sharded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SoundloomError, match="without FSDP"):
        train(folder, "sharded", "--steps", "1")


@pytest.mark.slow
@pytest.mark.proof("SIGTERM saves and ends within 10 s")
def test_sigterm_saves_and_ends(folder: Path, record_property: Any) -> None:
    source = json.dumps([{"path": str(folder / "audio")}])
    words = ["--config", str(folder / "tiny.yaml"), "--sources", source, "--dev_sources", source]
    words += ["--output", str(folder / "term"), "--steps", "100000", "--validate_every", "100000"]
    command = [sys.executable, str(Path(program.__file__)), *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 5/"):
            process.send_signal(signal.SIGTERM)
            sent = time.monotonic()
            break
    rest = process.stderr.read()
    assert process.wait(60) == 143 and "SIGTERM" in rest
    seconds = time.monotonic() - sent
    record_property("seconds, of train_codec:", f"{seconds:.1f}")
    assert seconds < 10
    checkpoint = load_checkpoint(folder / "term" / "checkpoints")
    assert checkpoint is not None and checkpoint.step >= 5


def test_an_unknown_key_names_the_nearest(folder: Path, capsys) -> None:
    assert run(lambda: train(folder, "x", "--optimizer.lrr", "1")) == 2
    assert "optimizer.lr" in capsys.readouterr().err
    assert not (folder / "x").exists()


@pytest.mark.parametrize(
    "words, told",
    [
        (["--decoder_only", "true"], "start_from"),
        (["--sources", '[{"path": "nowhere"}]'], "nowhere"),
        (["--sources", "[]"], "sources"),
    ],
)
def test_bad_settings_are_one_clear_error(folder: Path, words: list[str], told: str) -> None:
    with pytest.raises(SoundloomError, match=told):
        train(folder, "y", *words)


def test_a_corpus_is_one_word_and_part_of_it_is_held_out(folder: Path, monkeypatch, capsys) -> None:
    words = ["--config", str(folder / "tiny.yaml"), "--output", str(folder / "corpus"), "--steps", "5"]
    assert program.main([*words, "--corpus", str(folder / "audio"), f"--corpus={folder / 'audio'}"]) == 0
    told = capsys.readouterr().err
    assert "done after step 5 of 5; codec in" in told and "next: python pipelines/evaluate_codec.py" in told
    train_files, dev_files = (
        {path.name for path in Crops([Source(str(folder / "audio"), split=split, held_out=0.25)], 16000, 1, 1, 0)
        .sources[0].paths}
        for split in ("train", "dev")
    )  # fmt: skip
    assert len(train_files) == 3 and len(dev_files) == 1 and not train_files & dev_files
    with pytest.raises(SoundloomError, match="not both"):
        program.main([*words, "--corpus", str(folder / "audio"), "--sources", "[]"])
    with pytest.raises(SoundloomError, match="--corpus: name a folder"):
        program.main([*words, "--corpus"])
    with pytest.raises(SoundloomError, match="nowhere: not a folder"):
        program.main([*words, "--corpus", "nowhere"])


@pytest.mark.parametrize(
    "words, told",
    [
        (["--validate_levels", "[0]"], "validate_levels"),
        (["--losses.mel", "-1"], "losses: no weight"),
        (["--threads", "100000000000"], "threads: must be at most"),
        (["--discriminators.windows", "[]", "--discriminators.periods", "[]"], "discriminators: name"),
        (["--discriminators.windows", "[0]"], "discriminators: windows"),
        (["--discriminators.periods", "[0]"], "discriminators: windows"),
        (["--segment_seconds", "1e9"], "segment_seconds"),
        (["--output", " "], "output"),
        (["--kmeans_batches", "0"], "kmeans_batches"),
    ],
)
def test_values_out_of_range_are_refused_before_any_work(folder: Path, words: list[str], told: str) -> None:
    with pytest.raises(SoundloomError, match=told):
        train(folder, "range", *words)
    assert not (folder / "range").exists()


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """A finished run of six steps."""
    train(folder, "finished", "--steps", "6", "--save_every", "3")
    return folder / "finished"


def edit_facts(run_folder: Path, **changes: Any) -> None:
    """Change a checkpoint's facts and its record with them, as someone would who knows what he does."""
    for path in (run_folder / "checkpoints").iterdir():
        facts = json.loads((path / "facts.json").read_text()) | changes
        (path / "facts.json").write_text(json.dumps(facts))
        record = json.loads((path / "record.json").read_text())
        data = (path / "facts.json").read_bytes()
        record["files"]["facts.json"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (path / "record.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"settings": [1]}, "'settings'"),
        ({"balancer": {"mel": "x"}}, "'balancer'"),
        ({"seconds": "a"}, "'seconds'"),
        ({"bad_steps": True}, "'bad_steps'"),
        ({"kind": "lm"}, "another kind of training"),
    ],
)
def test_a_checkpoint_that_was_edited_or_is_of_another_training_is_named(
    finished: Path, tmp_path: Path, folder: Path, changes: dict[str, Any], told: str
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    edit_facts(tmp_path / "run", **changes)
    with pytest.raises(SoundloomError, match=told):
        train(folder, str(tmp_path / "run"), "--steps", "7")


@pytest.mark.parametrize("line", ["[1]", "[" * 100_000, '{"step": "x", "mel": "a"}', "\0", '{"step": 1e400}'])
def test_a_log_that_was_edited_does_not_stop_a_run(finished: Path, tmp_path: Path, folder: Path, line: str) -> None:
    shutil.copytree(finished, tmp_path / "run")
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write(line + "\n")
    assert train(folder, str(tmp_path / "run"), "--steps", "7") == 0


def test_what_was_deleted_comes_back_and_what_is_in_the_way_is_named(
    finished: Path, tmp_path: Path, folder: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    shutil.rmtree(output / "best")
    (output / "log.jsonl").unlink()
    assert train(folder, str(output), "--steps", "6") == 0  # nothing left to do but this
    assert Codec.from_pretrained(output / "best").num_levels == 3
    shutil.rmtree(output / "checkpoints" / "step-00000006")
    assert train(folder, str(output), "--steps", "6") == 0
    (output / "log.jsonl").unlink(missing_ok=True)
    (output / "log.jsonl").mkdir()
    with pytest.raises(SoundloomError, match=r"log.jsonl: is no plain file"):
        train(folder, str(output), "--steps", "7")
    (tmp_path / "file").write_text("x")
    with pytest.raises(SoundloomError, match="cannot be made a folder"):
        train(folder, str(tmp_path / "file"), "--steps", "1")


def test_crops_are_a_function_of_the_step_and_processes_share_a_batch(folder: Path) -> None:
    def crops(count: int, rank: int = 0, world: int = 1) -> Crops:
        return Crops([Source(str(folder / "audio"))], 16000, 0.1, count, 3, AugmentSettings(), rank, world)

    whole, names = crops(4).batch(17)
    again, _ = crops(4).batch(17)
    assert torch.equal(whole, again) and whole.shape == (4, 1, 1600) and len(names) == 4
    assert not torch.equal(whole, crops(4).batch(18)[0])
    shares = [crops(2, rank, 2).batch(17)[0] for rank in range(2)]
    assert torch.equal(torch.stack([shares[0][0], shares[1][0], shares[0][1], shares[1][1]]), whole)
    assert whole.abs().max() <= 1
