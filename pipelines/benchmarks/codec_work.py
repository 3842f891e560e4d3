"""The work of a codec's training, recorded on tensors without memory from its settings alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.discriminators import Discriminators
from codec.losses import MelLoss, adversarial_loss, discriminator_loss, feature_matching_loss, whitening_loss
from codec.model import Codec
from codec.quantize import ResidualVectorQuantizer
from codec.seanet import ResidualUnit, SkipLSTM
from codec.spectral import ConvNeXtBlock
from pipelines.benchmarks.roofline import Recorder, without_memory
from pipelines.benchmarks.training_work import Memory, Phase, Training, move_weights, peak_recomputed, state_memory
from pipelines.training.codec_settings import TrainCodecSettings
from pipelines.training.recompute import recompute_activations


class _LSTMWork(nn.Module):
    """The products of an LSTM over all steps at once; CPU and CUDA run one fused kernel, which no counter sees."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, steps: Tensor) -> tuple[Tensor, None]:
        for layer in range(self.lstm.num_layers):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            of_input, of_hidden, *biases = (getattr(self.lstm, f"{name}_l{layer}") for name in names)
            gates = F.linear(steps, of_input, biases[0]) + F.linear(steps, of_hidden, biases[1])
            i, f, g, o = gates.chunk(4, dim=-1)
            steps = o.sigmoid() * (f.sigmoid() + i.sigmoid() * g.tanh()).tanh()
        return steps, None


def make_fake_codec(settings: TrainCodecSettings, recompute: bool) -> tuple[Codec, int]:
    """Make the codec of the settings as it trains; return it and the number of recomputed blocks."""
    codec = Codec(settings.codec).train()
    for module in codec.modules():
        if isinstance(module, SkipLSTM):
            module.lstm = cast(nn.LSTM, _LSTMWork(module.lstm))
    codec.encoder.requires_grad_(not settings.decoder_only)
    kinds = (ConvNeXtBlock, ResidualUnit)
    if recompute:
        return codec, recompute_activations(codec, kinds)
    return codec, sum(isinstance(module, kinds) for module in codec.modules())


def quantize(quantizer: ResidualVectorQuantizer, latent: Tensor, moves: bool) -> Tensor:
    """Do the work of the quantizer in training, without the branches on values that its own forward has."""
    B, D, T = latent.shape
    vectors = latent.transpose(1, 2).reshape(B * T, D)
    residual, total = vectors.detach(), torch.zeros_like(vectors)
    for codebook in quantizer.codebooks():
        indices = torch.addmm(codebook.pow(2).sum(1), residual, codebook.t(), beta=-0.5).argmax(1)
        chosen = F.embedding(indices, codebook)
        if moves:
            sums = torch.zeros_like(codebook).index_add_(0, indices, residual)
            codebook.lerp(sums, 0.01)
        total = total + chosen
        F.mse_loss(vectors, total)
        residual = residual - chosen
    return (vectors + (total - vectors).detach()).view(B, T, D).transpose(1, 2)


@dataclass
class CodecStep:
    """One step of a codec's training on waves [B, C, N], as `pipelines.training.codec_losses` takes it."""

    settings: TrainCodecSettings
    codec: Codec
    discriminators: Discriminators
    mel: MelLoss
    wave: Tensor

    def generator(self, adversarial: bool, measured: bool) -> Callable[[], None]:
        """Run the codec forward and backward; return the discriminators' own backward pass, for afterwards.

        ``measured``: the losses' gradients come one by one, as they do where the balance is measured.
        """
        settings, wave, frozen = self.settings, self.wave, self.settings.decoder_only
        with _autocast(), torch.set_grad_enabled(not frozen):
            latent = self.codec.encoder(wave)
        quantized = quantize(self.codec.quantizer, latent.float(), not frozen)
        with _autocast():
            out = self.codec.decoder(quantized).float()[..., : wave.shape[-1]]
        made = out.detach().requires_grad_()
        losses = [self.mel(made, wave), (made - wave).abs().mean()]
        scores: list[list[Tensor]] = []
        if adversarial:
            losses += self._adversarial(made, scores)
        for loss in losses if measured else [torch.stack(losses).sum()]:
            torch.autograd.grad(loss, made, retain_graph=True)
        extra = [] if frozen else [whitening_loss(latent)]
        torch.autograd.backward([out, *extra], [torch.ones_like(out), *(torch.ones_like(one) for one in extra)])
        if settings.gradient_accumulation > 1:
            self._run_parts_again(adversarial)
        return lambda: discriminator_loss(*scores).backward(inputs=list(self.discriminators.parameters()))

    def _adversarial(self, made: Tensor, scores: list[list[Tensor]]) -> list[Tensor]:
        size = round(self.settings.losses.discriminator_seconds * self.settings.codec.sample_rate) or made.shape[-1]
        with _autocast():
            real_scores, real = self.discriminators(self.wave[..., :size])
            fake_scores, fake = self.discriminators(made[..., :size])
        scores += [real_scores, fake_scores]
        return [adversarial_loss(fake_scores), feature_matching_loss(real, fake)]

    @torch.no_grad()
    def _run_parts_again(self, adversarial: bool) -> None:
        with _autocast():
            self.codec.decoder(self.codec.encoder(self.wave))
            for _ in range(3 if adversarial else 0):  # sizes of features, then real and fake for their own step
                self.discriminators(self.wave)


