"""Mel loss, discriminators, balancer, whitening: what each is meant to see, and that nothing else matters."""

from dataclasses import replace

import pytest
import torch

from codec.balancer import Balancer
from codec.common.devices import on_host
from codec.discriminators import DiscriminatorConfig, Discriminators, PeriodDiscriminator
from codec.errors import SoundloomError
from codec.health.survey import effective_rank
from codec.losses import (
    LossWeights,
    MelLoss,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    whitening_loss,
)
from codec.model import Codec, CodecConfig
from codec.quantize import QuantizerConfig
from codec.spectral import SpectralConfig
from pipelines.training.codec_losses import CodecLosses, GeneratorStep, StepMode

SMALL = DiscriminatorConfig(windows=(128, 64), stft_channels=4, periods=(2, 3), period_channels=4)


def test_mel_loss_is_zero_for_equal_waves_and_grows_with_noise() -> None:
    mel = MelLoss(16000, scales=((512, 40), (128, 16)))
    wave = torch.randn(2, 1, 4000) * 0.1
    assert mel(wave, wave) == 0
    noise = torch.randn_like(wave)
    assert 0 < mel(wave + 0.001 * noise, wave) < mel(wave + 0.05 * noise, wave)


def test_mel_loss_hears_a_level_as_its_logarithm() -> None:
    mel = MelLoss(16000, scales=((512, 40),), linear=0.0)
    wave = torch.randn(1, 1, 8000)
    torch.testing.assert_close(mel(wave * 0.1, wave), torch.tensor(1.0), rtol=1e-3, atol=0)


