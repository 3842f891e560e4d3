"""The quantizer: against a reference, alive, and with a gradient."""

import copy
from itertools import pairwise

import pytest
import torch
from vector_quantize_pytorch import ResidualVQ

from codec.quantize import QuantizerConfig, ResidualVectorQuantizer, VectorQuantizer


def make(dim: int = 6, levels: int = 3, size: int = 16, **options: float) -> ResidualVectorQuantizer:
    torch.manual_seed(0)
    options = {"level_dropout": 0.0} | options
    return ResidualVectorQuantizer(dim, QuantizerConfig(num_levels=levels, codebook_size=size, **options))


def test_codes_and_vectors_equal_those_of_vector_quantize_pytorch() -> None:
    ours = make().eval()
    reference = ResidualVQ(dim=6, num_quantizers=3, codebook_size=16).eval()
    for level, other in zip(ours.levels, reference.layers, strict=True):
        other._codebook.embed.copy_(level.codebook[None])
        other._codebook.initted.fill_(True)
    latent = torch.randn(4, 50, 6)
    theirs, indices, _ = reference(latent)
    codes = ours.encode(latent.transpose(1, 2))
    assert torch.equal(codes, indices.permute(0, 2, 1))
    torch.testing.assert_close(ours.decode(codes).transpose(1, 2), theirs)


def test_moving_averages_equal_those_of_vector_quantize_pytorch() -> None:
    ours = make(levels=1, decay=0.9, restart_threshold=0.0)
    reference = ResidualVQ(
        dim=6, num_quantizers=1, codebook_size=16, decay=0.9, threshold_ema_dead_code=0, eps=1e-10
    ).train()
    book = reference.layers[0]._codebook
    book.embed.copy_(ours.levels[0].codebook[None])
    book.embed_avg.copy_(ours.levels[0].codebook[None])
    book.cluster_size.fill_(1.0)
    book.initted.fill_(True)
    for seed in range(5):
        latent = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(seed))
        reference(latent)
        ours(latent.transpose(1, 2))
    torch.testing.assert_close(ours.levels[0].codebook, book.embed[0], rtol=1e-4, atol=1e-5)


def test_start_puts_each_level_on_what_the_ones_before_it_left() -> None:
    quantizer = make(levels=4, size=32)
    vectors = torch.randn(2000, 6) * torch.tensor([4.0, 2, 1, 1, 0.5, 0.5])
    quantizer.start(vectors)
    latent = vectors.t()[None]
    errors = [(quantizer.decode(quantizer.encode(latent)[:, :n]) - latent).square().mean().item() for n in range(1, 5)]
    assert all(b < 0.8 * a for a, b in pairwise(errors)), errors


def test_a_dead_code_restarts_and_outlives_the_next_update() -> None:
    level = VectorQuantizer(4, 8, decay=0.9, restart_threshold=0.1)
    level.codebook[3] = level.total[3] = 1000.0  # far from everything
    level.usage[3] = 0.05
    vectors = torch.randn(64, 4)
    assert level.update(vectors, level.nearest(vectors)) >= 1
    assert level.codebook[3].abs().max() < 10
    before = level.codebook[3].clone()
    level.update(vectors, level.nearest(vectors))
    assert level.usage[3] > level.restart_threshold
    assert (level.codebook[3] - before).abs().max() < 5
    torch.testing.assert_close(level.codebook, level.total / level.usage[:, None])


def test_the_gradient_passes_straight_through() -> None:
    quantizer = make().train()
    latent = torch.randn(2, 6, 10, requires_grad=True)
    out = quantizer(latent)
    weight = torch.randn_like(out.latent)
    (out.latent * weight).sum().backward()
    torch.testing.assert_close(latent.grad, weight)


def test_commitment_pulls_the_latent_and_not_the_codes() -> None:
    quantizer = make().train()
    latent = torch.randn(2, 6, 10, requires_grad=True)
    quantizer(latent).commitment.backward()
    assert latent.grad is not None and latent.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in quantizer.parameters())


def test_level_dropout_gives_first_levels_only() -> None:
    quantizer = make(levels=4, level_dropout=1.0).train()
    quantizer.frozen = True
    latent = torch.randn(32, 6, 5)
    out = quantizer(latent)
    prefixes = torch.stack([quantizer.decode(out.codes[:, :n]) for n in range(1, 5)])  # [4, B, D, T]
    distance = (prefixes - out.latent).abs().amax((2, 3))  # [4, B]
    assert (distance.amin(0) < 1e-5).all()
    assert len(set(distance.argmin(0).tolist())) > 1


def test_frozen_and_eval_leave_the_codebooks() -> None:
    quantizer = make().train()
    before = copy.deepcopy(quantizer.state_dict())
    quantizer.frozen = True
    quantizer(torch.randn(2, 6, 30))
    quantizer.frozen = False
    quantizer.eval()(torch.randn(2, 6, 30))
    assert all(torch.equal(before[name], value) for name, value in quantizer.state_dict().items())


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_any_first_levels_decode_to_the_partial_sum(levels: int) -> None:
    quantizer = make().eval()
    codes = torch.randint(0, 16, (2, 3, 7))
    expected = sum(quantizer.levels[k].codebook[codes[:, k]] for k in range(levels)).transpose(1, 2)
    torch.testing.assert_close(quantizer.decode(codes[:, :levels]), expected)
