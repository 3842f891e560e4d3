"""What one step of codec training does: reconstruct, judge, balance, move; and what its validation reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from codec.discriminators import DiscriminatorConfig, Discriminators
from codec.errors import SoundloomError
from codec.health import Finding, judge_log, judge_survey, judge_weights, survey
from codec.losses import Balancer, MelLoss, adversarial_loss, discriminator_loss, feature_matching_loss
from codec.model import Codec


@dataclass(frozen=True)
class LossSettings:
    """The shares of the losses in the gradient at the codec's output, and what is asked of the latent.

    Args:
        mel: share of the mel distance.
        wave: share of the mean absolute distance of the waveforms, which ties the phase down.
        adversarial: share of the discriminators' judgement.
        feature: share of the distance of the discriminators' inner features.
        commitment: weight of the distance from the latent to its quantized self.
        whitening: weight of the latent's distance from zero mean, unit variance and no correlation.
        balance_every: measure the losses' gradients one by one at every n-th step only; in between they share a pass.
        judge_seconds: the discriminators hear so long a part of each crop, at a random place; 0 is the whole.
    """

    mel: float = 1.0
    wave: float = 0.1
    adversarial: float = 1.0
    feature: float = 1.0
    commitment: float = 0.1
    whitening: float = 0.1
    balance_every: int = 1
    judge_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.balance_every < 1 or self.judge_seconds < 0:
            raise SoundloomError("losses: balance_every must be at least 1 and judge_seconds at least 0")


@dataclass
class _Judgement:
    """What the discriminators said in a generator step, for their own step: the same weights, so the same scores."""

    out: Tensor
    real: list[Tensor]
    fake: list[Tensor]


def whitening_loss(latent: Tensor) -> Tensor:
    """How far latent vectors [B, D, T] are from uncorrelated with unit variance: mean squared entry, times D.

    Without it the latent of a short training collapses to a few directions (effective rank 3 to 8 of 128), and
    levels 2… quantize nothing; with it each level has something to add (after VICReg, Bardes et al. 2022).
    """
    B, D, T = latent.shape
    vectors = latent.float().transpose(1, 2).reshape(B * T, D)
    mean = vectors.mean(0)
    centred = vectors - mean
    covariance = centred.t() @ centred / len(vectors)
    identity = torch.eye(D, device=latent.device)
    return ((covariance - identity).square().sum() + mean.square().sum()) / D


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients over all processes (the trainer's two backward passes do not fit DDP's hooks)."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    offset = 0
    for grad in grads:
        grad.copy_(flat[offset : offset + grad.numel()].view_as(grad))
        offset += grad.numel()


class CodecLosses(nn.Module):
    """The judges of a codec in training, and the two backward passes of a step.

    `generator_step` leaves the codec's gradients, `discriminator_step` those of the discriminators; neither moves a
    weight.
    """

    def __init__(self, sample_rate: int, settings: LossSettings, discriminators: DiscriminatorConfig) -> None:
        super().__init__()
        self.settings = settings
        self.mel = MelLoss(sample_rate)
        self.discriminators = Discriminators(discriminators)
        self.balancer = Balancer(
            {
                "mel": settings.mel,
                "wave": settings.wave,
                "adversarial": settings.adversarial,
                "feature": settings.feature,
            },
            every=settings.balance_every,
        )
        self._samples = round(settings.judge_seconds * sample_rate)
        self._judgement: _Judgement | None = None

    def generator_step(
        self, codec: Codec, wave: Tensor, adversarial: bool, bf16: bool, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float | list[float]]]:
        """Backward through the codec for wave [B, C, N]: the reconstruction (detached), and what to log."""
        device = wave.device.type
        frozen = not next(codec.encoder.parameters()).requires_grad
        with torch.autocast(device, torch.bfloat16, enabled=bf16), torch.set_grad_enabled(not frozen):
            latent = codec.encoder(wave)
        quantized = codec.quantizer(latent.float(), generator)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            out = codec.decoder(quantized.latent)
        out = out.float()[..., : wave.shape[-1]]
        heard = out.detach().requires_grad_()
        losses = {"mel": self.mel(heard, wave), "wave": (heard - wave).abs().mean()}
        judged = out.detach()
        if adversarial:
            part = self._part(wave.shape[-1], generator)
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                real_scores, real = self.discriminators(wave[..., part])
                scores, fake = self.discriminators(heard[..., part])
            losses |= {"adversarial": adversarial_loss(scores), "feature": feature_matching_loss(real, fake)}
            self._judgement = _Judgement(judged, real_scores, scores)
        gradient = self.balancer.gradient(losses, heard)
        log: dict[str, float | list[float]] = {name: float(loss.detach()) for name, loss in losses.items()}
        if frozen:
            out.backward(gradient)
            return judged, log
        whitening = whitening_loss(latent)
        extra = self.settings.commitment * quantized.commitment + self.settings.whitening * whitening
        torch.autograd.backward([out, extra], [gradient, torch.ones_like(extra)])
        log |= {"commitment": float(quantized.commitment.detach()), "whitening": float(whitening.detach())}
        log["residual"] = [round(value, 4) for value in quantized.residual_energy.tolist()]
        return judged, log

    def _part(self, samples: int, generator: torch.Generator | None) -> slice:
        """The part of a crop that the discriminators hear."""
        if not 0 < self._samples < samples:
            return slice(0, samples)
        start = int(torch.randint(samples - self._samples + 1, (), generator=generator))
        return slice(start, start + self._samples)

    def discriminator_step(self, wave: Tensor, out: Tensor, bf16: bool) -> dict[str, float]:
        """Backward through the discriminators for real and reconstructed waves [B, C, N]; what to log.

        For the `out` that the last generator step returned, what they said there is used again: half of the work.
        """
        judgement, self._judgement = self._judgement, None
        if judgement is not None and judgement.out is out:
            real, fake = judgement.real, judgement.fake
        else:
            with torch.autocast(wave.device.type, torch.bfloat16, enabled=bf16):
                scores, _ = self.discriminators(torch.cat([wave, out]))
            real, fake = (list(part) for part in zip(*(score.chunk(2) for score in scores), strict=True))
        loss = discriminator_loss(real, fake)
        # their weights alone: the reconstruction's own gradient was the generator step's
        torch.autograd.backward(loss, inputs=list(self.discriminators.parameters()))
        wins = torch.stack([(r > f.mean()).float().mean() for r, f in zip(real, fake, strict=True)]).mean()
        return {"discriminator": float(loss.detach()), "discriminator_wins": float(wins)}


def validate(
    codec: Codec, mel: MelLoss, waves: Tensor, levels: Iterable[int]
) -> tuple[dict[str, object], list[Finding]]:
    """Examine a codec on waves [M, C, N]: what the log gets (mel distances, use of codes, rank), and the findings."""
    found = survey(codec, mel, waves.split(8), levels)
    report: dict[str, object] = {
        "effective_rank": round(found.effective_rank or 0.0, 2),
        "mel_unquantized": round(found.mel_unquantized or 0.0, 5),
    }
    if found.usage:
        report["mel_by_levels"] = {str(n): round(value, 5) for n, value in found.mel_by_levels.items()}
        report["usage"] = [round(share, 3) for share in found.usage]
        report["perplexity"] = [round(value, 1) for value in found.perplexity]
        report["gain_db"] = [round(value, 2) for value in found.gain_decibels]
    return report, [judge_weights(codec), *judge_survey(found)]


def alarm_lines(findings: Iterable[Finding], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each sick finding, those of a training's log rows included."""
    sick = [one for one in [*findings, *judge_log(rows)] if one.status == "sick"]
    return [f"ALARM {one.detector}: {one.measured}. {one.advice}" for one in sick]
