"""DelayLM, CoarseLM and FineLM in training: alignment, what may depend on what, padding, loss, learning."""

from __future__ import annotations

import pytest
import torch
from lm_models import CODES, LEVELS, batch, coarse_fine_lm, delay_lm, written
from torch import nn

from codec.errors import SoundloomError
from lm.generation.request import GenerateConfig
from lm.loss import LMOutput, lm_loss


def test_audio_gradient_is_causal() -> None:
    """Scores of frame t have no gradient from inputs that hold frames >= t at the same or a higher level."""
    model = delay_lm()
    text, text_lengths, codes, lengths = (x[:1] for x in batch())
    held: list[torch.Tensor] = []
    embed = model.embed
    model.embed = lambda inputs: held.append(embed(inputs).detach().requires_grad_()) or held[-1]  # type: ignore
    logits = model(text, text_lengths, codes, lengths).logits
    for t in (0, 4, 9):
        for k in range(LEVELS):
            (gradient,) = torch.autograd.grad(logits[0, k, t].square().sum(), held[0], retain_graph=True)
            assert gradient[0, t + k + 1 :].abs().sum() == 0
            assert (gradient[0, : t + k + 1].abs().amax(1) > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["delay", "coarse", "fine"])
def test_padding_and_neighbours_change_nothing(kind: str) -> None:
    pair = coarse_fine_lm()
    model = {"delay": delay_lm(), "coarse": pair.coarse, "fine": pair.fine}[kind]
    options = {"level": 2} if kind == "fine" else {}
    text, text_lengths, codes, lengths = batch()
    wild = text.clone()
    for b in range(4):
        wild[b, text_lengths[b] :] = 19 - b
        codes[b, :, lengths[b] :] = b
    together = model(wild, text_lengths, codes, lengths, **options)
    for b in range(4):
        n, m = int(text_lengths[b]), int(lengths[b])
        alone = model(
            text[b : b + 1, :n], text_lengths[b : b + 1], codes[b : b + 1, :, :m], lengths[b : b + 1], **options
        )
        size = alone.mask.shape[2]
        assert torch.equal(alone.mask[0], together.mask[b, :, :size]) and not together.mask[b, :, size:].any()
        torch.testing.assert_close(alone.logits[0], together.logits[b, :, :size], rtol=1e-4, atol=1e-5)


def test_masks_count_every_code_and_one_end() -> None:
    text, text_lengths, codes, lengths = batch()
    mask = delay_lm()(text, text_lengths, codes, lengths).mask
    assert torch.equal(mask.sum(-1), torch.stack([lengths + 1, lengths, lengths], 1))
    assert coarse_fine_lm().coarse(text, text_lengths, codes, lengths).mask.shape == (4, 1, 10)
    fine = coarse_fine_lm().fine(text, text_lengths, codes, lengths, 1)
    assert torch.equal(fine.mask.sum(-1)[:, 0], lengths) and fine.first_level == 1


@torch.no_grad()
def test_fine_sees_all_frames_below_its_level_and_none_above() -> None:
    model = coarse_fine_lm().fine
    text, codes = torch.randint(0, 20, (1, 4)), torch.randint(0, CODES, (1, LEVELS, 5))
    lengths = torch.tensor([4]), torch.tensor([5])
    base = model(text, lengths[0], codes, lengths[1], 1).logits
    for level in range(LEVELS):
        other = codes.clone()
        other[0, level, 3] = (other[0, level, 3] + 1) % CODES
        changed = (model(text, lengths[0], other, lengths[1], 1).logits - base)[0, 0].abs().amax(-1) > 0
        assert changed.all() if level == 0 else not changed.any()
    with pytest.raises(SoundloomError, match="level 3"):
        model(text, lengths[0], codes, lengths[1], 3)


def test_fine_draws_its_level_from_the_generator() -> None:
    model = coarse_fine_lm().fine
    levels = [model(*batch(), generator=torch.Generator().manual_seed(s)).first_level for s in range(20)]
    assert set(levels) == {1, 2}
    again = [model(*batch(), generator=torch.Generator().manual_seed(s)).first_level for s in range(20)]
    assert levels == again


