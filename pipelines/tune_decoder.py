"""Tune (some layers of) a codec's decoder to the latents that a voice's model predicts, so that they sound like speech.

    python pipelines/tune_decoder.py --config configs/codec/decoder_heart.yaml
    python pipelines/make_voice.py voices/mine --lm runs/lm_delay/best --sampled-levels 1 \\
        --decoder runs/decoder/decoder.safetensors

A voice that does not sample all levels (`drawn_levels`) gives the decoder expected latents, which the codec never met
in its training. Here the voice's model reads true codes with their text, and the decoder learns to make the recordings
from the model's predictions (as vocoders are tuned on teacher-forced output of the model before them). Encoder,
codebooks, codes and the codec itself stay as they are: the voice keeps the tuned layers.

The output folder gets log.jsonl, curve.png, checkpoints/ and decoder.safetensors (averaged weights, at the lowest
validation distance). The same command resumes from the last checkpoint. SIGTERM, Ctrl-C and the time limit save before
they end the run.
"""

from __future__ import annotations

import pipelines.command_line.interrupts  # noqa: F401 - Ctrl-C while torch is imported ends in one line

# isort: split
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import Tensor, nn

from codec.common.distributed import mean_figures
from codec.common.files import write_bytes
from codec.common.seeds import seed_step
from codec.errors import SoundloomError
from codec.model import Codec
from lm.data.dataset import GridDataset
from lm.step_lm import DelayLM
from pipelines.command_line.run import run
from pipelines.command_line.settings import flatten_settings, parse_settings
from pipelines.training import loop
from pipelines.training.adversarial import AdversarialState
from pipelines.training.codec_losses import CodecLosses, StepMode
from pipelines.training.codec_validation import alarm_lines
from pipelines.training.curves import Panel
from pipelines.training.decoder_crops import VoiceCrops, audio_by_id
from pipelines.training.decoder_settings import FIXED_AT_START, TuneDecoderSettings
from pipelines.training.lm_settings import open_store
from pipelines.training.optimizer import set_learning_rate
from pipelines.training.quality_clips import QualityClips
from pipelines.training.run_lock import lock_output
from pipelines.training.run_settings import resume_point
from pipelines.training.saver import Saver
from pipelines.training.sharding import refuse_sharding
from pipelines.training.spikes import SpikeGuard
from pipelines.training.stopping import StopFlag
from pipelines.voice.voice import Voice, load_voice

CURVES = (
    Panel("Mel distance", ("mel",), ("dev_mel",), "lower"),
    Panel("Predicted quality, DistillMOS (1 to 5)", (), ("distillmos.latents", "distillmos_original"), "higher"),
    Panel("Distance of the waveforms", ("wave",), (), "lower"),
    Panel("Discriminators' mean scores", ("score_real", "score_fake")),
    Panel("Distance between the discriminators' features", ("feature",)),
    Panel("Norm of the gradient", ("grad_norm",)),
)


def main(argv: list[str] | None = None) -> int:
    settings = parse_settings(TuneDecoderSettings, argv, description=__doc__)
    with StopFlag(settings.time_limit_minutes) as stop:
        refuse_sharding("a decoder")
        accelerator = loop.start_processes(settings, cpu=True)
        with lock_output(settings.output, accelerator.is_main_process):
            return loop.run(DecoderTask(settings, accelerator), settings, accelerator, stop)


