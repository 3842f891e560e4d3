"""The work of a training, from its settings alone: each kind of step recorded, and the memory that it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.discriminators import Discriminators
from codec.errors import SoundloomError
from codec.losses import MelLoss, adversarial_loss, discriminator_loss, feature_matching_loss, whitening_loss
from codec.model import Codec
from codec.quantize import ResidualVectorQuantizer
from codec.seanet import ResidualUnit, SkipLSTM
from codec.spectral import ConvNeXtBlock
from codec.store.reader import StoreReader
from lm.fine_lm import FineLM
from lm.loss import lm_loss
from lm.text.tokenizer import TextTokenizer
from lm.transformer import Block
from pipelines.benchmarks.roofline import Operation, Recorder, without_memory
from pipelines.training.codec_settings import TrainCodecSettings
from pipelines.training.lm_settings import TrainLMSettings, make_model, open_start
from pipelines.training.recompute import recompute_activations

# AdamW reads p, g, m, v and writes p, m, v; clipping reads g twice and writes it; the average reads 2 and writes 1.
_OPTIMIZER_BYTES, _EMA_BYTES = 40, 12
_OPTIMIZER_LAUNCHES = 60


@dataclass(frozen=True)
class Phase:
    """Steps of one kind: how many (a mean may be a fraction), their name, and the operations of one on one GPU.

    ``within``: they are a part of other phases' steps, so they do not add to the number of steps.
    """

    name: str
    steps: float
    operations: list[Operation]
    within: bool = False

    @property
    def flop(self) -> float:
        """FLOP of one step on one GPU."""
        return sum(operation.flop for operation in self.operations)


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. ``activations``: as the settings have it; the other two: without and with checkpointing."""

    weights: float
    gradients: float
    optimizer: float
    averages: float
    activations_kept: float
    activations_recomputed: float
    recompute: bool

    @property
    def activations(self) -> float:
        """What the settings' choice of activation checkpointing takes."""
        return self.activations_recomputed if self.recompute else self.activations_kept

    @property
    def state(self) -> float:
        """Everything that stays between steps, and the gradients."""
        return self.weights + self.gradients + self.optimizer + self.averages

    def sharded(self, processes: int) -> Memory:
        """Return the memory where weights, gradients, optimizer and averages are spread over processes (FSDP 2)."""
        names = ("weights", "gradients", "optimizer", "averages")
        return replace(self, **{name: getattr(self, name) / processes for name in names})


@dataclass(frozen=True)
class Training:
    """A training as counted: parameters by part, phases, memory, and the sound in one step of one GPU."""

    kind: str
    parameters: dict[str, int]
    phases: list[Phase]
    memory: Memory
    seconds_per_step: float
    codes_per_step: float
    positions_per_step: float

    @property
    def steps(self) -> float:
        """Steps of the whole training."""
        return sum(phase.steps for phase in self.phases if not phase.within)

    @property
    def flop(self) -> float:
        """FLOP of the whole training on one GPU."""
        return sum(phase.flop * phase.steps for phase in self.phases)


@dataclass(frozen=True)
class StoreShape:
    """What a language model takes from its store and texts, which a plan does not open."""

    num_levels: int = 8
    codebook_size: int = 1024
    frame_rate: float = 75.0
    vocab_size: int = 128
    text_rate: float = 15.0
    seconds: float = 10.0


def move_weights(parameters: Iterable[nn.Parameter], averaged: bool) -> list[Operation]:
    """Return the operations that clip gradients and move these weights, and their average where there is one."""
    trained = [p for p in parameters if p.requires_grad]
    count = sum(p.numel() for p in trained)
    operations = [Operation(0, _OPTIMIZER_BYTES * count / _OPTIMIZER_LAUNCHES)] * _OPTIMIZER_LAUNCHES
    return operations + [Operation(0, _EMA_BYTES * p.numel()) for p in trained if averaged]


def state_memory(trained: int, fixed: int, averaged: int) -> dict[str, float]:
    """Return the bytes that float32 training with AdamW keeps for these numbers of parameters."""
    return {
        "weights": 4 * (trained + fixed),
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "averages": 4 * averaged,
    }


def peak_recomputed(kept: float, recomputed: float, blocks: int) -> float:
    """Return the peak with checkpointing: what stays, and twice a mean block, which is computed again."""
    return min(kept, recomputed + 2 * (kept - recomputed) / max(blocks, 1))


# --- language models --------------------------------------------------------------------------------------------------


def lm_training(settings: TrainLMSettings, shape: StoreShape) -> Training:
    """Count a language model's training on rows of equal length, as full as ``frames_per_batch`` allows."""
    levels = min(settings.levels or shape.num_levels, shape.num_levels)
    shape = replace(shape, num_levels=levels)
    start = open_start(settings)
    tokenizer = start.tokenizer if start is not None else shape
    pace = shape.frame_rate / shape.text_rate, 0.0
    recorded = {}
    with without_memory():
        for recompute in (False, True):
            model = make_model(settings.model, cast(StoreReader, shape), cast(TextTokenizer, tokenizer), pace, start)
            blocks = recompute_activations(model, (Block,)) if recompute else settings.model.num_layers
            recorded[recompute] = record_lm(model.train(), settings, shape)
    work, rows, frames, units = recorded[settings.activation_checkpointing]
    times = settings.gradient_accumulation
    count = sum(p.numel() for p in model.parameters())
    operations = work.operations * times + move_weights(model.parameters(), settings.ema_decay > 0)
    kept, again = (recorded[which][0].saved for which in (False, True))
    state = state_memory(count, 0, count)
    memory = Memory(
        **state,
        activations_kept=kept,
        activations_recomputed=peak_recomputed(kept, again, blocks),
        recompute=settings.activation_checkpointing,
    )
    total = times * rows * frames
    return Training(
        f"language model ({settings.model.kind})",
        {"model": count, "transformer": sum(p.numel() for p in model.transformer.parameters())},
        [Phase("all", settings.steps, operations)],
        memory,
        total / shape.frame_rate,
        total * levels,
        times * rows * (frames + units),
    )


def record_lm(model: Any, settings: TrainLMSettings, shape: StoreShape) -> tuple[Recorder, int, int, int]:
    """Record one forward and backward pass; return it with the batch's rows, frames and text units a row."""
    longest = settings.max_frames or math.inf
    frames = int(min(shape.seconds * shape.frame_rate, longest, settings.frames_per_batch - 1))
    units = max(1, min(round(frames / shape.frame_rate * shape.text_rate), settings.frames_per_batch - frames))
    if frames < 1:
        raise SoundloomError("frames_per_batch and max_frames leave no frame; raise them, or --seconds")
    rows = max(1, settings.frames_per_batch // (frames + units))
    codes = torch.zeros(rows, shape.num_levels, frames, dtype=torch.long)
    text = torch.zeros(rows, units, dtype=torch.long)
    lengths, text_lengths = torch.full((rows,), frames), torch.full((rows,), units)
    # A fine model scores one level, sampled; the middle one costs the mean.
    own = {"level": max(1, shape.num_levels // 2)} if isinstance(model, FineLM) else {}
    recorder = Recorder()
    with recorder:
        with torch.autocast("cpu", torch.bfloat16):
            output = model(text, text_lengths, codes, lengths, **own)
        lm_loss(output, codes, lengths).loss.backward()
    return recorder, rows, frames, units


# --- codecs -----------------------------------------------------------------------------------------------------------


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
