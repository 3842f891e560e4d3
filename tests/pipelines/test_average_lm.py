"""The mean of language models: weight by weight, and only of models that fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from voice_helpers import save_lms, tiny_codec, tiny_lms, tiny_tokenizer

from codec.errors import SoundloomError
from codec.store.reader import StoreFacts
from lm.checkpoint import load_lm, save_lm
from pipelines import average_lm


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models: delay and other (one shape), coarse (another kind)."""
    folder = tmp_path_factory.mktemp("models")
    codec = tiny_codec()
    save_lms(folder, codec)
    other = tiny_lms(codec, folder / "text", seed=1)["delay"]
    save_lm(folder / "other", other, tiny_tokenizer(folder / "text"), StoreFacts.of(codec))
    return folder


def test_each_weight_is_the_mean_by_the_shares(place: Path, tmp_path: Path) -> None:
    models = [str(place / "delay"), str(place / "other")]
    assert average_lm.main([*models, "-o", str(tmp_path / "mean"), "--shares", "3,1"]) == 0
    first, second, mean = (load_lm(folder).model.state_dict() for folder in (*models, tmp_path / "mean"))
    for name, value in mean.items():
        torch.testing.assert_close(value, 0.75 * first[name] + 0.25 * second[name], rtol=0, atol=1e-6)
    assert average_lm.main([*models, "-o", str(tmp_path / "half")]) == 0
    half = load_lm(tmp_path / "half").model.state_dict()
    assert all(torch.allclose(half[n], (first[n] + second[n]) / 2, atol=1e-6) for n in half)


def test_models_that_do_not_fit_are_refused(place: Path, tmp_path: Path) -> None:
    delay, coarse = str(place / "delay"), str(place / "coarse")
    for words, match in (
        ([delay], "two models or more"),
        ([delay, coarse], "have no mean"),
        ([delay, delay, "--shares", "1"], "expected 2 numbers"),
        ([delay, delay, "--shares", "1,x"], "expected 2 numbers"),
        ([delay, delay, "--shares", "1,-1"], "none below 0"),
        ([delay, str(place / "nothing")], "nothing"),
    ):
        with pytest.raises(SoundloomError, match=match):
            average_lm.main([*words, "-o", str(tmp_path / "x")])
    with pytest.raises(SoundloomError, match="exists already"):
        average_lm.main([delay, delay, "-o", str(tmp_path)])
