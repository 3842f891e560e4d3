"""Settings of a codec's training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from codec.discriminators import DiscriminatorConfig
from codec.errors import SoundloomError
from codec.losses import LossWeights
from codec.model import CodecConfig
from pipelines.training.codec_crops import AugmentSettings, Source
from pipelines.training.optimizer import OptimizerSettings


@dataclass(frozen=True)
class TrainCodecSettings:
    """A codec's training.

    Args:
        output: folder of the run.
        sources: folders of audio to learn from.
        dev_sources: folders of audio to validate on.
        codec: the codec's shape.
        discriminators: the discriminators' shape.
        losses: shares of the losses.
        augment: what is done to crops.
        optimizer: the codec's optimizer.
        discriminator_lr: the discriminators' highest learning rate.
        start_from: folder of a codec to begin from (fine-tuning) instead of random weights.
        decoder_only: keep encoder and codebooks, train the decoder alone.
        steps: training steps.
        batch_size: crops a step and process, of which gradient_accumulation times as many are taken.
        gradient_accumulation: parts of a step's batch that are computed one after another, the same to the last digits.
        activation_checkpointing: compute the networks' blocks again in the backward pass, to save memory.
        segment_seconds: length of a crop.
        quantizer_start: step at which the codebooks start (0 with start_from).
        kmeans_batches: batches whose latents k-means sees; some tens of vectors a code are right.
        discriminator_start: step at which the discriminators enter; steps or more means never.
        head_start: steps in which the discriminators learn before the codec hears of them.
        discriminator_every: the discriminators learn at every n-th step.
        ema_decay: decay of the averaged weights, which are validated and kept.
        bf16: autocast to bfloat16.
        seed: decides everything random.
        dev_crops: number of crops that validation hears.
        validate_levels: numbers of levels that validation decodes.
        log_every: steps between log lines.
        validate_every: steps between validations.
        save_every: steps between checkpoints.
        time_limit_minutes: stop (saved) after so long.
        threads: CPU threads, 0 leaves torch's choice.
        tensorboard: also write events for TensorBoard, into the output folder.
        resume: auto continues the run in output; never refuses to.
    """

    output: str
    sources: list[Source]
    dev_sources: list[Source]
    codec: CodecConfig = field(default_factory=CodecConfig)
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    losses: LossWeights = field(default_factory=LossWeights)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=1e-3, schedule="wsd", beta1=0.8, beta2=0.95, weight_decay=0.01)
    )
    discriminator_lr: float = 5e-4
    start_from: str = ""
    decoder_only: bool = False
    steps: int = 10000
    batch_size: int = 12
    gradient_accumulation: int = 1
    activation_checkpointing: bool = False
    segment_seconds: float = 1.0
    quantizer_start: int = 500
    kmeans_batches: int = 60
    discriminator_start: int = 5000
    head_start: int = 0
    discriminator_every: int = 1
    ema_decay: float = 0.998
    bf16: bool = True
    seed: int = 0
    dev_crops: int = 64
    validate_levels: tuple[int, ...] = (1, 2, 4, 8)
    log_every: int = 20
    validate_every: int = 500
    save_every: int = 500
    time_limit_minutes: float | None = None
    threads: int = 0
    tensorboard: bool = False
    resume: Literal["auto", "never"] = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "gradient_accumulation", "kmeans_batches", "discriminator_every"):
            if getattr(self, name) < 1:
                raise SoundloomError(f"{name}: must be at least 1, not {getattr(self, name)}")
