"""Train a neural audio codec on folders of audio, on a CPU or on GPUs.

    python pipelines/train_codec.py --config configs/own_codec.yaml --corpus corpora/mine
    python pipelines/train_codec.py --config configs/codec/speech_24khz.yaml --batch_size 8 --time_limit_minutes 30
    torchrun --standalone --nproc_per_node 2 pipelines/train_codec.py --config configs/codec/speech_24khz.yaml

On GPUs `accelerate launch` takes the place of torchrun (on a CPU it starts one process unless given --multi_gpu).

--corpus FOLDER (repeat it for several) names a corpus or a plain folder of audio to learn from. It takes the place of
--sources, and of --dev_sources unless that is given too: validation gets the corpus's dev split, or 5% of the files.

Training has three phases: without quantization until quantizer_start, when k-means puts the codebooks on the latent;
then with it; from discriminator_start with discriminators too. With decoder_only the codes stay as they are (grids made
by the codec in start_from stay valid) and only the decoder learns.

The output folder gets log.jsonl, curve.png, checkpoints/ and the codec (averaged weights) in best/. The same command
resumes from the last checkpoint, exact to the bit. SIGTERM, Ctrl-C and the time limit save before they end the run.
"""

from __future__ import annotations

import pipelines.command_line.interrupts  # noqa: F401 - Ctrl-C while torch is imported ends in one line

# isort: split
import json
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from codec.common.devices import to_device
from codec.common.distributed import copy_from_first, gather_clips, mean_figures
from codec.common.seeds import seed_step
from codec.conv import apply_weight_norm
from codec.errors import SoundloomError
from codec.model import Codec, CodecConfig
from codec.pretrained import SHIPPED
from codec.seanet import ResidualUnit
from codec.spectral import ConvNeXtBlock
from pipelines.command_line.run import run
from pipelines.command_line.settings import flatten_settings, parse_settings
from pipelines.training import loop
from pipelines.training.adversarial import AdversarialState
from pipelines.training.codec_crops import HELD_OUT, Crops
from pipelines.training.codec_losses import CodecLosses, StepMode
from pipelines.training.codec_settings import FIXED_AT_START, TrainCodecSettings
from pipelines.training.codec_validation import alarm_lines, validate
from pipelines.training.curves import Panel
from pipelines.training.optimizer import set_learning_rate
from pipelines.training.quality_clips import CLIP_SECONDS, QualityClips
from pipelines.training.recompute import recompute_activations
from pipelines.training.run_lock import lock_output
from pipelines.training.run_settings import resume_point
from pipelines.training.saver import Saver
from pipelines.training.sharding import refuse_sharding
from pipelines.training.spikes import SpikeGuard
from pipelines.training.stopping import StopFlag

DEV_SECONDS = 2.0
CURVES = (
    Panel("Mel distance", ("mel",), ("mel_unquantized", "mel_by_levels.4", "mel_by_levels.8"), "lower"),
    Panel(
        "Predicted quality, DistillMOS (1 to 5)", (), ("distillmos.4", "distillmos.8", "distillmos_original"), "higher"
    ),
    Panel("Discriminators' mean scores", ("score_real", "score_fake")),
    Panel("Distance between the discriminators' features", ("feature",)),
    Panel("Shares of the gradient", ("share_mel", "share_adversarial", "share_feature")),
    Panel("Energy that each level leaves", ("residual",), (), "lower"),
    Panel("Perplexity of the codes", (), ("perplexity",), "higher"),
    Panel("Effective rank of the latent", (), ("effective_rank",), "higher"),
)


def main(argv: list[str] | None = None) -> int:
    words = expand_corpus(sys.argv[1:] if argv is None else argv)
    settings = parse_settings(TrainCodecSettings, words, description=__doc__)
    with StopFlag(settings.time_limit_minutes) as stop:
        refuse_sharding("a codec")
        accelerator = loop.start_processes(settings)
        with lock_output(settings.output, accelerator.is_main_process):
            return loop.run(CodecTask(settings, accelerator), settings, accelerator, stop)


def expand_corpus(words: Sequence[str]) -> list[str]:
    """Replace ``--corpus FOLDER`` by the sources that it stands for.

    Raises:
        SoundloomError: a folder is missing, or --sources is there too.
    """
    rest, folders, pending = [], [], iter(words)
    for word in pending:
        name, equals, value = word.partition("=")
        if name == "--corpus":
            folders.append(value if equals else next(pending, ""))
        else:
            rest.append(word)
    given = {word.partition("=")[0] for word in rest}
    if not folders:
        return rest
    if "" in folders or "--sources" in given:
        wrong = "--sources: give it or --corpus, not both" if "--sources" in given else "--corpus: name a folder"
        raise SoundloomError(wrong)

    def sources(split: str) -> str:
        return json.dumps([{"path": path, "split": split, "held_out": HELD_OUT} for path in folders])

    dev = [] if "--dev_sources" in given else ["--dev_sources", sources("dev")]
    return [*rest, "--sources", sources("train"), *dev]


