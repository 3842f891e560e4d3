"""What one step of codec training does: reconstruct, judge, balance, move; and what its validation reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from codec.discriminators import DiscriminatorConfig, Discriminators
from codec.distributed import mean_over_processes, process_place
from codec.losses import (
    Balancer,
    MelLoss,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    feature_sizes,
)
from codec.metrics import codebook_use, count_codes
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
    """

    mel: float = 1.0
    wave: float = 0.1
    adversarial: float = 1.0
    feature: float = 1.0
    commitment: float = 0.1
    whitening: float = 0.1


def whitening_loss(latent: Tensor) -> Tensor:
    """How far latent vectors [B, D, T] are from uncorrelated with unit variance: mean squared entry, times D.

    Without it the latent of a short training collapses to a few directions (effective rank 3 to 8 of 128), and
    levels 2… quantize nothing; with it each level has something to add (after VICReg, Bardes et al. 2022).
    The vectors of all processes count together.
    """
    B, D, T = latent.shape
    vectors = latent.float().transpose(1, 2).reshape(B * T, D)
    mean = mean_over_processes(vectors.mean(0))
    centred = vectors - mean
    covariance = mean_over_processes(centred.t() @ centred / len(vectors))
    identity = torch.eye(D, device=latent.device)
    return ((covariance - identity).square().sum() + mean.square().sum()) / D


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients over all processes (the trainer's two backward passes do not fit DDP's hooks)."""
    if process_place()[1] == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    offset = 0
    for grad in grads:
        grad.copy_(flat[offset : offset + grad.numel()].view_as(grad))
        offset += grad.numel()


@torch.no_grad()
def gather_clips(x: Tensor) -> Tensor:
    """Every process's clips [B, ...] as one batch in which the processes take turns, as `Crops` shares them out."""
    _, world = process_place()
    if world == 1:
        return x
    shares = [torch.empty_like(x) for _ in range(world)]
    dist.all_gather(shares, x.contiguous())
    return torch.stack(shares, 1).flatten(0, 1)


def alike_over_processes(module: nn.Module) -> bool:
    """Tell whether all processes hold the same parameters and buffers to the bit; every process must call it."""
    if process_place()[1] == 1:
        return True
    sums = []
    for tensor in module.state_dict().values():
        # Bits as numbers, each weighed by its place: two processes that differ anywhere have other sums.
        bits = tensor.detach().flatten().view(torch.uint8).to(torch.int64)
        sums.append((bits * torch.arange(1, len(bits) + 1, device=bits.device)).sum())
    least, most = torch.stack(sums), torch.stack(sums)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return torch.equal(least, most)


