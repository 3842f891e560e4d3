"""Train a neural audio codec on folders of audio, on a CPU or on GPUs.

    python pipelines/train_codec.py --config configs/codec/speech_24khz.yaml
    python pipelines/train_codec.py --config configs/codec/speech_24khz.yaml --batch_size 8 --time_limit_minutes 30
    torchrun --standalone --nproc_per_node 2 pipelines/train_codec.py --config configs/codec/speech_24khz.yaml

On GPUs `accelerate launch` takes torchrun's place (on a CPU it starts one process unless given --multi_gpu).

Three phases: without quantization until quantizer_start, when k-means puts the codebooks on the latent; then with it;
from discriminator_start with discriminators too. With decoder_only the codes stay as they are (grids made by the
codec in `start_from` stay valid) and only the decoder learns.

The output folder gets log.jsonl, curve.png, checkpoints/ and the codec (averaged weights) in codec/. The same command
again continues where the last checkpoint stands, to the bit. SIGTERM, Ctrl-C and the time limit save before they end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from codec.common.distributed import alike_over_processes, gather_clips, mean_figures
from codec.common.seeds import seed_step, stable_seed
from codec.conv import apply_weight_norm
from codec.errors import SoundloomError
from codec.model import Codec, CodecConfig
from codec.seanet import ResidualUnit
from codec.spectral import ConvNeXtBlock
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
from pipelines.training.codec_crops import Crops
from pipelines.training.codec_settings import TrainCodecSettings
from pipelines.training.codec_step import (
    CodecLosses,
    alarm_lines,
    validate,
)
from pipelines.training.log import JsonlLog, open_tensorboard, record
from pipelines.training.optimizer import (
    StopFlag,
    agree_to_stop,
    recompute_activations,
    set_learning_rate,
)
from pipelines.training.sharding import refuse_sharding

_EXIT = {"SIGTERM": 143, "SIGINT": 130}
CURVES = ("mel", "mel_by_levels.8", "discriminator", "residual", "perplexity", "effective_rank")


@dataclass
class State(JudgedState):
    """What a training changes while it runs; all of it goes into a checkpoint."""

    seconds: float = 0.0

    @property
    def codec(self) -> Codec:
        """The network that learns."""
        assert isinstance(self.network, Codec)
        return self.network

    def save(self, folder: Path, settings: TrainCodecSettings, is_main: bool) -> None:
        """Commit a checkpoint from the main process; every process must call it, and all must hold the same codec."""
        if not alike_over_processes(self.codec):
            raise SoundloomError(
                f"step {self.step}: the processes' codecs differ, so that none was saved; go on from the last "
                "checkpoint with the same versions and hardware in every process"
            )
        if is_main:
            facts = self.facts() | {"settings": flatten_settings(settings), "seconds": self.seconds}
            save_checkpoint(folder, self.step, self.tensors(), facts)

    def load(self, checkpoint: Checkpoint) -> None:
        super().load(checkpoint)
        self.seconds = checkpoint.facts["seconds"]


def main(argv: list[str] | None = None) -> int:
    settings = parse_settings(TrainCodecSettings, argv, description=__doc__)
    with StopFlag(settings.time_limit_minutes) as stop:
        return train(settings, stop)


def train(settings: TrainCodecSettings, stop: StopFlag) -> int:
    """Run the whole training; returns the exit code (143 after SIGTERM, 130 after Ctrl-C, both saved)."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())  # else CPU processes do not join
    refuse_sharding("a codec")
    output = Path(settings.output)
    checkpoint = find_checkpoint(settings, output / "checkpoints")
    state = make_state(settings, checkpoint, accelerator.device)
    rate = settings.codec.sample_rate
    rank, world = accelerator.process_index, accelerator.num_processes
    share = (settings.seed, settings.augment, rank, world)
    batch_size = settings.batch_size * settings.gradient_accumulation
    crops = Crops(settings.sources, rate, settings.segment_seconds, batch_size, *share)
    dev = Crops(settings.dev_sources, rate, 2.0, settings.dev_crops, settings.seed)
    dev_waves = dev.batch(0)[0].to(accelerator.device)
    log = JsonlLog(output / "log.jsonl")
    if accelerator.is_main_process:
        log.rewind(state.step)
    board = open_tensorboard(output, settings.tensorboard and accelerator.is_main_process)
    reason, window_start, window_step = None, time.monotonic(), state.step
    with Progress(settings.steps, state.step, accelerator.is_main_process) as progress:
        count = sum(p.numel() for p in state.codec.parameters())
        progress.say(f"{count / 1e6:.1f} M parameters, {crops.hours:.1f} h of audio, from step {state.step}")
        for step, wave, names in crops.prefetched(state.step, settings.steps):
            begin = time.monotonic()
            figures = take_step(settings, state, crops, wave.to(accelerator.device), names)
            state.step = step + 1
            state.seconds += time.monotonic() - begin
            progress.advance(state.step)
            if state.step % settings.log_every == 0:
                figures = mean_figures(figures, accelerator.device)
                done = (state.step - window_step) * crops.batch_size * world * settings.segment_seconds
                figures["audio_seconds_per_second"] = done / (time.monotonic() - window_start)
                if accelerator.is_main_process:
                    record(log, board, state.step, figures)
                progress.show(state.step, {k: v for k, v in figures.items() if isinstance(v, float)})
                window_start, window_step = time.monotonic(), state.step
            reason = agree_to_stop(stop, accelerator.device)
            last = state.step == settings.steps or reason == "time limit"
            main_process = accelerator.is_main_process
            if main_process and (last or state.step % settings.validate_every == 0):
                record(log, board, state.step, evaluate(settings, state, dev_waves, log, progress, output))
                window_start, window_step = time.monotonic(), state.step
            if last or reason or state.step % settings.save_every == 0:
                state.save(output / "checkpoints", settings, main_process)
            if reason:
                progress.say(f"stopped at step {state.step}: {reason}; the same command continues")
                break
    if accelerator.is_main_process:
        plot_curves(flat_rows(log), output / "curve.png", CURVES)
    accelerator.wait_for_everyone()  # a process that leaves while another still talks to it dies by a signal
    accelerator.end_training()
    return _EXIT.get(reason or "", 0)


