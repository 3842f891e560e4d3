"""Tune (some layers of) a codec's decoder on what a voice's model knows, so that its means sound like speech.

    python pipelines/tune_decoder.py --config configs/codec/decoder_heart.yaml
    python pipelines/make_voice.py voices/mine --lm runs/lm_delay/best --drawn-levels 1 \\
        --decoder runs/decoder/decoder.safetensors

A voice whose levels are not all drawn (`drawn_levels`) gives the decoder means of codebook vectors, of which the codec
never heard any while it learned. Here the voice's model reads true codes with their text, and the decoder learns to
make the recordings of what it would have known (as vocoders are tuned on the "ground truth aligned" output of the model
before them). Encoder, codebooks, codes and the codec itself stay as they are: the voice keeps the tuned layers.

The output folder gets log.jsonl, curve.png, checkpoints/ and decoder.safetensors (averaged weights, at the lowest
validation distance). The same command again continues where the last checkpoint stands. SIGTERM, Ctrl-C and the time
limit save before they end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from codec.common.distributed import mean_figures
from codec.common.seeds import seed_step
from codec.discriminators import DiscriminatorConfig
from codec.errors import SoundloomError
from codec.losses import LossWeights
from codec.model import Codec
from lm.data.dataset import GridDataset
from lm.step_lm import DelayLM
from pipelines.command_line.progress import Progress, plot_curves
from pipelines.command_line.run import run
from pipelines.command_line.settings import changed_settings, flatten_settings, parse_settings
from pipelines.training.adversarial import JudgedState
from pipelines.training.checkpoints import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from pipelines.training.codec_step import CodecLosses
from pipelines.training.decoder_crops import VoiceCrops, audio_by_id
from pipelines.training.lm_settings import open_store
from pipelines.training.log import JsonlLog, record
from pipelines.training.optimizer import (
    OptimizerSettings,
    StopFlag,
    agree_to_stop,
    set_learning_rate,
)
from pipelines.voice.voice import Voice, load_voice

_EXIT = {"SIGTERM": 143, "SIGINT": 130}
_FIXED = ("voice", "store", "layers", "drawn_levels", "levels")


@dataclass(frozen=True)
class TuneDecoderSettings:
    """A tuning of a voice's decoder.

    Args:
        voice: folder or name of the voice whose model speaks.
        store: token store by the voice's codec, with texts.
        audio: manifests (manifest.jsonl) of the corpora that the store was made from; ``PREFIX=FILE`` where
            tokenize_corpus.py put PREFIX before their ids (--id-prefix).
        output: folder of the run.
        dev_store: token store for validation; its recordings stand in the same manifests. null = none.
        layers: the decoder's parts that learn, by the beginnings of their names; empty = all of it.
        levels: levels that are heard; 0 = all that the voice writes.
        drawn_levels: of these, levels that sound as they were drawn; the others as means.
        speakers: whose voices need no prompt, as in the training of the voice's model; null = all.
        join: pairs of utterances that are added for each, as in that training.
        prompted: pairs of prompt and utterance for each utterance of the others.
        codes_share: share of crops that are true codes' vectors, which is how a prompt's end sounds.
        losses: shares of the losses (those of the encoder are not used).
        discriminators: the discriminators' shape.
        discriminator_start: step at which discriminators enter; steps or more means never.
        head_start: steps in which the discriminators learn before the decoder hears of them.
        discriminator_lr: the discriminators' learning rate.
        optimizer: how the weights are moved.
        steps: training steps.
        rows: utterances a step and process.
        crops: crops of each utterance.
        segment_seconds: length of a crop.
        max_frames: longest utterance used, its prompt included; 0 = any.
        ema_decay: decay of the averaged weights, which are validated and kept.
        bf16: compute in bfloat16 where that is safe.
        seed: decides everything random.
        dev_batches: batches that validation hears.
        log_every: steps between log lines.
        validate_every: steps between validations.
        save_every: steps between checkpoints.
        time_limit_minutes: stop (saved) after so long.
        threads: CPU threads, 0 leaves torch's choice.
        resume: auto continues the run in output; never refuses to.
    """

    voice: str
    store: str
    audio: list[str]
    output: str
    dev_store: str | None = None
    layers: list[str] = field(default_factory=lambda: ["input", "bottleneck", "upsample", "blocks.0.", "blocks.1."])
    levels: int = 0
    drawn_levels: int = 1
    speakers: list[str] | None = None
    join: float = 0.0
    prompted: float = 1.0
    codes_share: float = 0.1
    losses: LossWeights = field(default_factory=lambda: LossWeights(wave=0.05, judge_seconds=0.5))
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
    bf16: bool = True
    seed: int = 0
    dev_batches: int = 12
    log_every: int = 20
    validate_every: int = 250
    save_every: int = 250
    time_limit_minutes: float | None = None
    threads: int = 0
    resume: Literal["auto", "never"] = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "rows", "crops", "drawn_levels", "dev_batches"):
            if getattr(self, name) < 1:
                raise SoundloomError(f"{name}: must be at least 1, not {getattr(self, name)}")


@dataclass
class State(JudgedState):
    """What a tuning changes while it runs; all of it goes into a checkpoint."""

    best: float | None = None
    own: frozenset[str] = frozenset()  # tensors that the voice had of its own before: they stay its own

    def save(self, folder: Path, settings: TuneDecoderSettings) -> None:
        """Commit a checkpoint; from the main process only."""
        facts = self.facts() | {"settings": flatten_settings(settings), "best": self.best}
        save_checkpoint(folder, self.step, self.tensors(), facts)

    def load(self, checkpoint: Checkpoint) -> None:
        super().load(checkpoint)
        self.best = checkpoint.facts["best"]


def main(argv: list[str] | None = None) -> int:
    settings = parse_settings(TuneDecoderSettings, argv, description=__doc__)
    with StopFlag(settings.time_limit_minutes) as stop:
        return tune(settings, stop)


def tune(settings: TuneDecoderSettings, stop: StopFlag) -> int:
    """Run the whole tuning; returns the exit code (143 after SIGTERM, 130 after Ctrl-C, both saved)."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    accelerator = Accelerator(cpu=True)  # a few million weights: the voice's model runs where voices run
    voice = open_for_tuning(settings)
    output = Path(settings.output)
    if settings.resume == "never" and list_checkpoints(output / "checkpoints"):
        raise SoundloomError(f"{output}: holds checkpoints of an earlier run; choose another output, or resume auto")
    state = make_state(settings, voice, load_checkpoint(output / "checkpoints"))
    rank, world = accelerator.process_index, accelerator.num_processes
    audio = audio_by_id(settings.audio)
    crops = make_crops(settings, voice, settings.store, audio, rank, world)
    dev = None if settings.dev_store is None else make_crops(settings, voice, settings.dev_store, audio)
    log = JsonlLog(output / "log.jsonl")
    if accelerator.is_main_process:
        log.rewind(state.step)
    reason, began = None, time.monotonic()
    with Progress(settings.steps, state.step, accelerator.is_main_process) as progress:
        count = sum(p.numel() for p in state.network.parameters() if p.requires_grad)
        progress.say(f"{count / 1e6:.1f} M parameters learn, {len(crops.usable)} utterances, from step {state.step}")
        for step, latents, wave, names in crops.prefetched(state.step, settings.steps):
            figures = take_step(settings, state, latents, wave, names)
            state.step = step + 1
            progress.advance(state.step)
            if state.step % settings.log_every == 0:
                figures = mean_figures(figures, accelerator.device)
                figures["seconds"] = time.monotonic() - began
                if accelerator.is_main_process:
                    record(log, None, state.step, figures)
                progress.show(state.step, {k: v for k, v in figures.items() if isinstance(v, float)})
            reason = agree_to_stop(stop, accelerator.device)
            last = state.step == settings.steps or reason == "time limit"
            if accelerator.is_main_process and (last or state.step % settings.validate_every == 0):
                record(log, None, state.step, evaluate(settings, state, dev, progress, output))
            if accelerator.is_main_process and (last or reason or state.step % settings.save_every == 0):
                state.save(output / "checkpoints", settings)
            if reason:
                progress.say(f"stopped at step {state.step}: {reason}; the same command continues")
                break
    if accelerator.is_main_process:
        plot_curves(log.read(), output / "curve.png", ("mel", "dev_mel", "wave", "discriminator", "grad_norm"))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return _EXIT.get(reason or "", 0)


