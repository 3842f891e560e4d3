"""Losses over code grids, level by level: cross-entropy, and divergence from a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.common.devices import to_device
from codec.errors import SoundloomError

_IGNORED = -100


@dataclass
class LMOutput:
    """Scores lined up with the codes: ``logits[:, i, t]`` scores the code of level ``first_level + i`` at frame t.

    logits [B, n, T or T + 1, outputs]; mask bool [B, n, T or T + 1], True where the score counts. With T + 1 positions,
    position ``length`` of level 0 is where END belongs.
    """

    logits: Tensor
    mask: Tensor
    first_level: int = 0


@dataclass
class Target:
    """What a teacher would sample from, to learn instead of the codes alone (Hinton et al. 2015).

    ``scores`` [B, n, positions, outputs], as those of `LMOutput`. ``share``: weight of the divergence from the teacher
    in the loss, 0 to 1; the cross-entropy has the rest. ``temperature`` divides both models' scores.
    """

    scores: Tensor
    share: float
    temperature: float = 1.0


@dataclass
class LossOutput:
    """``loss``: scalar to minimize; ``per_level`` [n]: mean nats per code of each level (detached); ``counts`` [n].

    ``kl`` [n]: mean divergence from the teacher in nats per code (detached; 0 without a teacher).
    """

    loss: Tensor
    per_level: Tensor
    counts: Tensor
    kl: Tensor


def lm_loss(
    output: LMOutput,
    codes: Tensor,
    lengths: Tensor,
    level_weights: Sequence[float] | None = None,
    prompt_frames: Tensor | None = None,
    target: Target | None = None,
    z_loss: float = 0.0,
) -> LossOutput:
    """Return the weighted mean of the levels' mean cross-entropies, or of their mix with a teacher's divergence.

    codes long [B, K, T], lengths [B]; END (the last output id) is the target of level 0 at frame ``length``.
    ``level_weights`` has K entries (uniform by default); only the scored levels' weights count.
    ``prompt_frames`` long [B]: frames at each row's start that are not scored. ``z_loss``: weight of the mean square
    of the logarithm of the softmax's sum (PaLM, Chowdhery et al. 2022); it is part of ``loss`` alone.
    """
    B, n, positions, num_outputs = output.logits.shape
    first = output.first_level
    K = codes.shape[1]
    weights = [1.0] * K if level_weights is None else list(level_weights)
    if len(weights) != K or min(weights) < 0 or sum(weights[first : first + n]) <= 0:
        raise SoundloomError(f"level_weights {weights}: expected {K} numbers, none negative and not all zero")

    targets = _targets(codes[:, first : first + n], lengths, positions, num_outputs - 1, first == 0)
    mask = output.mask
    if prompt_frames is not None:
        mask = mask & (torch.arange(positions, device=mask.device) >= prompt_frames[:, None, None])
    targets = targets.masked_fill(~mask, _IGNORED)
    sums, divergences, squares = [], [], []
    # One level at a time, and float32 only here: the whole grid in float32 would be the largest tensor of the step.
    # Unbound, not indexed: the backward pass of each index would fill a whole grid with zeros.
    for level, logits in enumerate(output.logits.unbind(1)):
        scores = logits.reshape(B * positions, num_outputs).float()
        sums.append(F.cross_entropy(scores, targets[:, level].reshape(-1), ignore_index=_IGNORED, reduction="sum"))
        if z_loss:
            squares.append((scores.logsumexp(-1).square() * mask[:, level].reshape(-1)).sum())
        if target is not None:
            divergences.append(_divergence(logits, target, mask[:, level], level, with_end=first + level == 0))
    counts = mask.sum(dim=(0, 2))
    means = torch.stack(sums) / counts.clamp(min=1)
    kl, mixed = torch.zeros_like(means), means
    if target is not None:
        kl = torch.stack(divergences) / counts.clamp(min=1)
        mixed = (1 - target.share) * means + target.share * kl
    if z_loss:
        mixed = mixed + z_loss * torch.stack(squares) / counts.clamp(min=1)
    weight = to_device(torch.tensor(weights[first : first + n]), means.device)
    loss = (mixed * weight).sum() / weight.sum()
    return LossOutput(loss, means.detach(), counts, kl.detach())


def _divergence(logits: Tensor, target: Target, mask: Tensor, level: int, with_end: bool) -> Tensor:
    """Return the sum over ``mask`` [B, positions] of KL(teacher | student) for one level's logits [B, positions, V].

    Only level 0 may sample END, so above it END is left out of both distributions.
    """
    used = logits.shape[-1] - (0 if with_end else 1)
    ours, theirs = (
        (scores[mask][:, :used].float() / target.temperature).log_softmax(-1)
        for scores in (logits, target.scores[:, level])
    )
    return F.kl_div(ours, theirs, reduction="sum", log_target=True)


def _targets(codes: Tensor, lengths: Tensor, positions: int, end_id: int, with_end: bool) -> Tensor:
    """Return codes [B, n, T] as targets long [B, n, positions], END at level 0's frame ``length``."""
    B, n, T = codes.shape
    targets = codes.new_zeros((B, n, positions))
    targets[:, :, : min(T, positions)] = codes[:, :, :positions]
    if with_end and positions > T:
        targets[:, 0].scatter_(1, lengths[:, None].long(), end_id)
    return targets
