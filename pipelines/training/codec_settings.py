"""Settings of a codec's training."""

from __future__ import annotations

from dataclasses import dataclass, field

from codec.discriminators import DiscriminatorConfig
from codec.errors import SoundloomError
from codec.losses import LossWeights
from codec.model import CodecConfig
from pipelines.training.codec_augment import AugmentSettings
from pipelines.training.codec_crops import Source
from pipelines.training.optimizer import OptimizerSettings
from pipelines.training.run_settings import RunSettings

#: settings that a resumed run takes from its start
FIXED_AT_START = ("codec", "decoder_only")


@dataclass(frozen=True, kw_only=True)
class TrainCodecSettings(RunSettings):
    """A codec's training.

    Args:
        sources: folders of audio to learn from; ``--corpus FOLDER`` sets them and dev_sources.
        dev_sources: folders of audio to validate on.
        codec: the codec's shape.
        discriminators: which discriminators there are, and their shape.
        losses: weights of the losses.
        augment: what is done to crops.
        discriminator_lr: the discriminators' highest learning rate.
        start_from: folder of a codec to fine-tune, or ``shipped``; empty = random weights.
        decoder_only: keep encoder and codebooks, and with them all codes; train the decoder alone.
        batch_size: crops a step and process; gradient_accumulation multiplies it.
        gradient_accumulation: parts of a step's batch that are computed one after another, the same to the last digits.
        activation_checkpointing: compute the networks' blocks again in the backward pass, to save memory.
        segment_seconds: length of a crop.
        quantizer_start: step at which the codebooks start (0 with start_from).
        kmeans_batches: batches of latents for k-means; some tens of vectors a code are right.
        discriminator_start: step at which the discriminators enter; steps or more means never.
        head_start: steps in which the discriminators learn before their losses reach the codec.
        discriminator_every: the discriminators learn at every n-th step.
        dev_crops: number of crops of 2 s in validation.
        quality_clips: number of crops of 8 s that DistillMOS scores at each validation, where it is installed; 0 = off.
            Logged, never a loss.
        validate_levels: numbers of levels that validation decodes.
    """

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
    dev_crops: int = 64
    quality_clips: int = 0
    validate_levels: tuple[int, ...] = (1, 2, 4, 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least(1, "batch_size", "gradient_accumulation", "kmeans_batches", "discriminator_every")
        self.require_at_least(1, "dev_crops")
        self.require_at_least(0, "quantizer_start", "discriminator_start", "head_start", "quality_clips")
        if min(self.validate_levels, default=0) < 1:
            raise SoundloomError(f"validate_levels: must be numbers of 1 or more, not {list(self.validate_levels)}")
        if not 0.05 <= self.segment_seconds <= 600:
            raise SoundloomError(f"segment_seconds: must be 0.05 to 600, not {self.segment_seconds}")
        if not self.discriminator_lr > 0:
            raise SoundloomError(f"discriminator_lr: must be over 0, not {self.discriminator_lr}")
        if self.decoder_only and not self.start_from:
            raise SoundloomError("decoder_only: needs start_from, the codec whose codes are kept")
