"""Checkpoints are whole or absent, settings are strict, and the helpers of every training do what they say."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from codec.common.seeds import seed_step, stable_seed
from codec.errors import SoundloomError
from pipelines.command_line.progress import Progress
from pipelines.command_line.settings import changed_settings, flatten_settings, parse_settings
from pipelines.training import checkpoints
from pipelines.training.bad_steps import BadSteps
from pipelines.training.checkpoints import (
    list_checkpoints,
    load_checkpoint,
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
    read_checkpoint,
    save_checkpoint,
)
from pipelines.training.curves import Panel, _curves, plot_curves
from pipelines.training.ema import Ema
from pipelines.training.log import JsonlLog
from pipelines.training.optimizer import OptimizerSettings, clip_gradients, lr_factor, make_adamw, set_learning_rate
from pipelines.training.recompute import recompute_activations
from pipelines.training.stopping import StopFlag


class TiedNet(nn.Module):
    """Two matrices of which one is tied, a bias and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3, bias=False)
        self.tied.weight = self.inner.weight
        self.register_buffer("count", torch.zeros(1, dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tied(torch.relu(self.inner(x)))


def train_steps(net: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        seed_step(0, step)
        loss = net(torch.randn(4, 3)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_optimizer_and_model_continue_to_the_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = OptimizerSettings()
    whole = TiedNet()
    parts = TiedNet()
    parts.load_state_dict(whole.state_dict())
    whole_optimizer, parts_optimizer = make_adamw(whole, settings), make_adamw(parts, settings)
    train_steps(whole, whole_optimizer, 0, 9)
    train_steps(parts, parts_optimizer, 0, 4)
    save_checkpoint(tmp_path, 4, module_tensors(parts, "model") | optimizer_tensors(parts_optimizer, parts), {"a": 1})

    resumed = TiedNet()
    optimizer = make_adamw(resumed, settings)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 4 and checkpoint.facts == {"a": 1}
    load_module(resumed, checkpoint.tensors, "model")
    load_optimizer(optimizer, resumed, checkpoint.tensors)
    train_steps(resumed, optimizer, 4, 9)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_two_are_kept_and_leftovers_are_collected(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        (tmp_path / ".tmp-step-killed-99").mkdir()
        save_checkpoint(tmp_path, step, {"x": torch.ones(2)}, {})
    assert [path.name for path in tmp_path.iterdir()] and [p.name for p in list_checkpoints(tmp_path)] == [
        "step-00000002",
        "step-00000003",
    ]
    assert not list(tmp_path.glob(".tmp-*"))


DAMAGES = ["flip", "truncate", "missing", "record", "empty record", "nested record", "endless record"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path, 1, {"x": torch.ones(2)}, {})
    newest = save_checkpoint(tmp_path, 2, {"x": torch.zeros(2)}, {})
    state, record = newest / "state.safetensors", newest / "record.json"
    content = state.read_bytes()
    if damage == "flip":
        state.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncate":
        state.write_bytes(content[:-1])
    elif damage == "missing":
        state.unlink()
    else:
        texts = {"record": "{", "empty record": "{}", "nested record": '{"step": 2, "files": []}'}
        record.write_text(texts.get(damage, '{"step": 1e999, "files": {}}'))
    told: list[str] = []
    checkpoint = load_checkpoint(tmp_path, told.append)
    assert checkpoint is not None and checkpoint.step == 1 and torch.equal(checkpoint.tensors["x"], torch.ones(2))
    assert len(told) == 1 and "step-00000002" in told[0]
    with pytest.raises(SoundloomError, match="step-00000002"):
        read_checkpoint(newest)
    save_checkpoint(tmp_path, 2, {"x": torch.ones(1)}, {})  # written anew in place of the broken one
    assert read_checkpoint(newest).tensors["x"].shape == (1,)


def test_no_whole_checkpoint_is_an_error_and_none_at_all_is_not(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "absent") is None
    path = save_checkpoint(tmp_path, 1, {"x": torch.ones(2)}, {})
    (path / "facts.json").unlink()
    with pytest.raises(SoundloomError, match="none of its 1"):
        load_checkpoint(tmp_path, lambda message: None)


def test_a_full_disk_costs_the_new_checkpoint_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, {"x": torch.ones(2)}, {})

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(SoundloomError, match="No space left"):
        save_checkpoint(tmp_path, 2, {"x": torch.ones(2)}, {}, keep=1)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 1
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_kill_between_write_and_rename_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, {"x": torch.ones(2)}, {})

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 2, {"x": torch.ones(2)}, {}, keep=1)
    monkeypatch.undo()
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 1
    save_checkpoint(tmp_path, 2, {"x": torch.ones(2)}, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    tensors = module_tensors(TiedNet(), "model")
    with pytest.raises(SoundloomError, match="does not fit"):
        load_module(nn.Linear(3, 3), tensors, "model")
    with pytest.raises(SoundloomError, match="does not have"):
        load_optimizer(make_adamw(TiedNet(), OptimizerSettings()), TiedNet(), {"optimizer.exp_avg.x": torch.ones(1)})
    with pytest.raises(SoundloomError, match="ema"):
        Ema(TiedNet(), 0.9).load({"ema.average.x": torch.ones(1), "ema.updates": torch.tensor(1)})


# --- settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A model.

    Args:
        kind: which.
        dim: width.
    """

    kind: Literal["delay", "coarse"] = "delay"
    dim: int = 128


@dataclass(frozen=True)
class Settings:
    """A run.

    Args:
        store: a folder.
        steps: how many.
        model: the model.
        optimizer: its optimizer.
        bf16: fast and rough.
        weights: one a level.
    """

    store: str
    steps: int = 3
    model: Shape = field(default_factory=Shape)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    bf16: bool = True
    weights: list[float] | None = None


def parse(tmp_path: Path, text: str, *words: str) -> Settings:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return parse_settings(Settings, ["--config", str(path), *words])


def test_settings_are_typed_and_the_command_line_wins(tmp_path: Path) -> None:
    text = "store: a\noptimizer: {lr: 1e-4}\nmodel: {dim: 64, kind: coarse}\nbf16: no\nweights: [1e-1, 2]\n"
    settings = parse(tmp_path, text, "--model.dim", "256")
    assert settings == Settings("a", 3, Shape("coarse", 256), OptimizerSettings(lr=1e-4), False, [0.1, 2.0])
    assert isinstance(settings.optimizer.lr, float)
    assert flatten_settings(settings)["optimizer.lr"] == 1e-4
    changed = changed_settings(flatten_settings(settings), flatten_settings(parse(tmp_path, text)))
    assert changed == {"model.dim": (256, 64)}


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("store: a\nmodle: {dim: 3}", (), r"'modle'; did you mean 'model'"),
        ("store: a\nmodel: {dmi: 3}", (), r"'model.dmi'; did you mean 'model.dim'"),
        ("store: a\nlr: 3", (), r"'lr'; did you mean 'optimizer.lr'"),
        ("store: a\nzzz: 3", (), r"'zzz'; valid keys: store, steps, model"),
        ("store: a", ("--model.dmi", "3"), r"'model.dmi'; did you mean 'model.dim'"),
        ("store: a", ("--model.di", "3"), r"'model.di'; did you mean 'model.dim'"),
        ("store: a\nmodel: {dim: 3.5}", (), r"model.dim.*int.*3.5"),
        ("store: a\nmodel: {dim: true}", (), r"model.dim"),
        ("store: a\nbf16: 3", (), r"bf16.*bool.*3"),
        ("store: a\nmodel: {kind: no}", (), r"model.kind"),
        ("store: a\nmodel: 3", (), r"model"),
        ("store: a\noptimizer: {lr: fast}", (), r"optimizer.lr.*float"),
        ("store: a\noptimizer: {lr: .nan}", (), r"optimizer.lr.*finite"),
        ("store: a\noptimizer: {lr: -1.0}", (), r"lr.*over 0"),
        ("bf16: true", (), r"store"),
        ("store: 12", (), r"store.*str"),
        ("store: [a\n", (), r"config.yaml: not valid YAML"),
        ("- a\n", (), r"config.yaml: must hold"),
    ],
)
def test_bad_settings_name_the_key_and_what_would_be_right(
    tmp_path: Path, text: str, words: tuple[str, ...], told: str
) -> None:
    with pytest.raises(SoundloomError, match=told):
        parse(tmp_path, text, *words)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SoundloomError, match=r"nope.yaml"):
        parse_settings(Settings, [f"--config={tmp_path / 'nope.yaml'}"])


REFUSED = [
    ("store: 2020-99-99", "valid YAML|str"),
    ("steps: 010", "'010' is not a plain decimal"),
    ("steps: 1:30", "'1:30' is not a plain decimal"),
    ("steps: 0x_", "not a plain decimal"),
    ("steps: 0b_", "not a plain decimal"),
    ("steps: 1_000", "not a plain decimal"),
    ("steps: !!int x", "tags"),
    ("store: !!timestamp foo", "tags"),
    ("store: !!python/object/apply:os.system ['true']", "tags"),
    ("steps: " + "9" * 5000, "more than 18 digits"),
    ("store: " + "[" * 5000, "nested more than 20"),
    ("store: " + "{a: " * 3000, "nested more than 20"),
    ("store: &a [x, x]\nweights: *a", "anchors"),
    ("store: a\nstore: b", "'store' is there twice"),
    ("store: a\nmodel: {dim: 3, dim: 4}", "'dim' is there twice"),
    ("? [a]\n: b", "a key must be a word"),
    ("store: a\nmodel: {dim: " + "x" * 5000 + "}", "model.dim"),
    ("store: \x01", "valid YAML"),
]


@pytest.mark.parametrize(("text", "told"), REFUSED, ids=range(len(REFUSED)))
def test_yaml_has_no_surprises_and_no_bombs(tmp_path: Path, text: str, told: str) -> None:
    start = time.monotonic()
    with pytest.raises(SoundloomError, match=told) as caught:
        parse(tmp_path, text)
    assert len(str(caught.value)) < 600 + len(str(tmp_path)) and "\n" not in str(caught.value)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "words", [("--model.dim", "010"), ("--model.dim=1:30",), ("--weights", "[&a [1], *a]"), ("--weights", "[" * 5000)]
)
def test_values_on_the_command_line_are_held_to_the_same(tmp_path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(SoundloomError, match="settings: --"):
        parse(tmp_path, "store: a", *words)


def test_a_word_that_looks_like_a_number_may_be_quoted(tmp_path: Path) -> None:
    assert parse(tmp_path, "store: '010'").store == "010"
    assert parse(tmp_path, "store: a", "--store", "010").store == "010"


@pytest.mark.parametrize("kind", ["folder", "pipe", "large"])
def test_a_settings_file_is_a_small_plain_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "settings.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("#" * (2 << 20))
    with pytest.raises(SoundloomError, match=r"settings.yaml: "):
        parse_settings(Settings, ["--config", str(path)])


# --- steps -----------------------------------------------------------------------------------------------------------


def test_learning_rate_schedules() -> None:
    cosine = OptimizerSettings(schedule="cosine", warmup_steps=10, final_lr_fraction=0.1)
    assert lr_factor(cosine, 0, 100) == pytest.approx(0.1)
    assert lr_factor(cosine, 9, 100) == lr_factor(cosine, 10, 100) == 1.0
    assert lr_factor(cosine, 55, 100) == pytest.approx(0.55)
    assert lr_factor(cosine, 100, 100) == pytest.approx(0.1)
    wsd = OptimizerSettings(schedule="wsd", warmup_steps=10, decay_fraction=0.2, final_lr_fraction=0.0)
    assert [lr_factor(wsd, step, 100) for step in (10, 50, 80, 90, 100)] == pytest.approx([1, 1, 1, 0.5, 0])
    optimizer = make_adamw(TiedNet(), wsd)
    assert set_learning_rate(optimizer, wsd, 90, 100) == pytest.approx(5e-4)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-4, 5e-4])


def test_weight_decay_is_for_matrices_only() -> None:
    groups = make_adamw(TiedNet(), OptimizerSettings()).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.1), (1, 0.0)]


def test_gradients_are_clipped_and_bad_ones_left_alone() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 3.0)
    assert clip_gradients([parameter], 1.0) == pytest.approx(6.0)
    assert float(parameter.grad.norm()) == pytest.approx(1.0, abs=1e-5)
    parameter.grad = torch.tensor([1.0, math.inf, 0.0, 0.0])
    assert not math.isfinite(clip_gradients([parameter], 1.0))
    assert parameter.grad[0] == 1.0


def test_seeds_depend_on_their_parts_only() -> None:
    assert stable_seed(1, 23) != stable_seed(12, 3)
    assert stable_seed(1, 2) == stable_seed(1, 2) < 2**63
    seed_step(5, 7)
    first = torch.randn(2)
    seed_step(5, 8)
    assert not torch.equal(torch.randn(2), first)
    seed_step(5, 7)
    assert torch.equal(torch.randn(2), first)


def test_ema_follows_the_weights_and_steps_aside() -> None:
    net = nn.Linear(1, 1, bias=False)
    ema = Ema(net, 0.5)
    start = net.weight.item()
    with torch.no_grad():
        net.weight.fill_(start + 1)
    ema.update(net)  # decay (1 + 0) / (10 + 0)
    assert float(ema.average["weight"]) == pytest.approx(start + 0.9)
    with ema.applied(net):
        assert net.weight.item() == pytest.approx(start + 0.9)
    assert net.weight.item() == pytest.approx(start + 1)
    other = Ema(nn.Linear(1, 1, bias=False), 0.5)
    other.load(ema.tensors())
    assert other.updates == 1 and torch.equal(other.average["weight"], ema.average["weight"])
    with pytest.raises(SoundloomError, match="ema_decay"):
        Ema(net, 1.0)


def kept_bytes(module: nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Bytes that a forward pass keeps for the backward pass, and the gradient at its input."""
    x = x.clone().requires_grad_()
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept.update({} if storage.data_ptr() in weights else {storage.data_ptr(): storage.nbytes()})
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(x)
    out.square().sum().backward()
    assert x.grad is not None
    return sum(kept.values()), x.grad


def test_blocks_that_compute_again_keep_less_and_give_the_same_gradients() -> None:
    from codec.spectral import ConvNeXtBlock

    blocks = nn.Sequential(*(nn.Sequential(ConvNeXtBlock(8, 3, 3), nn.Dropout(0.2)) for _ in range(4)))
    x = torch.randn(2, 8, 50)
    plain, gradient = kept_bytes(blocks, x)
    names = list(blocks.state_dict())
    assert recompute_activations(blocks, (ConvNeXtBlock,)) == 4 and list(blocks.state_dict()) == names
    twin = copy.deepcopy(blocks)
    again, same = kept_bytes(blocks, x)
    assert torch.equal(gradient, same) and again < 0.5 * plain
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    blocks.eval(), twin.eval()
    assert not torch.equal(twin(x), blocks(x))  # a copy computes with its own weights


def test_bad_steps_are_told_and_the_fourth_in_a_row_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    guard = BadSteps()
    assert guard.ok(True, 0, [])
    for step in (1, 2, 3):
        assert not guard.ok(False, step, ["utt-7"])
    assert "utt-7" in capsys.readouterr().err
    assert BadSteps(in_a_row=3).ok(True, 4, [])
    with pytest.raises(SoundloomError, match=r"step 4.*utt-7"):
        guard.ok(False, 4, ["utt-7"])


def test_signals_and_time_limits_ask_for_a_stop() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopFlag() as stop:
        assert stop.reason is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == before
    with StopFlag(0.0) as stop:
        assert stop.reason == "time limit"
    with pytest.raises(KeyboardInterrupt), StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.reason == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)


# --- logs ------------------------------------------------------------------------------------------------------------


def test_log_lines_are_valid_json_and_rewind(tmp_path: Path) -> None:
    log = JsonlLog(tmp_path / "run" / "log.jsonl")
    for step in (1, 2, 3):
        log.write(step=step, loss=torch.tensor(1 / 3), per_level=[math.nan, 2.0], text="é")
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')  # a kill tore this line
    assert [row["step"] for row in log.read()] == [1, 2, 3]
    assert log.read()[0] == {"step": 1, "loss": pytest.approx(1 / 3, abs=1e-6), "per_level": [None, 2.0], "text": "é"}
    log.rewind(2)
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2]


def test_progress_prints_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, 2) as progress:
        progress.advance(3)
        progress.show(3, {"loss": 1.23456, "epoch": "1"})
    with Progress(10, shown=False) as silent:
        silent.say("nothing")
        silent.show(1, {})
    assert capsys.readouterr().err == "step 3/10  loss 1.235  epoch 1\n"


def test_learning_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [
        {"step": 1, "loss": 2.0, "per_level": [1.0, None]},
        {"step": 2, "loss": None, "nested": {"8": 3.0}},
        {"step": "x", "loss": 1.0},
        {"step": 3, "loss": 1.0, "per_level": "text"},
    ]
    panels = [
        Panel("Loss", ("loss",), ("nested.8",), "lower"),
        Panel("Levels", ("per_level",)),
        Panel("No", ("absent",)),
    ]
    assert plot_curves(rows, tmp_path / "curve.png", panels)
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert not plot_curves(rows, tmp_path / "none.png", [panels[2]])
    assert _curves(rows, panels[0]) == {"training: loss": [(1, 2.0), (3, 1.0)], "validation: nested.8": [(2, 3.0)]}
    assert _curves(rows, panels[1]) == {"training: per_level, level 0": [(1, 1.0)]}