def test_loss_against_a_plain_loop() -> None:
    text, text_lengths, codes, lengths = batch()
    output = delay_lm()(text, text_lengths, codes, lengths)
    weights = [2.0, 1.0, 0.5]
    result = lm_loss(output, codes, lengths, weights)
    log_p = output.logits.log_softmax(-1)
    means = []
    for k in range(LEVELS):
        terms = []
        for b in range(4):
            terms += [-log_p[b, k, t, codes[b, k, t]] for t in range(int(lengths[b]))]
            terms += [-log_p[b, 0, int(lengths[b]), CODES]] if k == 0 else []
        assert len(terms) == int(result.counts[k])
        means.append(torch.stack(terms).mean())
    torch.testing.assert_close(result.per_level, torch.stack(means).detach())
    torch.testing.assert_close(result.loss, sum(w * m for w, m in zip(weights, means, strict=True)) / 3.5)
    with pytest.raises(SoundloomError, match="level_weights"):
        lm_loss(output, codes, lengths, [1.0])


def test_a_prompt_can_be_left_out_of_the_loss() -> None:
    text, text_lengths, codes, lengths = batch()
    output = delay_lm()(text, text_lengths, codes, lengths)
    prompt_frames = torch.tensor([0, 1, 2, 0])
    result = lm_loss(output, codes, lengths, prompt_frames=prompt_frames)
    whole = lm_loss(output, codes, lengths)
    assert (whole.counts - result.counts).tolist() == [3] * LEVELS
    log_p = output.logits.log_softmax(-1)
    missing = -(log_p[1, 1, 0, codes[1, 1, 0]] + sum(log_p[2, 1, t, codes[2, 1, t]] for t in range(2)))
    left = whole.per_level[1] * whole.counts[1] - missing.detach()
    torch.testing.assert_close(result.per_level[1] * result.counts[1], left)


def test_loss_of_a_fine_level_takes_its_own_codes() -> None:
    codes, lengths = torch.tensor([[[1, 1], [2, 3]]]), torch.tensor([2])
    logits = torch.zeros(1, 1, 2, 5)
    logits[0, 0, 0, 2] = logits[0, 0, 1, 3] = 50
    output = LMOutput(logits, torch.ones(1, 1, 2, dtype=torch.bool), first_level=1)
    assert lm_loss(output, codes, lengths).loss < 1e-6