def find_checkpoint(settings: TrainCodecSettings, folder: Path) -> Checkpoint | None:
    """Return what to continue from; refuse to begin on top of an earlier run, and settings that cannot change."""
    if settings.resume == "never" and list_checkpoints(folder):
        raise SoundloomError(f"{folder}: holds checkpoints of an earlier run; choose another output, or resume auto")
    checkpoint = load_checkpoint(folder)
    if checkpoint is not None:
        for key, (old, new) in changed_settings(checkpoint.facts["settings"], flatten_settings(settings)).items():
            if key.startswith("codec."):
                raise SoundloomError(
                    f"{key}: the run in {settings.output} began with {old!r}, so {new!r} cannot be used"
                )
    return checkpoint


def shape_of(config: CodecConfig) -> tuple[Any, ...]:
    """What two codecs must share for one to go on from the other's weights."""
    network = config.spectral if config.network == "spectral" else replace(config.seanet, weight_norm=False)
    quantizer = config.quantizer
    return config.sample_rate, network, quantizer.num_levels, quantizer.codebook_size


def make_state(settings: TrainCodecSettings, checkpoint: Checkpoint | None, device: torch.device) -> State:
    """Make the codec, its judges and their optimizers, at the start or where the checkpoint stands."""
    torch.manual_seed(stable_seed(settings.seed, "weights"))
    if settings.start_from:
        codec = Codec.from_pretrained(settings.start_from)
        if shape_of(codec.config) != shape_of(settings.codec):
            raise SoundloomError(
                f"start_from: the codec in {settings.start_from} has another shape than the settings ask for"
            )
        if settings.codec.network == "seanet" and settings.codec.seanet.weight_norm:
            apply_weight_norm(codec)
    else:
        codec = Codec(settings.codec)
        codec.quantizer.active.fill_(False)
    if settings.decoder_only:
        if not settings.start_from:
            raise SoundloomError("decoder_only: needs start_from, the codec whose codes are kept")
        codec.encoder.requires_grad_(False)
    losses = CodecLosses(settings.codec.sample_rate, settings.losses, settings.discriminators)
    codec.to(device).train()
    losses.to(device)
    if settings.activation_checkpointing:
        recompute_activations(codec, (ConvNeXtBlock, ResidualUnit))
    learns = settings.optimizer, settings.discriminator_lr, settings.ema_decay
    state = State(*State.parts("codec", codec, losses, *learns))
    if checkpoint is not None:
        state.load(checkpoint)
    return state


