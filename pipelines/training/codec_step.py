"""What one step of codec training does: reconstruct, judge, balance, move; and what its validation reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from codec.balancer import Balancer
from codec.discriminators import DiscriminatorConfig, Discriminators
from codec.health.survey import Finding, judge_log, judge_survey, judge_weights, survey
from codec.losses import (
    LossWeights,
    MelLoss,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    feature_sizes,
    whitening_loss,
)
from codec.model import Codec


@dataclass
class _Judgement:
    """What the discriminators said in a generator step, for their own step: the same weights, so the same scores."""

    out: Tensor
    part: slice
    real: list[Tensor]
    fake: list[Tensor]


class CodecLosses(nn.Module):
    """The judges of a codec in training, and the two backward passes of a step.

    `generator_step` leaves the codec's gradients, `discriminator_step` those of the discriminators; neither moves a
    weight.
    """

    def __init__(self, sample_rate: int, settings: LossWeights, discriminators: DiscriminatorConfig) -> None:
        super().__init__()
        self.settings = settings
        self.mel = MelLoss(sample_rate)
        self.discriminators = Discriminators(discriminators)
        self.balancer = Balancer(settings.balanced(), every=settings.balance_every, plain=settings.balance == "sum")
        self._samples = round(settings.judge_seconds * sample_rate)
        self._judgement: _Judgement | None = None

    def generator_step(
        self,
        codec: Codec,
        wave: Tensor,
        adversarial: bool,
        bf16: bool,
        generator: torch.Generator | None = None,
        parts: int = 1,
        head_start: bool = False,
    ) -> tuple[Tensor, dict[str, float | list[float]]]:
        """Backward through the codec for wave [B, C, N]: the reconstruction (detached), and what to log.

        In the ``head_start`` the discriminators listen, so that they can learn, but the codec does not hear of it.
        With ``parts`` the networks and judges see so many equal parts of the batch one after another, and the networks
        run again in the backward pass: activations of one part at a time. Codebooks, balance and losses are those of
        the whole batch.
        """
        device = wave.device.type
        frozen = not next(codec.encoder.parameters()).requires_grad
        with torch.autocast(device, torch.bfloat16, enabled=bf16), torch.set_grad_enabled(not frozen):
            latent = _in_parts(codec.encoder, wave, parts)
        quantized = codec.quantizer(latent.float(), generator)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            out = _in_parts(codec.decoder, quantized.latent, parts)
        out = out.float()[..., : wave.shape[-1]]
        judged, gradient, log = self._weigh(out, wave, adversarial, bf16, generator, parts, head_start)
        if frozen:
            out.backward(gradient)
            return judged, log
        whitening = whitening_loss(latent)
        extra = self.settings.commitment * quantized.commitment + self.settings.whitening * whitening
        torch.autograd.backward([out, extra], [gradient, torch.ones_like(extra)])
        log |= {"commitment": float(quantized.commitment.detach()), "whitening": float(whitening.detach())}
        log["residual"] = [round(value, 4) for value in quantized.residual_energy.tolist()]
        return judged, log

    def decoder_step(
        self,
        decoder: nn.Module,
        latent: Tensor,
        wave: Tensor,
        adversarial: bool,
        bf16: bool,
        generator: torch.Generator | None = None,
        head_start: bool = False,
    ) -> tuple[Tensor, dict[str, float | list[float]]]:
        """`generator_step` of a decoder alone, for latent [B, D, T] whose last N samples are the wave [B, C, N]."""
        with torch.autocast(wave.device.type, torch.bfloat16, enabled=bf16):
            out = decoder(latent)
        out = out.float()[..., -wave.shape[-1] :]
        judged, gradient, log = self._weigh(out, wave, adversarial, bf16, generator, 1, head_start)
        out.backward(gradient)
        return judged, log

    def _weigh(
        self,
        out: Tensor,
        wave: Tensor,
        adversarial: bool,
        bf16: bool,
        generator: torch.Generator | None,
        parts: int,
        head_start: bool,
    ) -> tuple[Tensor, Tensor, dict[str, float | list[float]]]:
        """The output detached, the balanced losses' gradient at it, and what to log."""
        judged = out.detach()
        heard = self._part(wave.shape[-1], generator) if adversarial else None
        log: dict[str, float | list[float]] = {}
        losses = self._judge(judged, wave, heard, bf16, parts, log, head_start)
        gradient = self.balancer.gradient_of_parts(losses, parts)
        log |= {f"share_{name}": share for name, share in self.balancer.shares().items()}
        return judged, gradient, log

    def _judge(
        self,
        out: Tensor,
        wave: Tensor,
        heard: slice | None,
        bf16: bool,
        parts: int,
        log: dict[str, Any],
        head_start: bool,
    ) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Each part's losses by name, with the output that they depend on; ``log`` gets their means."""
        pairs = list(zip(out.chunk(parts), wave.chunk(parts), strict=True))
        sizes = None
        if heard is not None and parts > 1:
            with torch.no_grad(), torch.autocast(wave.device.type, torch.bfloat16, enabled=bf16):
                several = [feature_sizes(self.discriminators(target[..., heard])[1]) for _, target in pairs]
            sizes = torch.stack(several).mean(0)
        for part, target in pairs:
            made = part.detach().requires_grad_()
            losses = {"mel": self.mel(made, target), "wave": (made - target).abs().mean()}
            judgements: dict[str, Tensor] = {}
            if heard is not None:
                with torch.autocast(wave.device.type, torch.bfloat16, enabled=bf16):
                    real_scores, real = self.discriminators(target[..., heard])
                    scores, fake = self.discriminators(made[..., heard])
                judgements = {
                    "adversarial": adversarial_loss(scores),
                    "feature": feature_matching_loss(real, fake, sizes),
                }
                # Kept for the discriminators' own step; of several parts none is, since all would have to be.
                kept = (real_scores, scores) if parts == 1 else ([], [])
                self._judgement = _Judgement(out, heard, *kept)
            for name, loss in (losses | judgements).items():
                log[name] = log.get(name, 0.0) + float(loss.detach()) / parts
            yield losses if head_start else losses | judgements, made

    def _part(self, samples: int, generator: torch.Generator | None) -> slice:
        """The part of a crop that the discriminators hear."""
        if not 0 < self._samples < samples:
            return slice(0, samples)
        start = int(torch.randint(samples - self._samples + 1, (), generator=generator))
        return slice(start, start + self._samples)

    def discriminator_step(self, wave: Tensor, out: Tensor, bf16: bool, parts: int = 1) -> dict[str, float]:
        """Backward through the discriminators for real and reconstructed waves [B, C, N]; what to log.

        For the `out` that the last generator step returned, what they said there is used again: half of the work.
        """
        judgement, self._judgement = self._judgement, None
        known = judgement if judgement is not None and judgement.out is out else None
        heard = slice(None) if known is None else known.part
        log = {"discriminator": 0.0, "discriminator_wins": 0.0}
        for true, made in zip(wave.chunk(parts), out.chunk(parts), strict=True):
            if known is not None and known.real:
                real, fake = known.real, known.fake
            else:
                with torch.autocast(wave.device.type, torch.bfloat16, enabled=bf16):
                    scores, _ = self.discriminators(torch.cat([true, made])[..., heard])
                real, fake = (list(part) for part in zip(*(score.chunk(2) for score in scores), strict=True))
            loss = discriminator_loss(real, fake)
            # their weights alone: the reconstruction's own gradient was the generator step's
            torch.autograd.backward(loss / parts, inputs=list(self.discriminators.parameters()))
            wins = torch.stack([(r > f.mean()).float().mean() for r, f in zip(real, fake, strict=True)]).mean()
            log["discriminator"] += float(loss.detach()) / parts
            log["discriminator_wins"] += float(wins) / parts
        return log


def _in_parts(network: nn.Module, x: Tensor, parts: int) -> Tensor:
    if parts == 1:
        return network(x)
    return torch.cat([checkpoint(network, part, use_reentrant=False) for part in x.chunk(parts)])


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
