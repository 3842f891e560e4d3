"""The settings that all trainings share, and the checkpoint from which a run resumes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from codec.errors import SoundloomError, quoted
from pipelines.command_line.settings import changed_settings, flatten_settings
from pipelines.training.checkpoints import Checkpoint, list_checkpoints, load_checkpoint
from pipelines.training.optimizer import OptimizerSettings

_MOST_THREADS = 4096


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """A training run.

    Args:
        output: folder of the run: checkpoints, log, learning curves and the result.
        steps: training steps in all.
        seed: decides initial weights, order and everything random.
        bf16: autocast to bfloat16 where that is safe; weights stay in float32.
        threads: CPU threads of each process; 0 = torch's choice.
        device: where to train: ``auto`` takes what is there (of several GPUs, each process its own), ``cpu`` leaves
            GPUs alone, ``cuda`` and ``mps`` stop where there is none.
        resume: ``auto`` continues from the last whole checkpoint in output; ``never`` refuses to.
        log_every: steps between log lines.
        validate_every: steps between validations; 0 = only at the end.
        save_every: steps between checkpoints; 0 = only at the end.
        save_minutes: minutes between checkpoints, next to those by steps; null = by steps only.
        keep_checkpoints: newest checkpoints that stay in the output folder.
        save_in_background: write checkpoints in a thread while training continues; takes the host's memory for a copy.
        ema_decay: decay of the averaged weights, which are validated and exported; 0 = the latest weights.
        time_limit_minutes: stop, saved and resumable, after this long; null = no limit.
        optimizer: AdamW and its learning-rate schedule.
        spike_threshold: go back to the last checkpoint and past the batches since, where loss or gradient norm lie this
            many robust standard deviations above the median of the last 64 steps; 0 = never.
        spike_patience: number of such steps in a row before it goes back.
        tensorboard: also write events for TensorBoard, into the output folder.
        profile_steps: number of steps to profile after the third of a start, into trace.json; 0 = none.
    """

    output: str
    steps: int = 10000
    seed: int = 0
    bf16: bool = True
    threads: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    resume: Literal["auto", "never"] = "auto"
    log_every: int = 20
    validate_every: int = 500
    save_every: int = 500
    save_minutes: float | None = None
    keep_checkpoints: int = 2
    save_in_background: bool = False
    ema_decay: float = 0.999
    time_limit_minutes: float | None = None
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    spike_threshold: float = 0.0
    spike_patience: int = 3
    tensorboard: bool = False
    profile_steps: int = 0

    def __post_init__(self) -> None:
        self.require_at_least(1, "steps", "log_every", "keep_checkpoints", "spike_patience")
        self.require_at_least(0, "validate_every", "save_every", "threads", "seed", "profile_steps", "spike_threshold")
        if self.save_minutes is not None and not self.save_minutes > 0:
            raise SoundloomError(f"save_minutes: must be above 0, not {self.save_minutes}")
        if self.threads > _MOST_THREADS:
            raise SoundloomError(f"threads: must be at most {_MOST_THREADS}, not {quoted(self.threads)}")
        if self.output.strip() in ("", "."):
            raise SoundloomError("output: must name a folder for the run, such as runs/mine")
        if not 0 <= self.ema_decay < 1:
            raise SoundloomError(f"ema_decay: must be at least 0 and under 1, not {self.ema_decay}")
        if self.time_limit_minutes is not None and self.time_limit_minutes < 0:
            raise SoundloomError(f"time_limit_minutes: must be at least 0, not {self.time_limit_minutes}")

    def require_at_least(self, least: float, *names: str) -> None:
        """Check settings against their smallest value.

        Raises:
            SoundloomError: one is smaller.
        """
        for name in names:
            if getattr(self, name) < least:
                raise SoundloomError(f"{name}: must be at least {least}, not {getattr(self, name)}")


def resume_point(settings: RunSettings, kind: str, fixed: Iterable[str]) -> Checkpoint | None:
    """Return the checkpoint to resume from, or None at a start.

    Args:
        kind: what is trained (``codec``, ``lm``, ``decoder``), as checkpoints record it.
        fixed: settings, or groups of them, that cannot change between a start and a resume.

    Raises:
        SoundloomError: ``resume`` is never and there are checkpoints; they are of another kind of training; a fixed
            setting changed.
    """
    folder = Path(settings.output) / "checkpoints"
    if settings.resume == "never" and list_checkpoints(folder):
        raise SoundloomError(f"{folder}: holds checkpoints of an earlier run; choose another output, or resume auto")
    checkpoint = load_checkpoint(folder)
    if checkpoint is None:
        return None
    if checkpoint.facts.get("kind", kind) != kind:
        raise SoundloomError(f"{folder}: is of another kind of training ({quoted(checkpoint.facts['kind'])})")
    before, now = checkpoint.fact("settings", dict), flatten_settings(settings)
    for key, (old, new) in changed_settings(before, now).items():
        # A key that only one side knows came or went with a version of the code; it is no choice of the user's.
        if key in before and key in now and any(key == name or key.startswith(f"{name}.") for name in fixed):
            raise SoundloomError(
                f"{key}: the run in {settings.output} began with {quoted(old)}, so {quoted(new)} cannot be used"
            )
    return checkpoint