class DecoderTask:
    """Tune a voice's decoder; see `pipelines.training.loop.Task`. A few million weights: it runs where voices run."""

    curves = CURVES

    def __init__(self, settings: TuneDecoderSettings, accelerator: Accelerator) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self.output = Path(settings.output)
        voice = open_for_tuning(settings)
        checkpoint = resume_point(settings, "decoder", FIXED_AT_START)
        self.state = make_state(settings, voice)
        self.own = frozenset(voice.decoder or ())  # tensors that the voice had of its own before: they stay its own
        self.best: float | None = None
        if checkpoint is not None:
            self.state.load(checkpoint)
            self.best = checkpoint.fact("best", (float, int, type(None)))
        place = accelerator.process_index, accelerator.num_processes
        audio = audio_by_id(settings.audio)
        self.crops = make_crops(settings, voice, settings.store, audio, *place)
        self.dev = None if settings.dev_store is None else make_crops(settings, voice, settings.dev_store, audio)
        self.quality = QualityClips(settings.quality_clips > 0, voice.sample_rate)
        self.seconds = 0.0  # of training in this run
        self._figures: dict[str, Any] = {}

    @property
    def finished(self) -> int:
        """Number of finished steps."""
        return self.state.step

    def introduction(self) -> list[str]:
        count = sum(p.numel() for p in self.state.network.parameters() if p.requires_grad) / 1e6
        return [f"{count:.1f} M parameters learn, {len(self.crops.usable)} utterances, from step {self.finished}"]

    def batches(self) -> Generator[tuple[Tensor, Tensor, list[str]], None, None]:
        skipped = self.state.spikes.skipped
        return self.crops.prefetched(self.finished + skipped, self.settings.steps + skipped)

    def step(self, batch: tuple[Tensor, Tensor, list[str]]) -> None:
        self._figures = take_step(self.settings, self.state, *batch)
        self.state.step += 1

    def figures(self, seconds: float) -> dict[str, Any]:
        self.seconds += seconds
        return mean_figures(self._figures, self.accelerator.device) | {"seconds": self.seconds}

    @torch.no_grad()
    def evaluate(self) -> dict[str, Any]:
        if self.dev is None or not self.accelerator.is_main_process:
            return {}
        distances, clips, originals = [], [], []
        with self.state.ema.applied(self.state.network):
            for number in range(self.settings.dev_batches):
                latents, wave, _ = self.dev.batch(-1 - number)
                made = self.state.network(latents)[..., -wave.shape[-1] :]
                distances.append(float(self.state.losses.mel(made, wave)))
                if number < self.settings.quality_clips:
                    clips.append(torch.cat(list(made), dim=1))
                    originals.append(torch.cat(list(wave), dim=1))
        distance = sum(distances) / len(distances)
        best = self.best is None or distance < self.best
        self.best = distance if best else self.best
        return {"dev_mel": distance, "best": best, **self.quality.score({"latents": clips}, originals)}

    def remarks(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        return [*self.quality.notes(), *alarm_lines([], rows)]

    def export(self) -> None:
        if not self.accelerator.is_main_process:
            return
        network = self.state.network
        with self.state.ema.applied(network):
            tuned = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
            tensors = {n: t.detach().clone() for n, t in network.state_dict().items() if n in tuned | self.own}
        write_bytes(self.output / "decoder.safetensors", save(tensors))

    def save(self) -> None:
        facts = {"kind": "decoder", "settings": flatten_settings(self.settings), "best": self.best}
        where, keep = self.output / "checkpoints", self.settings.keep_checkpoints
        self.state.save(where, facts, self.accelerator.is_main_process, keep)

    def settle(self) -> None:
        self.state.saver.wait()
        self.accelerator.wait_for_everyone()

    def rewind(self) -> bool:
        return self.state.spikes.go_back(self.output / "checkpoints", self.state.step, self.state.load, self.settle)

    def result(self) -> list[str]:
        weights = self.output / "decoder.safetensors"
        best = "" if self.best is None else f", validation mel distance {self.best:.4f}"
        made = f"next: python pipelines/make_voice.py VOICE --lm MODEL --sampled-levels {self.settings.drawn_levels}"
        return [f"layers in {weights}{best}", f"{made} --decoder {weights}"]


def open_for_tuning(settings: TuneDecoderSettings) -> Voice:
    """Open the voice.

    Raises:
        SoundloomError: its codec or model is of a kind that cannot be tuned, or it writes fewer levels.
    """
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
    """Return what to learn or validate from.

    Raises:
        SoundloomError: the store was made with another codec.
    """
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


def make_state(settings: TuneDecoderSettings, voice: Voice) -> AdversarialState:
    """Return the voice's present decoder with fresh discriminators and optimizers.

    Raises:
        SoundloomError: no part of the decoder has one of the names in ``layers``.
    """
    torch.manual_seed(settings.seed)
    decoder: nn.Module = voice.player.decoder.train()
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_(not settings.layers or name.startswith(tuple(settings.layers)))
    if not any(parameter.requires_grad for parameter in decoder.parameters()):
        raise SoundloomError(f"layers: no part of the decoder has a name that begins with {', '.join(settings.layers)}")
    losses = CodecLosses(voice.sample_rate, settings.losses, settings.discriminators)
    spikes = SpikeGuard(settings.spike_threshold, settings.spike_patience, settings.save_every)
    learning = settings.optimizer, settings.discriminator_lr, settings.ema_decay
    return AdversarialState("decoder", decoder, losses, *learning, spikes, Saver(settings.save_in_background))


def take_step(
    settings: TuneDecoderSettings, state: AdversarialState, latents: Tensor, wave: Tensor, names: list[str]
) -> dict[str, Any]:
    """Take one step of the decoder and, where they have entered, of the discriminators; return what to log."""
    seed_step(settings.seed, state.step)
    lr = set_learning_rate(state.optimizer, settings.optimizer, state.step, settings.steps)
    adversarial = state.step >= settings.discriminator_start
    head_start = state.step < settings.discriminator_start + settings.head_start
    norms = state.losses.balancer.state()
    made = state.losses.decoder_step(state.network, latents, wave, StepMode(adversarial, head_start, settings.bf16))
    finite = state.move(made.log, names, settings.optimizer.grad_clip, lambda: state.losses.balancer.load(norms))
    figures = made.log
    if adversarial and finite:
        figures |= state.move_discriminators(wave, made)
    return figures | {"lr": lr}


if __name__ == "__main__":
    raise SystemExit(run(main))
