"""A training that begins from a text model: its weights, its shape, and an exact resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lm_store import write_store
from train_lm_runs import CONFIG, assert_same_end, quick, stop_after  # noqa: F401 - quick is a fixture

from codec.errors import SoundloomError
from lm import load_lm
from lm.config import TransformerConfig
from lm.llama import TextModel, save_text_model
from lm.transformer import Transformer
from pipelines import train_lm
from pipelines.training.checkpoints import list_checkpoints, read_checkpoint

SHAPE = TransformerConfig(
    dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=24, rope_theta=500.0, norm_eps=1e-6,
    qk_norm=True, head_size=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, a configuration and a text model."""
    folder = tmp_path_factory.mktemp("start")
    lines = [line for line in CONFIG.splitlines() if not line.startswith("model:")]
    (folder / "config.yaml").write_text("\n".join([*lines, "model: {kind: delay, dropout: 0.1}"]))
    write_store(folder / "store", 20)
    torch.manual_seed(5)
    save_text_model(folder / "text", TextModel(torch.randn(9, 16), Transformer(SHAPE), None))
    return folder


def words(place: Path, output: Path, *more: str) -> list[str]:
    common = ["--config", str(place / "config.yaml"), "--store", str(place / "store"), "--output", str(output)]
    return [*common, "--model.start_from", str(place / "text"), "--steps", "6", *more]


def test_it_begins_with_the_text_models_weights(place: Path, tmp_path: Path) -> None:
    assert train_lm.main(words(place, tmp_path, "--steps", "1", "--optimizer.lr", "1e-30", "--ema_decay", "0")) == 0
    model = load_lm(tmp_path / "best").model
    assert model.config.transformer == TransformerConfig(**{**vars(SHAPE), "dropout": 0.1})
    torch.manual_seed(5)
    torch.randn(9, 16)
    for name, value in Transformer(SHAPE).state_dict().items():
        assert torch.equal(model.transformer.state_dict()[name], value), name


def test_it_learns_from_there_and_resumes_to_the_bit(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train_lm.main(words(place, whole)) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert train_lm.main(words(place, parts)) == 143
    assert train_lm.main(words(place, parts)) == 0
    assert_same_end(whole, parts)
    trained = read_checkpoint(list_checkpoints(whole / "checkpoints")[-1]).tensors
    key = next(name for name in trained if name.startswith("model") and name.endswith("layers.1.gate_up.weight"))
    torch.manual_seed(5)
    torch.randn(9, 16)
    assert not torch.equal(trained[key], Transformer(SHAPE).layers[1].gate_up.weight)


def test_what_disagrees_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SoundloomError, match=r"model\.num_heads is 4, .* has 2; leave it out"):
        train_lm.main(words(place, tmp_path / "a", "--model.num_heads", "4"))
    with pytest.raises(SoundloomError, match="no text model 'nowhere'"):
        train_lm.main(words(place, tmp_path / "b", "--model.start_from", "nowhere"))
    assert train_lm.main(words(place, tmp_path / "c", "--steps", "1", "--model.num_heads", "2")) == 0
    with pytest.raises(SoundloomError, match=r"model\.start_from: the run in .* began with"):
        train_lm.main(words(place, tmp_path / "c", "--model.start_from", str(tmp_path)))