def take_step(
    settings: TrainCodecSettings, state: State, crops: Crops, wave: torch.Tensor, names: list[str]
) -> dict[str, Any]:
    """One step of the codec and, where they have entered, of the discriminators; returns what to log."""
    codec, losses, step = state.codec, state.losses, state.step
    seed_step(settings.seed, step)
    if not codec.quantizer.active and step >= settings.quantizer_start:
        start_quantizer(settings, state, crops, wave.device)
    if settings.decoder_only:
        codec.quantizer.frozen = True
    lr = set_learning_rate(state.optimizer, settings.optimizer, step, settings.steps)
    adversarial = step >= settings.discriminator_start
    buffers = {name: value.clone() for name, value in codec.named_buffers() if value.is_floating_point()}
    norms = losses.balancer.state()
    parts = settings.gradient_accumulation
    head_start = step < settings.discriminator_start + settings.head_start
    out, figures = losses.generator_step(codec, wave, adversarial, settings.bf16, parts=parts, head_start=head_start)

    def undo() -> None:  # the codebooks and the balance moved in the forward pass: put them back
        losses.balancer.load(norms)
        for name, value in codec.named_buffers():
            if name in buffers:
                value.copy_(buffers[name])

    finite = state.move(figures, names, settings.optimizer.grad_clip, undo)
    if adversarial and finite and step % settings.discriminator_every == 0:
        for group in state.judge_optimizer.param_groups:
            group["lr"] = settings.discriminator_lr * lr / settings.optimizer.lr
        figures |= state.move_judges(wave, out, settings.bf16, parts)
    return figures | {"lr": lr}


@torch.no_grad()
def start_quantizer(settings: TrainCodecSettings, state: State, crops: Crops, device: torch.device) -> None:
    """Start the codebooks by k-means on latents of fresh crops, the same in every process."""
    vectors = []
    for i in range(settings.kmeans_batches):
        wave, _ = crops.batch(-1 - i)  # crops that no step sees
        latent = torch.cat([state.codec.encoder(part) for part in wave.to(device).split(settings.batch_size)])
        latent = gather_clips(latent)
        vectors.append(latent.transpose(1, 2).reshape(-1, latent.shape[1]))
    state.codec.quantizer.start(torch.cat(vectors))


def evaluate(
    settings: TrainCodecSettings, state: State, waves: torch.Tensor, log: JsonlLog, progress: Progress, output: Path
) -> dict[str, Any]:
    """Validate the averaged weights and keep the codec in the output folder; returns the report for the log."""
    levels = [n for n in settings.validate_levels if n <= state.codec.num_levels]
    with state.ema.applied(state.codec):
        report, findings = validate(state.codec, state.losses.mel, waves, levels)
        if state.codec.quantizer.active:
            state.codec.save_pretrained(output / "codec")
    progress.say(f"step {state.step}: " + "  ".join(f"{key} {value}" for key, value in report.items()))
    for line in alarm_lines(findings, [*log.read(), {"step": state.step, **report}]):
        progress.say(line)
    return {"seconds": state.seconds, **report}


def flat_rows(log: JsonlLog) -> list[dict[str, Any]]:
    """Log rows with nested figures under dotted keys, for the picture."""
    rows = []
    for row in log.read():
        nested = row.pop("mel_by_levels", {})
        rows.append(row | {f"mel_by_levels.{n}": value for n, value in nested.items()})
    return rows


if __name__ == "__main__":
    raise SystemExit(run(main))
