"""Guidance distilled into the weights: the teacher's targets, the loss, and a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_models import batch as four_rows
from lm_models import delay_lm
from lm_store import write_store
from train_lm_runs import CONFIG, assert_same_end, history, quick, stop_after  # noqa: F401 - quick is a fixture

from codec.errors import SoundloomError
from lm import load_lm
from lm.data.dataset import Batch
from lm.generation.grid_writer import guided, guided_text
from lm.loss import lm_loss
from lm.prefix import PromptSpan
from lm.step_lm import DelayLM
from pipelines import train_lm
from pipelines.training.lm_settings import DistillSettings
from pipelines.training.lm_teacher import Teacher


def rows() -> Batch:
    """Four rows, the second without text, two of them after a prompt."""
    text_ids, text_lengths, codes, lengths = four_rows()
    span = PromptSpan(torch.tensor([3, 0, 2, 0]), torch.tensor([4, 0, 2, 0]))
    return Batch(text_ids, text_lengths, codes, lengths, list("abcd"), span, torch.tensor([4, 0, 2, 0]))


@torch.no_grad()
def as_generation_does(model: DelayLM, batch: Batch, guidance: float) -> torch.Tensor:
    """Return logits [B, K, T] of the steps of a generation that is given all codes."""
    assert batch.span is not None and batch.prompt_frames is not None
    inputs = model.step_inputs(batch.codes, batch.lengths)
    state = model.start(
        *guided_text(batch.text_ids, batch.text_lengths, guidance), inputs.shape[2], batch.span.repeated(2)
    )
    scores = []
    for s in range(inputs.shape[2]):
        new = inputs[:, :, s : s + 1]
        lost = model.pattern.reads(batch.prompt_frames, s, s + 1)
        hidden = torch.cat([torch.zeros_like(lost), lost]) if model.config.guide_prompt else None
        scores.append(guided(model.advance(state, torch.cat([new, new]), hidden), guidance))
    steps = torch.stack(scores, dim=2)  # [B, K, steps, outputs]
    T = batch.codes.shape[2]
    return torch.stack([steps[:, k, d : d + T] for k, d in enumerate(model.pattern.delays)], dim=1)


@pytest.mark.parametrize("guide_prompt", [False, True])
def test_the_target_is_what_generation_samples_from(guide_prompt: bool) -> None:
    model, batch = delay_lm(guide_prompt=guide_prompt), rows()
    torch.nn.init.normal_(model.hidden_audio)
    target = Teacher(model, DistillSettings(share=1.0, guidance=2.5)).target(batch).scores
    expected = as_generation_does(model, batch, 2.5)
    for row, length in enumerate(batch.lengths.tolist()):
        torch.testing.assert_close(target[row, :, :length], expected[row, :, :length], rtol=1e-3, atol=1e-4)


def test_only_the_first_levels_are_guided() -> None:
    model, batch = delay_lm(), rows()
    plain, one, two = (
        Teacher(model, DistillSettings(1.0, guidance=guidance, guided_levels=levels)).target(batch).scores
        for guidance, levels in ((1.0, 0), (3.0, 1), (3.0, 0))
    )
    assert torch.equal(one[:, 0], two[:, 0]) and not torch.allclose(one[:, 0], plain[:, 0])
    assert torch.equal(one[:, 1:], plain[:, 1:]) and not torch.allclose(two[:, 1:], plain[:, 1:])


@pytest.mark.parametrize(("guidance", "same"), [(1.0, True), (2.0, False)])
def test_a_student_like_the_teacher_has_nothing_to_learn_at_guidance_1(guidance: float, same: bool) -> None:
    model, batch = delay_lm(), rows()
    target = Teacher(delay_lm(), DistillSettings(1.0, guidance=guidance, temperature=0.5)).target(batch)
    output = model(batch.text_ids, batch.text_lengths, batch.codes, batch.lengths, span=batch.span)
    result = lm_loss(output, batch.codes, batch.lengths, None, batch.prompt_frames, target)
    assert (abs(result.loss.item()) < 1e-5) == same and torch.isfinite(result.kl).all()
    plain = lm_loss(output, batch.codes, batch.lengths, None, batch.prompt_frames)
    assert torch.equal(result.per_level, plain.per_level) and not plain.kl.any()


def test_the_divergence_falls() -> None:
    batch, student = rows(), delay_lm()
    target = Teacher(delay_lm(), DistillSettings(0.9, guidance=3.0)).target(batch)
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    found = []
    for _ in range(20):
        output = student(batch.text_ids, batch.text_lengths, batch.codes, batch.lengths, span=batch.span)
        result = lm_loss(output, batch.codes, batch.lengths, None, batch.prompt_frames, target)
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        found.append(result.kl.sum().item())
    assert found[-1] < 0.5 * found[0]


def test_texts_are_hidden_from_student_and_teacher_alike() -> None:
    model, batch = delay_lm(guide_prompt=True), rows()
    teacher = Teacher(model, DistillSettings(1.0, guidance=1.0), hidden_texts=0.999)
    hidden = teacher.hide_texts(batch)
    assert not hidden.text_lengths.any() and batch.text_lengths.any()
    output = model(hidden.text_ids, hidden.text_lengths, hidden.codes, hidden.lengths, span=hidden.span)
    assert float(lm_loss(output, hidden.codes, hidden.lengths, target=teacher.target(hidden)).loss.detach()) < 1e-5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stores and a teacher that knows its text a little."""
    folder = tmp_path_factory.mktemp("distill")
    drops = "dropout: 0.1, audio_drop: 0.1, code_noise: 0.1"
    (folder / "config.yaml").write_text(CONFIG.replace(drops, "cfg_drop: 0.2"))
    write_store(folder / "train", 40)
    write_store(folder / "dev", 6, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.training.loop.plot_curves", lambda *_: False)
        assert train_lm.main(words(folder, folder / "first", "--steps", "60", "--optimizer.lr", "1e-2")) == 0
    return folder


def words(place: Path, output: Path, *more: str) -> list[str]:
    stores = ["--store", str(place / "train"), "--dev_store", str(place / "dev")]
    return ["--config", str(place / "config.yaml"), *stores, "--output", str(output), *more]


def distilled(place: Path, output: Path, *more: str) -> list[str]:
    start = ["--model.start_from", str(place / "first" / "best"), "--distill.share", "0.9", "--distill.guidance", "3"]
    return words(place, output, *start, "--optimizer.lr", "1e-2", *more)


def test_a_run_logs_the_divergence_and_resumes_to_the_bit(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train_lm.main(distilled(place, whole)) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert train_lm.main(distilled(place, parts)) == 143
    assert train_lm.main(distilled(place, parts)) == 0
    assert_same_end(whole, parts)
    assert all(len(row["kl_per_level"]) == 3 and min(row["kl_per_level"]) > 0 for row in history(whole))
    assert load_lm(whole / "best").model.config.cfg_drop == 0


def test_what_cannot_teach_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SoundloomError, match=r"distill.share: needs distill.teacher"):
        train_lm.main(words(place, tmp_path / "a", "--distill.share", "1"))
    with pytest.raises(SoundloomError, match=r"model.kind is fine"):
        train_lm.main(distilled(place, tmp_path / "b", "--model.kind", "fine"))
    with pytest.raises(SoundloomError, match=r"shipped: its num_levels|shipped.*is"):
        train_lm.main(distilled(place, tmp_path / "c", "--distill.teacher", "shipped"))
    cases: list[tuple[str, Any]] = [("share", 2), ("guidance", -1), ("guided_levels", -1), ("temperature", 0)]
    for name, value in cases:
        with pytest.raises(SoundloomError, match=f"distill.{name}"):
            DistillSettings(**{name: value})