def _autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def forget_values(network: nn.Module) -> None:
    """Replace a network's tensors by ones of the same shapes without memory; call it inside `without_memory`."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty(parameter.shape))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def codec_training(settings: TrainCodecSettings) -> Training:
    """Count a codec's training: the steps before the discriminators enter, and those with them."""
    recorded: dict[bool, dict[str, Recorder]] = {}
    # Made outside: their filters need values to be computed.
    mel = MelLoss(settings.codec.sample_rate)
    discriminators = Discriminators(settings.discriminators, settings.codec.sample_rate)
    with without_memory():
        forget_values(mel)
        forget_values(discriminators)
        for recompute in (False, True):
            codec, blocks = make_fake_codec(settings, recompute)
            samples = round(settings.segment_seconds * codec.sample_rate)
            wave = torch.zeros(settings.batch_size, codec.channels, samples)
            step = CodecStep(settings, codec, discriminators, mel, wave)
            recorded[recompute] = record_codec(step)
    work = recorded[settings.activation_checkpointing]
    kept, again = (_most_saved(recorded[which]) for which in (False, True))
    trained = [p for p in codec.parameters() if p.requires_grad]
    counts = {"codec": _count(codec.parameters()), "discriminators": _count(step.discriminators.parameters())}
    own, other = _count(trained), counts["discriminators"]
    adversarial = settings.discriminator_start < settings.steps
    state = state_memory(own + other * adversarial, counts["codec"] - own, own)
    activations = {"activations_kept": kept, "activations_recomputed": peak_recomputed(kept, again, blocks)}
    seconds = settings.batch_size * settings.gradient_accumulation * settings.segment_seconds
    frames = seconds * codec.frame_rate
    return Training(
        "codec",
        counts,
        codec_phases(settings, work, step),
        Memory(**state, **activations, recompute=settings.activation_checkpointing),
        seconds,
        frames * codec.num_levels,
        frames,
    )


def record_codec(step: CodecStep) -> dict[str, Recorder]:
    """Record each kind of step: without discriminators, with them (measured or in one pass), and their own."""
    every = step.settings.losses.balance_every
    kinds = {"plain": (False, every == 1)}
    if step.settings.discriminator_start < step.settings.steps:
        kinds |= {"measured": (True, True)} | ({"shared": (True, False)} if every > 1 else {})
    recorded, finish = {}, None
    for name, how in kinds.items():
        recorded[name] = Recorder()
        with recorded[name]:
            finish = step.generator(*how)
    if "measured" in recorded and finish is not None:
        recorded["discriminators"] = Recorder()
        with recorded["discriminators"]:
            finish()
    return recorded


def codec_phases(settings: TrainCodecSettings, work: dict[str, Recorder], step: CodecStep) -> list[Phase]:
    """Return the phases of a codec's training with their numbers of steps."""
    times, start = settings.gradient_accumulation, min(settings.discriminator_start, settings.steps)
    codec = move_weights(step.codec.parameters(), settings.ema_decay > 0)
    phases = [Phase("before the discriminators", start, work["plain"].operations * times + codec)]
    if start < settings.steps:
        every = settings.losses.balance_every
        steps = settings.steps - start
        own = work["discriminators"].operations * times + move_weights(step.discriminators.parameters(), False)
        shares = {"measured": 1 / every, "shared": 1 - 1 / every}
        phases += [
            Phase(f"with them, balance {name}", steps * shares[name], work[name].operations * times + codec)
            for name in ("measured", "shared")
            if name in work
        ]
        phases.append(Phase("the discriminators' own", steps / settings.discriminator_every, own, within=True))
    return [phase for phase in phases if phase.steps]


def _most_saved(recorded: dict[str, Recorder]) -> int:
    return max(recorder.saved for recorder in recorded.values())


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
