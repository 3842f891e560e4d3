"""The z-loss: the mean square of the softmax's logarithm over scored codes, in the loss and in no figure."""

from __future__ import annotations

import torch

from lm.loss import LMOutput, lm_loss


def test_the_z_loss_is_the_mean_square_of_the_log_sum_of_scored_codes() -> None:
    torch.manual_seed(0)
    logits, codes, lengths = torch.randn(2, 3, 5, 7), torch.randint(0, 7, (2, 3, 5)), torch.tensor([5, 2])
    mask = (torch.arange(5) < lengths[:, None])[:, None].expand(-1, 3, -1)
    plain, with_z = (lm_loss(LMOutput(logits, mask), codes, lengths, z_loss=z) for z in (0.0, 0.1))
    square = torch.stack([logits[0, :, t].logsumexp(-1).square() for t in range(5)]).sum(0)
    square = square + sum(logits[1, :, t].logsumexp(-1).square() for t in range(2))
    torch.testing.assert_close(with_z.loss - plain.loss, 0.1 * (square / 7).mean())
    assert torch.equal(with_z.per_level, plain.per_level)
