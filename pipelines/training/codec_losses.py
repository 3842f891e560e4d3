"""The two backward passes of adversarial codec training: one to the codec, one to the discriminators.

    step = losses.generator_step(codec, wave, mode)      # leaves the codec's gradients
    figures = losses.discriminator_step(wave, step)      # leaves the discriminators' gradients

Neither moves a weight. What the second pass needs of the first is in the `GeneratorStep` between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from codec.balancer import Balancer
from codec.common.devices import widest_float
from codec.discriminators import DiscriminatorConfig, Discriminators
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
from pipelines.training.recogniser_loss import RecogniserLoss, recogniser_folder


@dataclass(frozen=True)
class StepMode:
    """How a generator step runs.

    Args:
        adversarial: run the discriminators too.
        head_start: with ``adversarial``: the discriminators run and learn, but their losses do not reach the codec yet.
        bf16: autocast to bfloat16.
        parts: compute the batch in this many equal parts, one after another, to save memory. Codebooks, balance and
            losses are those of the whole batch.
        generator: randomness; None is torch's global generator.
    """

    adversarial: bool = False
    head_start: bool = False
    bf16: bool = False
    parts: int = 1
    generator: torch.Generator | None = None


@dataclass
class GeneratorStep:
    """The outcome of a generator step, as the discriminators' own step needs it.

    ``out``: the reconstruction, detached. ``log``: what to log. ``part``: the samples of each crop that the
    discriminators had as input. ``real``, ``fake``: their scores with the graph, so that their own step costs half;
    empty where the batch was computed in parts, since all of them would have to be kept. Figures in ``log`` are tensors
    on the device.
    """

    out: Tensor
    mode: StepMode
    part: slice = field(default_factory=lambda: slice(None))
    real: list[Tensor] = field(default_factory=list)
    fake: list[Tensor] = field(default_factory=list)
    log: dict[str, Any] = field(default_factory=dict)


class CodecLosses(nn.Module):
    """The losses of a codec in training; its parameters are those of the discriminators."""

    def __init__(self, sample_rate: int, weights: LossWeights, discriminators: DiscriminatorConfig) -> None:
        super().__init__()
        self.weights = weights
        self.mel = MelLoss(sample_rate)
        self.discriminators = Discriminators(discriminators, sample_rate)
        plain = weights.balance == "sum"
        self.balancer = Balancer(weights.balanced(), every=weights.balance_every, plain=plain)
        self._samples = round(weights.discriminator_seconds * sample_rate)
        self.recogniser = _open_recogniser(weights, sample_rate)  # all of it buffers that no checkpoint stores

    def generator_step(self, codec: Codec, wave: Tensor, mode: StepMode) -> GeneratorStep:
        """Run the codec on wave [B, C, N] and go backward through it; the networks run again where there are parts."""
        frozen = not next(codec.encoder.parameters()).requires_grad
        with _autocast(wave, mode.bf16), torch.set_grad_enabled(not frozen):
            latent = _in_parts(codec.encoder, wave, mode.parts)
        quantized = codec.quantizer(latent.float(), mode.generator)
        with _autocast(wave, mode.bf16):
            out = _in_parts(codec.decoder, quantized.latent, mode.parts)
        out = out.float()[..., : wave.shape[-1]]
        step, gradient = self._weigh(out, wave, mode)
        if frozen:
            out.backward(gradient)
            return step
        whitening = whitening_loss(latent)
        extra = self.weights.commitment * quantized.commitment + self.weights.whitening * whitening
        torch.autograd.backward([out, extra], [gradient, torch.ones_like(extra)])
        step.log |= {"commitment": quantized.commitment.detach(), "whitening": whitening.detach()}
        step.log["residual"] = quantized.residual_energy.detach()
        return step

    def decoder_step(self, decoder: nn.Module, latent: Tensor, wave: Tensor, mode: StepMode) -> GeneratorStep:
        """Do the same for a decoder alone, on latent [B, D, T] whose last N samples are the wave [B, C, N]."""
        with _autocast(wave, mode.bf16):
            out = decoder(latent)
        out = out.float()[..., -wave.shape[-1] :]
        step, gradient = self._weigh(out, wave, mode)
        out.backward(gradient)
        return step

    def discriminator_step(self, wave: Tensor, step: GeneratorStep) -> dict[str, Any]:
        """Go backward through the discriminators for real and reconstructed waves [B, C, N]; return what to log."""
        parts = step.mode.parts
        log: dict[str, Any] = {}
        for true, made in zip(wave.chunk(parts), step.out.chunk(parts), strict=True):
            real, fake = (step.real, step.fake) if step.real else self._scores(true, made, step)
            loss = discriminator_loss(real, fake)
            # Their weights alone: the gradient of the reconstruction was the generator step's.
            torch.autograd.backward(loss / parts, inputs=list(self.discriminators.parameters()))
            wins = torch.stack([(r > f.mean()).float().mean() for r, f in zip(real, fake, strict=True)]).mean()
            found = {"discriminator": loss, "discriminator_wins": wins}
            found |= {"score_real": _mean_score(real), "score_fake": _mean_score(fake)}
            for name, value in found.items():
                log[name] = log.get(name, 0.0) + _figure(value) / parts
        return log

    def _scores(self, true: Tensor, made: Tensor, step: GeneratorStep) -> tuple[list[Tensor], list[Tensor]]:
        with _autocast(true, step.mode.bf16):
            scores, _ = self.discriminators(torch.cat([true, made])[..., step.part])
        real, fake = zip(*(score.chunk(2) for score in scores), strict=True)
        return list(real), list(fake)

    def _weigh(self, out: Tensor, wave: Tensor, mode: StepMode) -> tuple[GeneratorStep, Tensor]:
        """Return the step, and the gradient of the balanced losses at its output."""
        step = GeneratorStep(out.detach(), mode)
        if mode.adversarial:
            step.part = self._part(wave.shape[-1], mode.generator)
        gradient = self.balancer.gradient_of_parts(self._losses(step, wave), mode.parts)
        step.log |= {f"share_{name}": share for name, share in self.balancer.shares().items()}
        return step, gradient

    def _losses(self, step: GeneratorStep, wave: Tensor) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Yield each part's losses by name, with the output that they depend on; ``step.log`` gets their means."""
        mode, log = step.mode, step.log
        pairs = list(zip(step.out.chunk(mode.parts), wave.chunk(mode.parts), strict=True))
        sizes = self._feature_sizes(step, wave) if mode.adversarial and mode.parts > 1 else None
        for part, target in pairs:
            made = part.detach().requires_grad_()
            losses = {"mel": self.mel(made, target), "wave": (made - target).abs().mean()}
            if self.recogniser is not None:
                with _autocast(made, mode.bf16):
                    losses["recogniser"] = self.recogniser(made, target)
            adversarial = self._adversarial(step, made, target, sizes) if mode.adversarial else {}
            for name, loss in (losses | adversarial).items():
                log[name] = log.get(name, 0.0) + _figure(loss) / mode.parts
            yield losses if mode.head_start else losses | adversarial, made

    def _adversarial(
        self, step: GeneratorStep, made: Tensor, target: Tensor, sizes: Tensor | None
    ) -> dict[str, Tensor]:
        with _autocast(made, step.mode.bf16):
            real_scores, real = self.discriminators(target[..., step.part])
            fake_scores, fake = self.discriminators(made[..., step.part])
        if step.mode.parts == 1:
            step.real, step.fake = real_scores, fake_scores
        return {"adversarial": adversarial_loss(fake_scores), "feature": feature_matching_loss(real, fake, sizes)}

    @torch.no_grad()
    def _feature_sizes(self, step: GeneratorStep, wave: Tensor) -> Tensor:
        """Return the sizes of the real features over the whole batch, computed part by part."""
        with _autocast(wave, step.mode.bf16):
            several = [
                feature_sizes(self.discriminators(part[..., step.part])[1]) for part in wave.chunk(step.mode.parts)
            ]
        return torch.stack(several).mean(0)

    def _part(self, samples: int, generator: torch.Generator | None) -> slice:
        """Return the part of a crop that goes to the discriminators."""
        if not 0 < self._samples < samples:
            return slice(0, samples)
        start = int(torch.randint(samples - self._samples + 1, (), generator=generator))
        return slice(start, start + self._samples)


def _open_recogniser(weights: LossWeights, sample_rate: int) -> RecogniserLoss | None:
    if not weights.recogniser:
        return None
    return RecogniserLoss.open(recogniser_folder(weights.recogniser_from), sample_rate)


def _autocast(like: Tensor, enabled: bool) -> torch.autocast:
    # Autocast's cache of rounded weights belongs to the process: the thread that prepares batches empties it at any
    # moment. With it, a weight that is used twice gets its two gradients added before or after rounding, by chance.
    return torch.autocast(like.device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def _figure(loss: Tensor) -> Tensor:
    """Return a loss for the log. It stays on its device: to read it there would make the host wait at every step."""
    return loss.detach().to(widest_float(loss.device))


def _mean_score(scores: list[Tensor]) -> Tensor:
    return torch.stack([score.float().mean() for score in scores]).mean()


def _in_parts(network: nn.Module, x: Tensor, parts: int) -> Tensor:
    if parts == 1:
        return network(x)
    return torch.cat([checkpoint(network, part, use_reentrant=False) for part in x.chunk(parts)])