def test_drops_come_from_the_generator_and_only_in_training() -> None:
    model = delay_lm(cfg_drop=0.5, audio_drop=0.3, code_noise=0.2)
    assert torch.equal(model(*batch()).logits, model(*batch()).logits)
    model.train()
    first, second, other = (model(*batch(), generator=torch.Generator().manual_seed(s)).logits for s in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


@torch.no_grad()
def test_without_text_the_null_prefix_stands() -> None:
    model = delay_lm(cfg_drop=0.999999)
    text, text_lengths, codes, lengths = batch()
    empty = model(text, torch.zeros_like(text_lengths), codes, lengths).logits
    model.train()
    torch.testing.assert_close(model(text, text_lengths, codes, lengths).logits, empty)
    model.eval()
    torch.testing.assert_close(model(text[:, :0], torch.zeros_like(text_lengths), codes, lengths).logits, empty)


@torch.no_grad()
def test_a_row_without_text_loses_its_prompt_too() -> None:
    model = delay_lm(cfg_drop=0.999999, guide_prompt=True)
    text, text_lengths, codes, lengths = batch()
    other = codes.clone()
    other[:, :, :2] = (other[:, :, :2] + 1) % CODES
    prompt = torch.tensor([0, 2, 2, 2])
    for training in (True, False):
        model.train(training)
        first, second = (model(text, text_lengths, c, lengths, prompt_frames=prompt).logits for c in (codes, other))
        same = [torch.equal(a[:, 2:], b[:, 2:]) for a, b in zip(first, second, strict=True)]
        assert same == [False, *[training] * 3]
    plain = delay_lm(cfg_drop=0.999999).train()
    first, second = (plain(text, text_lengths, c, lengths, prompt_frames=prompt).logits for c in (codes, other))
    assert not torch.equal(first[1], second[1])  # only where the config says so


@torch.no_grad()
def test_a_hidden_span_begins_where_the_prompt_ends() -> None:
    model = delay_lm(span_drop=0.999999).train()
    given, generator = torch.tensor([0, 3, 5, 0]), torch.Generator().manual_seed(0)
    spans = [model._lost_span(4, 60, given, generator, given) for _ in range(50)]
    lost = torch.stack([span for span in spans if span is not None])  # [50, 4, 60]
    assert len(lost) == 50 and lost.any(2).all()
    least, most = (int(seconds * model.config.frame_rate) for seconds in (0.2, 1.2))
    for row in (1, 2):
        first = int(given[row]) + LEVELS
        assert not lost[:, row, :first].any() and lost[:, row, first : first + least].all()
    sizes = lost.sum(2)
    assert least <= int(sizes[:, 1].min()) < int(sizes[:, 1].max()) <= most and int(sizes.max()) <= most
    assert len(lost[:, 0].int().argmax(1).unique()) > 10  # anywhere, where there is no prompt
    assert model.eval()._lost_span(4, 60, given, generator, given) is None


@torch.no_grad()
def test_hidden_steps_are_those_that_read_the_prompt() -> None:
    model = delay_lm(guide_prompt=True)
    text, text_lengths, codes, lengths = batch()
    scores = []
    for change in (0, 1):
        changed = codes.clone()
        changed[1, :, :3] = (changed[1, :, :3] + change) % CODES
        state = model.start(text, text_lengths, 9)
        frames = torch.tensor([0, 3, 0, 0])
        scores.append(
            model.advance(state, model.step_inputs(changed, lengths)[:, :, :9], model.pattern.reads(frames, 0, 9))
        )
    assert model.pattern.reads(frames, 4, 8).tolist()[1] == [s < 3 + LEVELS for s in range(4, 8)]
    assert torch.equal(*scores)
    with pytest.raises(AssertionError):
        state = model.start(text, text_lengths, 9)
        torch.testing.assert_close(model.advance(state, model.step_inputs(codes, lengths)[:, :, :9]), scores[0])


@torch.no_grad()
def test_steps_equal_the_whole() -> None:
    model = delay_lm()
    text, text_lengths, codes, lengths = batch()
    whole = model(text, text_lengths, codes, lengths).logits
    inputs = model.step_inputs(codes, lengths)
    for chunk in (1, 3):
        state = model.start(text, text_lengths, inputs.shape[2])
        for s in range(chunk - 1, inputs.shape[2], chunk):
            logits = model.advance(state, inputs[:, :, s - chunk + 1 : s + 1])
            for k in range(LEVELS):
                if 0 <= s - k < whole.shape[2]:
                    torch.testing.assert_close(logits[:, k], whole[:, k, s - k], rtol=1e-4, atol=1e-5)


def test_attention_maps_look_at_text() -> None:
    maps = delay_lm().attention_maps(torch.arange(6), torch.randint(0, CODES, (LEVELS, 5)))
    assert maps.shape == (2, 4, 5, 6) and (maps > 0).all() and (maps.sum(-1) < 1).all()


def learn(model: nn.Module, data: tuple[torch.Tensor, ...], steps: int) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(steps):
        loss = lm_loss(model(*data), data[2], data[3]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return float(loss.detach())


@pytest.mark.parametrize("kind", ["delay", "pair"])
def test_learns_a_tiny_batch_by_heart(kind: str) -> None:
    text, text_lengths, codes, lengths = batch()
    data = text, text_lengths, codes, lengths
    if kind == "delay":
        model = delay_lm()
        assert learn(model, data, 150) < 0.05
    else:
        model = coarse_fine_lm()
        assert learn(model.coarse, data, 150) < 0.05
        assert learn(model.fine, data, 250) < 0.1
    config = GenerateConfig(temperature=0.0, max_frames=30, min_frames=1)
    result = written(model, text, text_lengths, config=config)
    assert result.finish_reasons == ["end"] * 4 and torch.equal(result.lengths, lengths)
    for b in range(4):
        assert torch.equal(result.row(b), codes[b, :, : lengths[b]])
