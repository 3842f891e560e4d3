"""Try a codec on one clip, in a copy that is thrown away: does the gradient pass, can it still learn?"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from codec.health.survey import Finding
from codec.losses import MelLoss
from codec.model import Codec

OVERFIT_STEPS = 30
OVERFIT_SHARE = 0.85  # of the first mel distance: what must be left at most after the steps


def straight_through(codec: Codec, wave: Tensor) -> Finding:
    """Compare the gradient of the mel distance before and after the quantizer, in training mode, on wave [B, C, N].

    The straight-through estimator must hand the gradient on unchanged, and the encoder's weights must get some.
    """
    name = "straight-through gradient"
    patient = copy.deepcopy(codec).train().requires_grad_()  # a copy: training moves codebooks
    if not patient.quantizer.active:
        return Finding(name, "not judged", "the codec does not quantize yet")
    latent = patient.encoder(wave).float()
    entry = latent.detach().requires_grad_()
    leaving = patient.quantizer(entry, torch.Generator().manual_seed(0)).latent
    heard = leaving.detach().requires_grad_()
    sound = patient.decoder(heard)[..., : wave.shape[-1]]
    distance = MelLoss(codec.sample_rate).to(wave.device)(sound, wave)
    after = _gradient(distance, heard)
    before = _gradient(leaving, entry, after) if leaving.requires_grad else torch.zeros_like(entry)
    difference = float((before - after).norm() / after.norm().clamp(min=1e-20))
    weights = [value for value in patient.encoder.parameters()]
    reached = torch.autograd.grad(latent, weights, before, allow_unused=True) if latent.requires_grad else []
    arrived = sum(float(part.square().sum()) for part in reached if part is not None) ** 0.5
    measured = f"norm {float(after.norm()):.3g} after the quantizer, {float(before.norm()):.3g} before it, "
    measured += f"{arrived:.3g} at the encoder's weights; they differ by {difference:.1e}"
    if not float(after.norm()) > 0:
        advice = "The decoder gives no gradient: look for weights that are zero, a detach or a dead activation."
    elif not difference < 1e-3:
        advice = "The quantizer must return latent + (quantized - latent).detach(); something detaches or scales it."
    elif not arrived > 0:
        advice = "The encoder's weights get nothing: look for a detach or dead activations inside of the encoder."
    else:
        return Finding(name, "well", measured)
    return Finding(name, "sick", measured, advice)


def overfit(codec: Codec, wave: Tensor, steps: int = OVERFIT_STEPS, lr: float = 1e-3) -> Finding:
    """Train a copy on the one clip wave [B, C, N]: its mel distance must fall to `OVERFIT_SHARE`, both halves move.

    All levels are used and the codebooks stay. What cannot learn one clip by heart cannot learn a corpus.
    """
    name = "one-clip overfit"
    patient = copy.deepcopy(codec).train()
    patient.quantizer.eval()  # no dropout of levels, codebooks where they are
    trained = [value for value in patient.parameters() if value.requires_grad]
    if not trained:
        return Finding(name, "sick", "no weight is trainable", "Call requires_grad_() on the codec before training.")
    first = {part: _weights(getattr(patient, part)) for part in ("encoder", "decoder")}
    distance = MelLoss(codec.sample_rate).to(wave.device)
    optimizer = torch.optim.Adam(trained, lr, betas=(0.8, 0.95))
    losses: list[float] = []
    for step in range(steps + 1):
        latent = patient.encoder(wave).float()
        quantized = patient.quantizer(latent)
        loss = distance(patient.decoder(quantized.latent)[..., : wave.shape[-1]], wave)
        losses.append(float(loss.detach()))
        total = loss + 0.1 * quantized.commitment
        if step == steps or not total.requires_grad:
            break
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    still = [part for part, before in first.items() if torch.equal(before, _weights(getattr(patient, part)))]
    share = min(losses[1:], default=losses[0]) / max(losses[0], 1e-12)
    measured = f"mel distance {losses[0]:.4g}, {min(losses):.4g} at best in {steps} steps on one clip"
    measured += f" ({100 * share:.0f}%, at most {100 * OVERFIT_SHARE:.0f}% is right)"
    if still:
        advice = f"The {' and the '.join(still)} did not move: frozen (requires_grad), cut off from the loss, or dead."
        return Finding(name, "sick", f"{measured}; no weight of the {' and the '.join(still)} moved", advice)
    if not share <= OVERFIT_SHARE:
        advice = "Both halves move and yet learn nothing: dead activations, an output that clips, or a broken loss."
        return Finding(name, "sick", measured, advice)
    return Finding(name, "well", measured)


def _gradient(output: Tensor, entry: Tensor, upstream: Tensor | None = None) -> Tensor:
    """d output / d entry, times ``upstream``; zero where no path leads there."""
    if not output.requires_grad:
        return torch.zeros_like(entry)
    (found,) = torch.autograd.grad(output, entry, upstream, allow_unused=True)
    return torch.zeros_like(entry) if found is None else found


def _weights(module: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten().clone() for value in module.parameters()])
