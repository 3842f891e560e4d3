"""A training that begins from a language model of ours, on the same codec's grids and on another's."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_models import coarse_fine_lm, delay_lm
from lm_store import FACTS, grid, sentence, write_rows
from train_lm_runs import CONFIG, quick  # noqa: F401 - a fixture

from codec.errors import SoundloomError
from codec.store.reader import StoreReader
from lm import load_lm
from lm.transfer_codes import code_tables, count_pairs, recode
from pipelines import train_lm

OTHER = replace(FACTS, fingerprint="another-codec")
K, V = FACTS.num_levels, FACTS.codebook_size
TURNED = np.stack([np.random.default_rng(k).permutation(V) for k in range(K)])  # old code -> new code, by level


def turned(codes: np.ndarray) -> np.ndarray:
    """The grid [T, K] that the other codec would give."""
    return np.stack([TURNED[k][codes[:, k]] for k in range(K)], axis=1).astype(np.int16)


def write(folder: Path, seed: int, count: int, other: bool = False) -> Path:
    rng = random.Random(seed)
    texts = [sentence(rng) for _ in range(count)]
    rows = [(f"utt-{seed}-{i}", text, turned(grid(text)) if other else grid(text)) for i, text in enumerate(texts)]
    return write_rows(folder, rows, OTHER if other else FACTS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stores by two codecs and a model trained on the first's."""
    folder = tmp_path_factory.mktemp("tune")
    (folder / "config.yaml").write_text(
        CONFIG.replace("dropout: 0.1, audio_drop: 0.1, code_noise: 0.1", "dropout: 0.0")
    )
    for name, seed, count in (("train", 0, 60), ("dev", 1, 8)):
        write(folder / name, seed, count)
        write(folder / f"{name}2", seed, count, other=True)
    assert train_lm.main(words(folder, folder / "first", "", "--steps", "60")) == 0
    return folder


def words(place: Path, output: Path, which: str, *more: str) -> list[str]:
    stores = ["--store", str(place / f"train{which}"), "--dev_store", str(place / f"dev{which}")]
    return ["--config", str(place / "config.yaml"), *stores, "--output", str(output), *more]


def start(place: Path, *more: str) -> list[str]:
    """Begin from the first model and hardly move."""
    still = ["--steps", "1", "--optimizer.lr", "1e-30", "--ema_decay", "0"]
    return ["--model.start_from", str(place / "first" / "best"), *still, *more]


def dev_loss(folder: Path) -> float:
    return json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["dev_loss"]


def test_it_begins_with_all_of_the_model(place: Path, tmp_path: Path) -> None:
    assert train_lm.main(words(place, tmp_path, "", *start(place))) == 0
    first, second = load_lm(place / "first" / "best"), load_lm(tmp_path / "best")
    assert vars(first.model.config) == vars(second.model.config)  # the text's clock too
    for name, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
    assert first.tokenizer.encode("seven ships") == second.tokenizer.encode("seven ships")


def test_a_delay_model_begins_with_the_first_levels_of_another(place: Path, tmp_path: Path) -> None:
    assert train_lm.main(words(place, tmp_path, "", *start(place, "--levels", "1"))) == 0
    whole, cut = load_lm(place / "first" / "best").model, load_lm(tmp_path / "best").model
    assert cut.config.num_levels == 1 < whole.config.num_levels
    for name, value in cut.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name][: len(value)]), name
    assert train_lm.main(words(place, tmp_path, "", *start(place, "--levels", "1", "--steps", "2"))) == 0  # and resumes
    assert load_lm(tmp_path / "best").model.config.num_levels == 1
    with pytest.raises(SoundloomError, match=r"0 levels wanted; the model has levels 1 to"):
        whole.first_levels(0)