def open_for_tuning(settings: TuneDecoderSettings) -> Voice:
    """The voice. Raises: SoundloomError where it has no decoder or model that this can work with."""
    voice = load_voice(settings.voice)
    if not isinstance(voice.codec, Codec) or not isinstance(voice.lm.model, DelayLM):
        raise SoundloomError(f"{settings.voice}: tuning needs a codec of soundloom and a delay model")
    levels = settings.levels or voice.num_levels
    if not settings.drawn_levels <= levels <= voice.num_levels:
        raise SoundloomError(
            f"levels {settings.levels}, drawn_levels {settings.drawn_levels}: the voice writes {voice.num_levels}"
        )
    voice.lm.model.eval()
    return voice


def make_crops(
    settings: TuneDecoderSettings, voice: Voice, store: str, audio: dict[str, Path], rank: int = 0, world: int = 1
) -> VoiceCrops:
    """What to learn or validate from. Raises: SoundloomError where the store is not of the voice's codec."""
    reader = open_store(store, 0)  # all levels: a prompt's own latents are made of all
    reader.require_codec(voice.codec)
    dataset = GridDataset(
        reader,
        voice.lm.tokenizer,
        max_frames=settings.max_frames,
        join=settings.join,
        speakers=settings.speakers,
        prompted=settings.prompted,
        seed=settings.seed,
    )
    return VoiceCrops(
        voice,
        dataset,
        audio,
        levels=settings.levels or voice.num_levels,
        drawn=settings.drawn_levels,
        seconds=settings.segment_seconds,
        rows=settings.rows,
        crops=settings.crops,
        codes_share=settings.codes_share,
        bf16=settings.bf16,
        seed=settings.seed,
        rank=rank,
        world=world,
    )