def mean_figures(figures: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Figures for the log as means over all processes, all of which must call it."""
    numbers = {key: torch.tensor(value, dtype=torch.float64, device=device) for key, value in figures.items()}
    return {key: mean_over_processes(value).tolist() for key, value in numbers.items()}


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
            }
        )

    def generator_step(
        self,
        codec: Codec,
        wave: Tensor,
        adversarial: bool,
        bf16: bool,
        generator: torch.Generator | None = None,
        parts: int = 1,
    ) -> tuple[Tensor, dict[str, float | list[float]]]:
        """Backward through the codec for wave [B, C, N]: the reconstruction (detached), and what to log.

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
        gradients, log = self._judge(out.detach(), wave, adversarial, bf16, parts)
        gradient = self.balancer.mix(gradients)
        if frozen:
            out.backward(gradient)
            return out.detach(), log
        whitening = whitening_loss(latent)
        extra = self.settings.commitment * quantized.commitment + self.settings.whitening * whitening
        torch.autograd.backward([out, extra], [gradient, torch.ones_like(extra)])
        log |= {"commitment": float(quantized.commitment.detach()), "whitening": float(whitening.detach())}
        log["residual"] = [round(value, 4) for value in quantized.residual_energy.tolist()]
        return out.detach(), log

    def _judge(
        self, out: Tensor, wave: Tensor, adversarial: bool, bf16: bool, parts: int
    ) -> tuple[dict[str, Tensor], dict[str, float | list[float]]]:
        """Each loss's gradient [B, C, N] at the output, and its value, both by name."""
        pairs = list(zip(out.chunk(parts), wave.chunk(parts), strict=True))
        sizes = None
        if adversarial and parts > 1:
            sizes = torch.stack([feature_sizes(self._real_features(part, bf16)) for _, part in pairs]).mean(0)
        gradients: dict[str, list[Tensor]] = {}
        log: dict[str, float | list[float]] = {}
        for part, target in pairs:
            heard = part.detach().requires_grad_()
            losses = {"mel": self.mel(heard, target), "wave": (heard - target).abs().mean()}
            if adversarial:
                self.discriminators.requires_grad_(False)
                real = self._real_features(target, bf16)
                with torch.autocast(wave.device.type, torch.bfloat16, enabled=bf16):
                    scores, fake = self.discriminators(heard)
                losses |= {"adversarial": adversarial_loss(scores), "feature": feature_matching_loss(real, fake, sizes)}
                self.discriminators.requires_grad_(True)
            for name, loss in losses.items():
                (gradient,) = torch.autograd.grad(loss / parts, heard, retain_graph=True)
                gradients.setdefault(name, []).append(gradient)
                log[name] = log.get(name, 0.0) + float(loss.detach()) / parts
        return {name: torch.cat(several) for name, several in gradients.items()}, log

    @torch.no_grad()
    def _real_features(self, wave: Tensor, bf16: bool) -> list[list[Tensor]]:
        with torch.autocast(wave.device.type, torch.bfloat16, enabled=bf16):
            return self.discriminators(wave)[1]

    def discriminator_step(self, wave: Tensor, out: Tensor, bf16: bool, parts: int = 1) -> dict[str, float]:
        """Backward through the discriminators for real and reconstructed waves [B, C, N]; what to log."""
        log = {"discriminator": 0.0, "discriminator_wins": 0.0}
        for true, made in zip(wave.chunk(parts), out.chunk(parts), strict=True):
            with torch.autocast(wave.device.type, torch.bfloat16, enabled=bf16):
                scores, _ = self.discriminators(torch.cat([true, made]))
            real, fake = zip(*(score.chunk(2) for score in scores), strict=True)
            loss = discriminator_loss(list(real), list(fake))
            (loss / parts).backward()
            wins = torch.stack([(r > f.mean()).float().mean() for r, f in zip(real, fake, strict=True)]).mean()
            log["discriminator"] += float(loss.detach()) / parts
            log["discriminator_wins"] += float(wins) / parts
        return log


def _in_parts(network: nn.Module, x: Tensor, parts: int) -> Tensor:
    if parts == 1:
        return network(x)
    return torch.cat([checkpoint(network, part, use_reentrant=False) for part in x.chunk(parts)])


def effective_rank(latent: Tensor) -> float:
    """Number of directions that latent vectors [B, D, T] fill: the exponential of the entropy of their spectrum."""
    vectors = latent.float().transpose(1, 2).reshape(-1, latent.shape[1])
    values = torch.linalg.svdvals(vectors - vectors.mean(0)).square()
    share = values / values.sum()
    return float(torch.exp(-(share * (share + 1e-12).log()).sum()))


@torch.no_grad()
def validate(codec: Codec, mel: MelLoss, waves: Tensor, levels: Iterable[int]) -> dict[str, object]:
    """Mel distance at several numbers of levels, use of the codebooks and rank of the latent, on waves [M, C, N]."""
    training = codec.training
    codec.eval()
    latents = torch.cat([codec.encoder(chunk) for chunk in waves.split(8)])
    report: dict[str, object] = {"effective_rank": round(effective_rank(latents), 2)}

    def distance(latent: Tensor) -> float:
        pairs = zip(latent.split(8), waves.split(8), strict=True)
        total = sum(float(mel(codec.decoder(part)[..., : w.shape[-1]], w)) * len(w) for part, w in pairs)
        return round(total / len(waves), 5)

    report["mel_unquantized"] = distance(latents)
    if codec.quantizer.active:
        codes = codec.quantizer.encode(latents)
        report["mel_by_levels"] = {str(n): distance(codec.quantizer.decode(codes[:, :n])) for n in levels}
        use = codebook_use(count_codes(codes, codec.codebook_size))
        report["usage"] = [round(level.used, 3) for level in use]
        report["perplexity"] = [round(level.perplexity, 1) for level in use]
    codec.train(training)
    return report
