"""The codec doctor: each detector finds the fault that was put in, and all are silent on a codec that works."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from codec.health.survey import Finding, Survey, effective_rank, judge_log, judge_survey, judge_weights, survey
from codec.health.trials import overfit, straight_through
from codec.losses import MelLoss, whitening_loss
from codec.metrics import alive_share, attainable_perplexity, codebook_use, expected_usage
from codec.model import Codec, CodecConfig
from codec.quantize import Quantized, QuantizerConfig, ResidualVectorQuantizer
from codec.spectral import SpectralConfig

RATE = 16_000
SHAPE = SpectralConfig(
    window=320, hop=160, decoder_window=320, lookahead=160, stride=1, latent_dim=12, encoder_dim=32, encoder_blocks=1,
    bottleneck_dim=32, bottleneck_blocks=1, decoder_dim=32, decoder_blocks=2, kernel=3,
)  # fmt: skip


def sounds(count: int, seed: int) -> Tensor:
    """Half a second each of gliding harmonics with formants that wander, and a breath of noise: [count, 1, N]."""
    generator = torch.Generator().manual_seed(seed)
    n = RATE // 2
    time = torch.arange(n) / RATE
    draw = torch.rand(count, 6, generator=generator)[..., None]
    hertz = 90 * 2 ** (2 * draw[:, 0] + (draw[:, 1] - 0.5) * time)
    phase = 2 * torch.pi * hertz.cumsum(1) / RATE
    centre = 500 + 2500 * draw[:, 2] + 1500 * (draw[:, 3] - 0.5) * torch.sin(2 * torch.pi * 3 * time)
    wave = sum(
        torch.sin(k * phase) * torch.exp(-(((k * hertz - centre) / 600) ** 2)) + torch.sin(k * phase) / (3 * k)
        for k in range(1, 16)
    )
    noise = torch.randn(count, n, generator=generator) * draw[:, 4] * 0.3
    swell = 0.2 + torch.sin(torch.pi * (time * 3 + draw[:, 5])).abs()
    return (0.12 * swell * (wave + noise))[:, None]


@pytest.fixture(scope="module")
def healthy() -> Codec:
    """A tiny codec, trained until every level adds: its codebooks from k-means, then moved by their averages."""
    torch.manual_seed(0)
    quantizer = QuantizerConfig(num_levels=4, codebook_size=32, decay=0.9)
    codec = Codec(CodecConfig(sample_rate=RATE, spectral=SHAPE, quantizer=quantizer)).train()
    codec.quantizer.active.fill_(False)
    mel = MelLoss(RATE)
    optimizer = torch.optim.AdamW(codec.parameters(), 4e-3, betas=(0.8, 0.95))
    for step in range(100):
        wave = sounds(8, step)
        if step == 40:
            with torch.no_grad():
                latent = torch.cat([codec.encoder(sounds(8, 1000 + i)) for i in range(6)])
            codec.quantizer.start(latent.transpose(1, 2).flatten(0, 1))
        latent = codec.encoder(wave)
        quantized = codec.quantizer(latent)
        loss = mel(codec.decoder(quantized.latent)[..., : wave.shape[-1]], wave)
        optimizer.zero_grad()
        (loss + 0.1 * quantized.commitment + 0.1 * whitening_loss(latent)).backward()
        nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
    optimizer.zero_grad()
    return codec.eval()


@pytest.fixture()
def patient(healthy: Codec) -> Codec:
    return copy.deepcopy(healthy)


def examined(codec: Codec) -> Survey:
    return survey(codec, MelLoss(RATE), sounds(24, 7).split(8), range(1, codec.num_levels + 1))


def sick(findings: Sequence[Finding]) -> set[str]:
    assert all(one.advice for one in findings if one.status == "sick")
    return {one.detector for one in findings if one.status == "sick"}


def test_a_codec_that_works_is_well_in_every_respect(healthy: Codec) -> None:
    before = {name: value.clone() for name, value in healthy.state_dict().items()}
    found = examined(healthy)
    clip = sounds(1, 5)
    findings = [*judge_survey(found), judge_weights(healthy), straight_through(healthy, clip), overfit(healthy, clip)]
    assert [one for one in findings if one.status != "well"] == []
    assert found.frames == 24 * 50 and found.latent_dim == 12
    assert all(gain > 0.5 for gain in found.gain_decibels)
    # the trials worked on copies
    assert all(torch.equal(value, before[name]) for name, value in healthy.state_dict().items())
    assert not healthy.training and all(value.grad is None for value in healthy.parameters())


def test_a_collapsed_codebook(patient: Codec) -> None:
    codebook = patient.quantizer.levels[0].codebook
    codebook[:] = codebook[0]
    found = examined(patient)
    assert {"usage", "perplexity"} <= sick(judge_survey(found))
    assert found.dead[0] == 31 and found.perplexity[0] == pytest.approx(1)


def test_half_of_a_codebook_dead(patient: Codec) -> None:
    patient.quantizer.levels[0].codebook[16:] = 1e4
    findings = judge_survey(examined(patient))
    assert sick(findings) == {"usage"}
    assert "levels [0]" in next(one.measured for one in findings if one.detector == "usage")


def test_levels_that_add_nothing(patient: Codec) -> None:
    for level in patient.quantizer.levels[2:]:
        level.codebook.zero_()
    assert {"energy", "gain in sound"} <= sick(judge_survey(examined(patient)))


def test_levels_whose_codes_are_all_used_and_add_nothing(patient: Codec) -> None:
    generator = torch.Generator().manual_seed(0)
    for level in patient.quantizer.levels[1:]:
        level.codebook.copy_(1e-4 * torch.randn(level.codebook.shape, generator=generator))
    found = examined(patient)
    findings = judge_survey(found)
    assert min(found.usage) > 0.8
    assert sick(findings) == {"energy", "gain in sound"}
    assert "levels [1, 2, 3] use their codes and still add nothing" in findings[2].measured


def test_a_decoder_that_does_not_hear_the_later_levels(patient: Codec) -> None:
    class Deaf(ResidualVectorQuantizer):
        def decode(self, codes: Tensor) -> Tensor:
            return super().decode(codes[:, :2])

    patient.quantizer.__class__ = Deaf
    assert sick(judge_survey(examined(patient))) == {"gain in sound"}


def test_a_latent_of_rank_three(patient: Codec) -> None:
    class Flat(type(patient.encoder)):
        def forward(self, *words: object) -> Tensor:
            return super().forward(*words) * (torch.arange(12) < 3).float()[:, None]

    patient.encoder.__class__ = Flat
    found = examined(patient)
    assert "effective rank" in sick(judge_survey(found))
    assert found.effective_rank <= 3.01


@pytest.mark.parametrize("fault", ["detached", "halved"])
def test_a_straight_through_estimator_that_is_none(patient: Codec, fault: str) -> None:
    class Broken(ResidualVectorQuantizer):
        def forward(self, latent: Tensor, generator: torch.Generator | None = None) -> Quantized:
            out = super().forward(latent, generator)
            wrong = (
                out.latent.detach() if fault == "detached" else out.latent.detach() + 0.5 * (latent - latent.detach())
            )
            return dataclasses.replace(out, latent=wrong)

    patient.quantizer.__class__ = Broken
    found = straight_through(patient, sounds(1, 5))
    assert found.status == "sick" and "detaches or scales" in found.advice


def test_an_encoder_that_is_cut_off(patient: Codec) -> None:
    class Cut(type(patient.encoder)):
        def forward(self, *words: object) -> Tensor:
            return super().forward(*words).detach()

    patient.encoder.__class__ = Cut
    assert "encoder" in straight_through(patient, sounds(1, 5)).advice
    assert "encoder" in overfit(patient, sounds(1, 5)).measured


def test_a_frozen_decoder(patient: Codec) -> None:
    patient.decoder.requires_grad_(False)
    found = overfit(patient, sounds(1, 5))
    assert found.status == "sick" and "decoder moved" in found.measured


def test_a_dead_decoder(patient: Codec) -> None:
    class Dead(type(patient.decoder)):
        def forward(self, *words: object) -> Tensor:
            return 0.0 * super().forward(*words)

    patient.decoder.__class__ = Dead
    assert straight_through(patient, sounds(1, 5)).status == "sick"
    assert overfit(patient, sounds(1, 5)).status == "sick"


def test_a_codec_that_moves_and_does_not_learn(patient: Codec) -> None:
    class Clipped(type(patient.decoder)):
        def forward(self, *words: object) -> Tensor:
            return super().forward(*words).clamp(-1e-3, 1e-3)

    patient.decoder.__class__ = Clipped
    found = overfit(patient, sounds(1, 5))
    assert found.status == "sick" and "learn nothing" in found.advice


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_and_buffers_that_are_not_finite(patient: Codec, value: float) -> None:
    patient.quantizer.levels[1].total[3, 0] = value
    assert "quantizer.levels.1.total" in judge_weights(patient).measured
    with torch.no_grad():
        next(patient.decoder.parameters()).view(-1)[0] = value
    found = judge_weights(patient)
    assert found.status == "sick" and "decoder." in found.measured
    assert examined(patient).frames  # and the examination of such a codec does not crash


def duel(wins: float, start: float, end: float, rows: int = 40) -> list[dict[str, object]]:
    return [
        {
            "step": i,
            "mel": 0.2,
            "adversarial": start + (end - start) * i / rows,
            "discriminator": 2 * (1 - wins),
            "discriminator_wins": wins,
        }
        for i in range(rows)
    ]


def test_discriminators_that_learn_nothing_are_seen_by_features_and_scores_and_not_by_the_hinge_loss() -> None:
    def rows(gap: float, rise: float, count: int = 40, scores: bool = True) -> list[dict[str, float]]:
        made = []
        for step in range(count):
            row = {"step": step, "discriminator": 2 - gap, "discriminator_wins": 0.45, "adversarial": 0.4}
            row |= {"score_real": -0.4 + gap, "score_fake": -0.4} if scores else {}
            made.append(row | {"feature": 0.15 * (1 + rise * step / count)})
        return made

    assert sick(judge_log(rows(0.001, 0.02))) == {"discriminators"}
    assert sick(judge_log(rows(0.001, 0.02, scores=False))) == {"discriminators"}  # an older log
    assert sick(judge_log(rows(0.1, 1.0))) == set()  # figures of a training that works: hinge loss 1.9
    assert sick(judge_log(rows(0.001, 1.0))) == set()  # the codec keeps up with them
    assert sick(judge_log(rows(0.1, 0.02))) == set()
    assert sick(judge_log(rows(0.001, 0.02, count=12))) == set()  # too early to say


def test_discriminators_that_win_for_good() -> None:
    assert sick(judge_log(duel(0.99, 0.8, 1.2))) == {"discriminators"}
    assert sick(judge_log(duel(0.99, 1.0, 1.0))) == {"discriminators"}
    assert sick(judge_log(duel(0.99, 1.2, 0.6))) == set()  # they win, and the codec catches up
    assert sick(judge_log(duel(0.7, 0.1, 0.2))) == set()  # a fair game
    assert judge_log(duel(0.99, 0.8, 1.2, rows=5))[1].status == "not judged"
    assert judge_log([])[0].status == "well"


def test_a_log_with_steps_that_are_not_finite() -> None:
    rows = duel(0.7, 0.1, 0.2, rows=200)
    rows[50]["mel"] = None  # what the log writes for NaN: one skipped step, long ago
    assert sick(judge_log(rows)) == set()
    rows[199]["mel_by_levels"] = {"1": math.nan}
    assert sick(judge_log(rows)) == {"finite log"}
    often = [row | {"grad_norm": None} if i % 20 == 0 else row for i, row in enumerate(rows[:180])]
    assert sick(judge_log(often)) == {"finite log"}


def test_before_the_quantizer_starts_there_is_nothing_to_judge(patient: Codec) -> None:
    patient.quantizer.active.fill_(False)
    found = examined(patient)
    assert found.usage == [] and found.mel_by_levels == {} and found.mel_unquantized is not None
    assert {one.status for one in judge_survey(found)} == {"not judged", "well"}
    assert straight_through(patient, sounds(1, 5)).status == "not judged"


def test_what_few_frames_can_show() -> None:
    """Against draws: equally likely codes, and log-normal ones, of which few frames do not meet all."""
    generator = torch.Generator().manual_seed(0)
    for frames in (100, 1000, 20_000):
        counts = torch.bincount(torch.randint(256, (frames,), generator=generator), minlength=256)
        assert attainable_perplexity(frames, 256) == pytest.approx(codebook_use(counts[None])[0].perplexity, rel=0.1)
    share = torch.softmax(1.2 * torch.randn(1024, generator=generator), 0)
    perplexity = math.exp(-float((share * share.log()).sum()))
    for frames in (1000, 5000, 50_000):
        drawn = torch.multinomial(share, frames, replacement=True, generator=generator)
        seen = float((torch.bincount(drawn, minlength=1024) > 0).float().mean())
        assert expected_usage(perplexity, frames, 1024) == pytest.approx(seen, abs=0.04)
    assert expected_usage(300, 2000, 1024) == pytest.approx(0.48, abs=0.01)
    assert expected_usage(300, 50_000, 1024) == pytest.approx(0.95, abs=0.01)


def test_alive_codes_are_told_from_those_seen_once_and_twice() -> None:
    assert alive_share(torch.tensor([9, 7, 8, 0])) == 0.75  # all that occur occur often: the fourth is dead
    assert alive_share(torch.tensor([4, 1, 1, 1, 2, 0, 0, 0])) == pytest.approx((5 + 3 * 2 / 4) / 8)


def test_effective_rank_of_what_is_not_finite_is_not_a_number() -> None:
    assert math.isnan(effective_rank(torch.full((1, 4, 9), math.nan)))
