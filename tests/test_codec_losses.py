"""Mel loss, discriminators, balancer, whitening: what each is meant to see, and that nothing else matters."""

import torch

from codec.discriminators import DiscriminatorConfig, Discriminators
from codec.health import effective_rank
from codec.losses import Balancer, MelLoss, adversarial_loss, discriminator_loss, feature_matching_loss
from pipelines.codec_steps import whitening_loss

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


def test_whitening_is_zero_for_white_latents_and_sees_a_collapse() -> None:
    torch.manual_seed(0)
    white = torch.randn(8, 6, 4000)
    assert whitening_loss(white) < 0.01
    collapsed = torch.randn(8, 1, 4000).expand(8, 6, 4000)
    assert whitening_loss(collapsed) > 4
    assert whitening_loss(torch.zeros(2, 6, 10)) == 1
    assert effective_rank(white) > 5.9
    assert effective_rank(collapsed + 1e-3 * white) < 1.1