def make_state(settings: TuneDecoderSettings, voice: Voice, checkpoint: Checkpoint | None) -> State:
    """The decoder that the voice has now, its judges and their optimizers; at the start, or at the checkpoint."""
    if checkpoint is not None:
        for key, (old, new) in changed_settings(checkpoint.facts["settings"], flatten_settings(settings)).items():
            if key in _FIXED:
                raise SoundloomError(
                    f"{key}: the run in {settings.output} began with {old!r}, so {new!r} cannot be used"
                )
    torch.manual_seed(settings.seed)
    decoder = voice.player.decoder.train()
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_(not settings.layers or name.startswith(tuple(settings.layers)))
    if not any(parameter.requires_grad for parameter in decoder.parameters()):
        raise SoundloomError(f"layers: no part of the decoder has a name that begins with {', '.join(settings.layers)}")
    losses = CodecLosses(voice.sample_rate, settings.losses, settings.discriminators)
    learns = settings.optimizer, settings.discriminator_lr, settings.ema_decay
    state = State(*State.parts("decoder", decoder, losses, *learns), own=frozenset(voice.decoder or ()))
    if checkpoint is not None:
        state.load(checkpoint)
    return state


def take_step(
    settings: TuneDecoderSettings, state: State, latents: Tensor, wave: Tensor, names: list[str]
) -> dict[str, Any]:
    """One step of the decoder and, where they have entered, of the discriminators; returns what to log."""
    seed_step(settings.seed, state.step)
    lr = set_learning_rate(state.optimizer, settings.optimizer, state.step, settings.steps)
    adversarial = state.step >= settings.discriminator_start
    norms = state.losses.balancer.state()
    head_start = state.step < settings.discriminator_start + settings.head_start
    out, figures = state.losses.decoder_step(
        state.network, latents, wave, adversarial, settings.bf16, head_start=head_start
    )
    finite = state.move(figures, names, settings.optimizer.grad_clip, lambda: state.losses.balancer.load(norms))
    if adversarial and finite:
        figures |= state.move_judges(wave, out, settings.bf16)
    return figures | {"lr": lr}


@torch.no_grad()
def evaluate(
    settings: TuneDecoderSettings, state: State, dev: VoiceCrops | None, progress: Progress, output: Path
) -> dict[str, Any]:
    """Validate the averaged weights, and keep their tuned layers where they are the best so far."""
    report: dict[str, Any] = {}
    with state.ema.applied(state.network):
        if dev is not None:
            distances = []
            for number in range(settings.dev_batches):
                latents, wave, _ = dev.batch(-1 - number)
                made = state.network(latents)[..., -wave.shape[-1] :]
                distances.append(float(state.losses.mel(made, wave)))
            report["dev_mel"] = sum(distances) / len(distances)
        if dev is None or state.best is None or report["dev_mel"] < state.best:
            state.best = report.get("dev_mel")
            tuned = {name for name, parameter in state.network.named_parameters() if parameter.requires_grad}
            tensors = {n: t.detach().clone() for n, t in state.network.state_dict().items() if n in tuned | state.own}
            save_file(tensors, output / "decoder.safetensors")
    progress.say(f"step {state.step}: " + "  ".join(f"{key} {value:.4f}" for key, value in report.items()))
    return report


if __name__ == "__main__":
    raise SystemExit(run(main))