class CodecTask:
    """Train a codec; see `pipelines.training.loop.Task`."""

    curves = CURVES

    def __init__(self, settings: TrainCodecSettings, accelerator: Accelerator) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self.output = Path(settings.output)
        checkpoint = resume_point(settings, "codec", FIXED_AT_START)
        rank, world = accelerator.process_index, accelerator.num_processes
        batch_size = settings.batch_size * settings.gradient_accumulation
        rate, seed = settings.codec.sample_rate, settings.seed
        common = settings.segment_seconds, batch_size, seed, settings.augment, rank, world
        self.crops = Crops(settings.sources, rate, *common)
        dev = Crops(settings.dev_sources, rate, DEV_SECONDS, settings.dev_crops, seed)
        self.dev_waves = dev.batch(0)[0].to(accelerator.device)
        self.clips: Tensor | None = None
        if settings.quality_clips:
            long = Crops(settings.dev_sources, rate, CLIP_SECONDS, settings.quality_clips, seed)
            self.clips = long.batch(0)[0].to(accelerator.device)
        self.codec = make_codec(settings).to(accelerator.device)
        self.state = self._make_state()
        self.seconds = 0.0  # of training, all runs together
        if checkpoint is not None:
            self.state.load(checkpoint)
            self.seconds = float(checkpoint.fact("seconds", (int, float)))
        self.quality = QualityClips(settings.quality_clips > 0, rate)
        self._figures: dict[str, Any] = {}
        self._logged = self.state.step
        self._findings: list[Any] = []

    def _make_state(self) -> AdversarialState:
        settings = self.settings
        losses = CodecLosses(settings.codec.sample_rate, settings.losses, settings.discriminators)
        losses.to(self.accelerator.device)
        learning = settings.optimizer, settings.discriminator_lr, settings.ema_decay
        spikes = SpikeGuard(settings.spike_threshold, settings.spike_patience, settings.save_every)
        return AdversarialState("codec", self.codec, losses, *learning, spikes, Saver(settings.save_in_background))

    @property
    def finished(self) -> int:
        """Number of finished steps."""
        return self.state.step

    def introduction(self) -> list[str]:
        count = sum(p.numel() for p in self.codec.parameters()) / 1e6
        return [f"{count:.1f} M parameters, {self.crops.hours:.1f} h of audio, from step {self.finished}"]

    def batches(self) -> Generator[tuple[Tensor, list[str]], None, None]:
        skipped = self.state.spikes.skipped
        return self.crops.prefetched(self.finished + skipped, self.settings.steps + skipped)

    def step(self, batch: tuple[Tensor, list[str]]) -> None:
        begin = time.monotonic()
        wave, names = batch
        wave = to_device(wave, self.accelerator.device)
        self._figures = take_step(self.settings, self.state, self.crops, wave, names)
        self.state.step += 1
        self.seconds += time.monotonic() - begin

    def figures(self, seconds: float) -> dict[str, Any]:
        figures = mean_figures(self._figures, self.accelerator.device)
        if "residual" in figures:
            figures["residual"] = [round(energy, 4) for energy in figures["residual"]]
        crops = (self.finished - self._logged) * self.crops.batch_size * self.accelerator.num_processes
        self._logged = self.finished
        return figures | {"audio_seconds_per_second": crops * self.settings.segment_seconds / max(seconds, 1e-9)}

    def evaluate(self) -> dict[str, Any]:
        if not self.accelerator.is_main_process:
            return {}
        levels = [n for n in self.settings.validate_levels if n <= self.codec.num_levels]
        with self.state.ema.applied(self.codec):
            report, self._findings = validate(self.codec, self.state.losses.mel, self.dev_waves, levels)
            if self.clips is not None:
                report |= self.quality.score(decode_levels(self.codec, self.clips, levels), self.clips)
        return {"seconds": self.seconds, **report}

    def remarks(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        report = {k: v for k, v in rows[-1].items() if isinstance(v, list | dict)} if rows else {}
        lines = [f"step {self.finished}: " + "  ".join(f"{key} {value}" for key, value in report.items())]
        return [*lines, *self.quality.notes(), *alarm_lines(self._findings, rows)]

    def export(self) -> None:
        if self.accelerator.is_main_process and self.codec.quantizer.is_active:
            with self.state.ema.applied(self.codec):
                self.codec.save_pretrained(self.output / "best")

    def save(self) -> None:
        facts = {"kind": "codec", "settings": flatten_settings(self.settings), "seconds": self.seconds}
        where, keep = self.output / "checkpoints", self.settings.keep_checkpoints
        self.state.save(where, facts, self.accelerator.is_main_process, keep)

    def settle(self) -> None:
        self.state.saver.wait()
        self.accelerator.wait_for_everyone()

    def rewind(self) -> bool:
        back = self.state.spikes.go_back(self.output / "checkpoints", self.state.step, self.state.load, self.settle)
        self._logged = min(self._logged, self.state.step)
        return back

    def result(self) -> list[str]:
        best = self.output / "best"
        if not best.is_dir():
            self.export()  # someone removed it after the last validation
        if not best.is_dir():
            return [f"no codec yet: the quantizer starts at step {self.settings.quantizer_start}"]
        next_command = f"next: python pipelines/evaluate_codec.py {best} RECORDINGS -o {self.output / 'report'}"
        return [f"codec in {best}, {self.seconds / 60:.0f} minutes of training in all", next_command]


def shape_of(config: CodecConfig) -> tuple[Any, ...]:
    """Return what two codecs must share for one to start from the other's weights."""
    network = config.spectral if config.network == "spectral" else replace(config.seanet, weight_norm=False)
    quantizer = config.quantizer
    return config.sample_rate, network, quantizer.num_levels, quantizer.codebook_size


def make_codec(settings: TrainCodecSettings) -> Codec:
    """Make the codec with random weights, or open the one to start from.

    Raises:
        SoundloomError: the codec to start from has another shape than the settings ask for.
    """
    seed_step(settings.seed, "weights")
    if settings.start_from:
        codec = Codec.from_pretrained(SHIPPED if settings.start_from == "shipped" else settings.start_from)
        if shape_of(codec.config) != shape_of(settings.codec):
            raise SoundloomError(f"start_from: the codec in {settings.start_from} has another shape than the settings")
        if settings.codec.network == "seanet" and settings.codec.seanet.weight_norm:
            apply_weight_norm(codec)
    else:
        codec = Codec(settings.codec)
        codec.quantizer.active.fill_(False)
    if settings.decoder_only:
        codec.encoder.requires_grad_(False)
    if settings.activation_checkpointing:
        recompute_activations(codec, (ConvNeXtBlock, ResidualUnit))
    return codec.train()


def take_step(
    settings: TrainCodecSettings, state: AdversarialState, crops: Crops, wave: Tensor, names: list[str]
) -> dict[str, Any]:
    """Take one step of the codec and, where they have entered, of the discriminators; return what to log."""
    codec, losses, step = state.network, state.losses, state.step
    assert isinstance(codec, Codec)
    seed_step(settings.seed, step)
    if not codec.quantizer.is_active and step >= settings.quantizer_start:
        start_quantizer(settings, codec, crops, wave.device)
    if settings.decoder_only:
        codec.quantizer.frozen = True
    enter = settings.discriminator_start
    if step in (settings.quantizer_start, enter, enter + settings.head_start):
        state.spikes.forget()  # another loss enters
    lr = set_learning_rate(state.optimizer, settings.optimizer, step, settings.steps)
    buffers = {name: value.clone() for name, value in codec.named_buffers() if value.is_floating_point()}
    norms = losses.balancer.state()
    adversarial = step >= settings.discriminator_start
    head_start = step < settings.discriminator_start + settings.head_start
    mode = StepMode(adversarial, head_start, settings.bf16, settings.gradient_accumulation)
    made = losses.generator_step(codec, wave, mode)

    def undo() -> None:  # the codebooks and the balance moved in the forward pass: put them back
        losses.balancer.load(norms)
        for name, value in codec.named_buffers():
            if name in buffers:
                value.copy_(buffers[name])

    finite = state.move(made.log, names, settings.optimizer.grad_clip, undo)
    figures = made.log
    if adversarial and finite and step % settings.discriminator_every == 0:
        for group in state.discriminator_optimizer.param_groups:
            group["lr"] = settings.discriminator_lr * lr / settings.optimizer.lr
        figures |= state.move_discriminators(wave, made)
    return figures | {"lr": lr}


@torch.no_grad()
def decode_levels(codec: Codec, waves: Tensor, levels: Sequence[int]) -> dict[str, Tensor]:
    """Return waves [M, C, N] as the codec decodes them from each number of levels; {} before it quantizes."""
    if not codec.quantizer.is_active:
        return {}
    training = codec.training
    codec.eval()
    codes = codec.quantizer.encode(codec.encoder(waves).float())
    decoded = {str(n): codec.decoder(codec.quantizer.decode(codes[:, :n]))[..., : waves.shape[-1]] for n in levels}
    codec.train(training)
    return decoded


@torch.no_grad()
def start_quantizer(settings: TrainCodecSettings, codec: Codec, crops: Crops, device: torch.device) -> None:
    """Start the codebooks by k-means on latents of fresh crops, the same in every process."""
    vectors = []
    for i in range(settings.kmeans_batches):
        wave, _ = crops.batch(-1 - i)  # crops that no step uses
        latent = torch.cat([codec.encoder(part) for part in to_device(wave, device).split(settings.batch_size)])
        latent = gather_clips(latent)
        vectors.append(latent.transpose(1, 2).reshape(-1, latent.shape[1]))
    codec.quantizer.start(torch.cat(vectors))
    copy_from_first(codec.quantizer)


if __name__ == "__main__":
    raise SystemExit(run(main))
