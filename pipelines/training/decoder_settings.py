"""Settings of the tuning of a voice's decoder."""

from __future__ import annotations

from dataclasses import dataclass, field

from codec.discriminators import DiscriminatorConfig
from codec.errors import SoundloomError
from codec.losses import LossWeights
from pipelines.training.optimizer import OptimizerSettings
from pipelines.training.run_settings import RunSettings

#: settings that a resumed run takes from its start
FIXED_AT_START = ("voice", "store", "layers", "drawn_levels", "levels")


@dataclass(frozen=True, kw_only=True)
class TuneDecoderSettings(RunSettings):
    """A tuning of a voice's decoder.

    Args:
        voice: folder or name of the voice whose model predicts the latents.
        store: token store made with the voice's codec, with texts.
        audio: manifests (manifest.jsonl) of the corpora that the store was made from; ``PREFIX=FILE`` where
            tokenize_corpus.py put PREFIX before their ids (--id-prefix).
        dev_store: token store for validation; its recordings are in the same manifests. null = none.
        layers: the decoder's parts that learn, by the beginnings of their names; empty = all of it.
        levels: levels that are decoded; 0 = all that the voice writes.
        drawn_levels: of these, levels decoded as sampled codes; the others as expected latents.
        speakers: speakers who need no prompt, as in the training of the voice's model; null = all.
        join: pairs of utterances that are added for each, as in that training.
        prompted: pairs of prompt and utterance for each utterance of the other speakers.
        codes_share: share of crops that are true codes' vectors, which is what the end of a prompt is made of.
        losses: weights of the losses (those of the encoder are not used).
        discriminators: which discriminators there are, and their shape.
        discriminator_start: step at which discriminators enter; steps or more means never.
        head_start: steps in which the discriminators learn before their losses reach the decoder.
        discriminator_lr: the discriminators' highest learning rate.
        rows: utterances a step and process.
        crops: crops of each utterance.
        segment_seconds: length of a crop.
        max_frames: longest utterance used, its prompt included; 0 = any.
        dev_batches: batches in validation.
        quality_clips: number of validation batches that DistillMOS scores, where it is installed, their crops joined;
            0 = off. Logged, never a loss.
    """

    voice: str
    store: str
    audio: list[str]
    dev_store: str | None = None
    layers: list[str] = field(default_factory=lambda: ["input", "bottleneck", "upsample", "blocks.0.", "blocks.1."])
    levels: int = 0
    drawn_levels: int = 1
    speakers: list[str] | None = None
    join: float = 0.0
    prompted: float = 1.0
    codes_share: float = 0.1
    losses: LossWeights = field(default_factory=lambda: LossWeights(wave=0.05, discriminator_seconds=0.5))
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    discriminator_start: int = 1_000_000
    head_start: int = 0
    discriminator_lr: float = 3e-4
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(
            lr=6e-4,
            schedule="wsd",
            warmup_steps=30,
            decay_fraction=0.4,
            final_lr_fraction=0.03,
            beta1=0.8,
            weight_decay=0.01,
        )
    )
    steps: int = 2000
    rows: int = 8
    crops: int = 1
    segment_seconds: float = 1.0
    max_frames: int = 900
    ema_decay: float = 0.997
    dev_batches: int = 12
    quality_clips: int = 0
    validate_every: int = 250
    save_every: int = 250

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least(1, "rows", "crops", "drawn_levels", "dev_batches")
        self.require_at_least(0, "levels", "max_frames", "discriminator_start", "head_start", "quality_clips")
        self.require_at_least(0, "join", "prompted", "codes_share")
        if not 0.05 <= self.segment_seconds <= 60:
            raise SoundloomError(f"segment_seconds: must be 0.05 to 60, not {self.segment_seconds}")
        if not self.discriminator_lr > 0:
            raise SoundloomError(f"discriminator_lr: must be over 0, not {self.discriminator_lr}")