def test_another_codecs_codes_are_translated(place: Path, tmp_path: Path) -> None:
    assert train_lm.main(words(place, tmp_path / "new", "2", "--steps", "1", "--optimizer.lr", "1e-30")) == 0
    grids = ["--start_grids", str(place / "train")]
    assert train_lm.main(words(place, tmp_path / "moved", "2", *start(place, *grids))) == 0
    before = min(json.loads(x).get("dev_loss", 9) for x in (place / "first" / "log.jsonl").read_text().splitlines())
    fresh, moved = dev_loss(tmp_path / "new"), dev_loss(tmp_path / "moved")
    assert before < fresh - 0.5  # else the rest would show nothing
    assert moved == pytest.approx(before, abs=0.05 * (fresh - before))


def test_what_does_not_fit_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SoundloomError, match=r"codes of another codec .* give start_grids"):
        train_lm.main(words(place, tmp_path / "a", "2", *start(place)))
    with pytest.raises(SoundloomError, match=r"start_grids: .* is not by the codec of"):
        train_lm.main(words(place, tmp_path / "b", "2", *start(place, "--start_grids", str(place / "train2"))))
    with pytest.raises(SoundloomError, match=r"start_grids: needs model\.start_from"):
        train_lm.main(words(place, tmp_path / "x", "", "--start_grids", str(place / "train")))
    with pytest.raises(SoundloomError, match=r"model\.kind is coarse, .* is delay"):
        train_lm.main(words(place, tmp_path / "c", "", *start(place, "--model.kind", "coarse")))
    with pytest.raises(SoundloomError, match=r"text\.tokenizer: leave it out"):
        tokenizer = ["--text.tokenizer", str(place / "first" / "best")]
        train_lm.main(words(place, tmp_path / "d", "", *start(place, *tokenizer)))
    with pytest.raises(SoundloomError, match=r"model\.dim is 32, .* has 16; leave it out"):
        train_lm.main(words(place, tmp_path / "e", "", *start(place, "--model.dim", "32")))


@pytest.mark.parametrize("kind", ["delay", "coarse", "fine"])
def test_every_table_is_translated(kind: str) -> None:
    model = delay_lm() if kind == "delay" else getattr(coarse_fine_lm(), kind)
    V, K = model.config.codebook_size, model.config.num_levels
    old = [(k, table.detach().clone()) for k, table in code_tables(model)]
    rest = {
        name: value.clone() for name, value in model.state_dict().items() if name not in ("code_embedding", "heads")
    }
    turn = np.stack([np.random.default_rng(k).permutation(V) for k in range(K)])
    counts = np.zeros((K, V, V), np.int64)
    for k in range(K):
        counts[k, turn[k], np.arange(V)] = 10**9
    recode(model, counts)
    for (k, before), (_, after) in zip(old, code_tables(model), strict=True):
        torch.testing.assert_close(after[torch.from_numpy(turn[k])], before, atol=1e-5, rtol=0)
    assert {k for k, _ in old} == ({0} if kind == "coarse" else set(range(K)))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in rest.items())


def test_pairs_are_counted_by_id(tmp_path: Path) -> None:
    old = [("a", "", np.array([[1, 2, 3], [1, 2, 3]])), ("b", "", np.array([[4, 4, 4]])), ("c", "", np.zeros((1, 3)))]
    new = [("b", "", np.array([[7, 7, 7]])), ("c", "", np.zeros((2, 3))), ("a", "", np.array([[5, 6, 7], [5, 0, 7]]))]
    old, new = ([(n, t, g.astype(np.int16)) for n, t, g in rows] for rows in (old, new))
    stores = StoreReader(write_rows(tmp_path / "old", old)), StoreReader(write_rows(tmp_path / "new", new, OTHER))
    counts = count_pairs(*stores)
    assert counts.sum((1, 2)).tolist() == [3, 3, 3]  # c has other lengths
    assert counts[0, 5, 1] == 2 and counts[1, 6, 2] == counts[1, 0, 2] == 1 and counts[2, 7, 4] == 1
    with pytest.raises(SoundloomError, match="share no recording"):
        count_pairs(StoreReader(write_rows(tmp_path / "x", [("x", "", old[0][2])])), stores[1])