def test_discriminators_learn_to_tell_noise_from_tones() -> None:
    torch.manual_seed(0)
    judges = Discriminators(SMALL)
    optimizer = torch.optim.Adam(judges.parameters(), 3e-3)
    time = torch.arange(1200) / 1200

    def pair() -> tuple[torch.Tensor, torch.Tensor]:
        tones = torch.sin(2 * torch.pi * torch.randint(20, 200, (8, 1, 1)) * time)
        return tones, torch.randn(8, 1, 1200) * 0.7

    for _ in range(30):
        real, fake = pair()
        loss = discriminator_loss(judges(real)[0], judges(fake)[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = pair()
    assert loss < 1.0
    assert adversarial_loss(judges(real)[0]) < adversarial_loss(judges(fake)[0])


def test_a_discriminator_of_mel_patches_learns_texture_and_is_off_by_default() -> None:
    torch.manual_seed(0)
    plain = Discriminators(SMALL)
    torch.manual_seed(0)
    more = Discriminators(replace(SMALL, mel_windows=(1024,), mel_channels=8))
    assert len(more.parts) == len(plain.parts) + 1
    for name, value in plain.state_dict().items():  # it comes last: the others are what they were
        assert torch.equal(more.state_dict()[name], value)
    part = more.parts[-1]
    optimizer = torch.optim.Adam(part.parameters(), 3e-3)
    time = torch.arange(4800) / 24_000
    for _ in range(25):
        harmonics = torch.stack([torch.sin(2 * torch.pi * 150 * k * time) for k in range(1, 30)]).sum(0)
        real = 0.05 * harmonics.expand(4, 1, -1) * torch.rand(4, 1, 1)
        fake = torch.randn(4, 1, 4800) * real.square().mean((1, 2), keepdim=True).sqrt()  # as loud, without lines
        loss = discriminator_loss([part(real)[0]], [part(fake)[0]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1.0
    score, features = part(real)
    assert score.dim() == 4 and score.shape[2] > 2 and score.shape[3] > 2 and len(features) == 4  # a score a patch


def test_feature_matching_is_relative_to_the_size_of_the_features() -> None:
    real = [[torch.randn(2, 3, 4)], [torch.randn(2, 5)]]
    fake = [[x * 1.5 for x in part] for part in real]
    scaled = feature_matching_loss([[10 * x for x in p] for p in real], [[10 * x for x in p] for p in fake])
    torch.testing.assert_close(feature_matching_loss(real, fake), scaled)
    torch.testing.assert_close(scaled, torch.tensor(0.5))


def test_the_balancer_makes_shares_independent_of_scale() -> None:
    gradients = []
    for scale in (1.0, 1000.0):
        wave = torch.tensor([[[1.0, 2.0, 3.0]]], requires_grad=True)
        balancer = Balancer({"mel": 1.0, "wave": 1.0})
        losses = {"mel": wave[..., 0].sum(), "wave": scale * wave[..., 1].sum()}
        gradients.append(balancer.gradient(losses, wave))
    torch.testing.assert_close(gradients[0], torch.tensor([[[0.5, 0.5, 0.0]]]))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_balancer_goes_on_from_its_state() -> None:
    wave = torch.tensor([[[1.0, 2.0]]], requires_grad=True)
    first, again = Balancer({"mel": 1.0}), Balancer({"mel": 1.0})
    first.gradient({"mel": 5 * wave.sum()}, wave)
    again.load(first.state())
    torch.testing.assert_close(first.gradient({"mel": wave.sum()}, wave), again.gradient({"mel": wave.sum()}, wave))


def test_between_measurements_the_balancer_gives_the_same_gradient_in_one_pass() -> None:
    """With norms that do not change, one pass for all losses is the sum of a pass for each."""
    wave = torch.tensor([[[1.0, 2.0, 3.0]]], requires_grad=True)

    def losses() -> dict[str, torch.Tensor]:
        return {"mel": 3 * wave[..., :2].sum(), "wave": 50 * (wave[..., 1:] * torch.tensor([1.0, -2.0])).sum()}

    measured, shared = Balancer({"mel": 1.0, "wave": 2.0}), Balancer({"mel": 1.0, "wave": 2.0}, every=3)
    for call in range(7):
        torch.testing.assert_close(shared.gradient(losses(), wave), measured.gradient(losses(), wave))
        assert shared.calls == call + 1
    again = Balancer({"mel": 1.0, "wave": 2.0}, every=3)
    again.load(shared.state())
    assert again.calls == 7 and again.norms == shared.norms


def test_the_balancer_measures_at_every_nth_call_and_what_is_new() -> None:
    wave = torch.tensor([[[1.0, 2.0]]], requires_grad=True)
    balancer = Balancer({"mel": 1.0, "wave": 1.0}, every=4)
    norms = []
    for call in range(6):
        losses = {"mel": (call + 1) * wave.sum()} | ({"wave": wave[..., 0].sum()} if call == 5 else {})
        balancer.gradient(losses, wave)
        norms.append(balancer.norms["mel"])
    assert norms[0] == norms[1] == norms[3] != norms[4] and "wave" in balancer.norms
    assert norms[4] == pytest.approx(0.99**4 * norms[0] + (1 - 0.99**4) * 5 * 2**0.5)


def test_discriminators_learn_the_same_from_what_they_said_in_the_generator_step() -> None:
    torch.manual_seed(0)
    config = CodecConfig(
        spectral=SpectralConfig(
            latent_dim=8, encoder_dim=16, encoder_blocks=1, bottleneck_dim=16, bottleneck_blocks=1, decoder_dim=16,
            decoder_blocks=1,
        ),
        quantizer=QuantizerConfig(num_levels=2, codebook_size=16),
    )  # fmt: skip
    codec, wave = Codec(config).train(), 0.1 * torch.randn(2, 1, 4800)
    losses = CodecLosses(24_000, LossWeights(), SMALL)

    def learnt(step: GeneratorStep) -> tuple[dict[str, float], list[torch.Tensor]]:
        losses.zero_grad()
        return losses.discriminator_step(wave, step), [p.grad.clone() for p in losses.parameters()]

    step = losses.generator_step(codec, wave, StepMode(adversarial=True, generator=torch.Generator().manual_seed(0)))
    assert all(p.grad is None for p in losses.parameters())  # the generator's step gives them no gradient
    figures, gradients = learnt(step)
    again, expected = learnt(GeneratorStep(step.out, step.mode))  # without the scores they run again
    assert on_host(figures) == pytest.approx(on_host(again))
    assert sum(float(g.abs().sum()) for g in gradients) > 0
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-6)


def test_another_threads_autocast_changes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    losses = CodecLosses(24_000, LossWeights(), SMALL)
    wave, made = 0.1 * torch.randn(2, 2, 1, 4800)
    decoder, run = torch.nn.Conv1d(1, 1, 3, padding=1), Discriminators.forward

    def gradients() -> list[torch.Tensor]:
        losses.zero_grad()
        step = losses.decoder_step(decoder, made, wave, StepMode(adversarial=True, bf16=True))
        losses.discriminator_step(wave, step)
        return [p.grad.clone() for p in losses.parameters() if p.grad is not None]

    def emptied(self: Discriminators, x: torch.Tensor) -> object:
        torch.clear_autocast_cache()  # as another thread does that leaves its autocast
        return run(self, x)

    expected = gradients()
    monkeypatch.setattr(Discriminators, "forward", emptied)
    assert all(torch.equal(a, b) for a, b in zip(expected, gradients(), strict=True))


def test_a_period_discriminator_is_a_convolution_over_columns() -> None:
    """Against convolutions over [B, C, T, period], as the literature writes them."""
    torch.manual_seed(0)
    part, x = PeriodDiscriminator(3, 4), torch.randn(2, 1, 100)
    score, features = part(x)
    grid = torch.nn.functional.pad(x, (0, 2)).view(2, 1, 34, 3)
    for layer, feature in zip(part.layers, features, strict=True):
        grid = torch.nn.functional.leaky_relu(layer(grid), 0.2)
        torch.testing.assert_close(feature.unflatten(0, (2, 3)).permute(0, 2, 3, 1), grid)
    torch.testing.assert_close(score.unflatten(0, (2, 3)).permute(0, 2, 3, 1), part.output(grid))


def test_discriminators_may_hear_a_part() -> None:
    losses = CodecLosses(24_000, LossWeights(discriminator_seconds=0.05), SMALL)
    generator = torch.Generator().manual_seed(0)
    parts = {(part.start, part.stop - part.start) for part in (losses._part(2400, generator) for _ in range(50))}
    assert {length for _, length in parts} == {1200} and len(parts) > 20
    assert losses._part(1000, generator) == slice(0, 1000)  # a crop that is shorter is heard whole
    assert CodecLosses(24_000, LossWeights(), SMALL)._part(2400, generator) == slice(0, 2400)
    with pytest.raises(SoundloomError, match="balance_every"):
        LossWeights(balance_every=0)


def test_whitening_is_zero_for_white_latents_and_sees_a_collapse() -> None:
    torch.manual_seed(0)
    white = torch.randn(8, 6, 4000)
    assert whitening_loss(white) < 0.01
    collapsed = torch.randn(8, 1, 4000).expand(8, 6, 4000)
    assert whitening_loss(collapsed) > 4
    assert whitening_loss(torch.zeros(2, 6, 10)) == 1
    assert effective_rank(white) > 5.9
    assert effective_rank(collapsed + 1e-3 * white) < 1.1
