"""The training loop: one story for every task.

class MyTask:                       # see `Task`
    ...

settings = parse_settings(MySettings, argv)
with StopFlag(settings.time_limit_minutes) as stop:
    accelerator = start_processes(settings)
    with lock_output(settings.output, accelerator.is_main_process):
        return run(MyTask(settings, accelerator), settings, accelerator, stop)
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

from codec.errors import SoundloomError
from pipelines.command_line.progress import Progress
from pipelines.training.checkpoints import remove_after
from pipelines.training.curves import Panel, plot_curves
from pipelines.training.log import JsonlLog, open_tensorboard, record
from pipelines.training.profiling import StepProfiler
from pipelines.training.run_settings import RunSettings
from pipelines.training.stopping import EXIT_CODES, SaveClock, StopFlag, agree_to_stop

_TIMEOUT = timedelta(hours=2)  # one process may validate or save for long while the others wait


class Task(Protocol):
    """What is trained. Every process calls each method; methods that write do it in the main process only."""

    @property
    def finished(self) -> int:
        """Number of finished steps."""

    @property
    def curves(self) -> Sequence[Panel]:
        """The panels of the picture of learning curves."""

    def introduction(self) -> Sequence[str]:
        """Return lines that describe what is trained on what."""

    def batches(self) -> Generator[Any, None, None]:
        """Yield the batch of each step from ``finished`` to the last."""

    def step(self, batch: Any) -> None:
        """Take one optimizer step and add 1 to ``finished``."""

    def figures(self, seconds: float) -> dict[str, Any]:
        """Return what to log about the steps since the last call, which took ``seconds``."""

    def evaluate(self) -> dict[str, Any] | None:
        """Validate the averaged weights; return what to log.

        The result is exported unless it holds ``"best": False``, or is None.
        """

    def remarks(self, rows: Sequence[dict[str, Any]]) -> Sequence[str]:
        """Return lines on the last validation, such as alarms, given the log so far."""

    def export(self) -> None:
        """Write the result of the run, made of the averaged weights."""

    def save(self) -> None:
        """Commit a checkpoint, or begin to: `settle` waits for it."""

    def settle(self) -> None:
        """Return when what was saved is on disk."""

    def rewind(self) -> bool:
        """Go back to the last checkpoint if losses spike (`pipelines.training.spikes`); return whether it did."""

    def result(self) -> Sequence[str]:
        """Return the outcome in a line, and the next command in another."""


def start_processes(settings: RunSettings, cpu: bool = False) -> Accelerator:
    """Join the other processes and set the number of threads; ``cpu`` leaves accelerators alone.

    Raises:
        SoundloomError: the settings' device is not there, or accelerate is configured for float16, which needs a loss
            scale that no task here applies.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    # A parameter may stay without gradient: a level that no batch of the step sampled, an input drop of 0.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True), InitProcessGroupKwargs(timeout=_TIMEOUT)]
    # Without cpu=True, processes on a machine without accelerator would not join.
    cpu = cpu or settings.device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, kwargs_handlers=handlers)
    if settings.device not in ("auto", accelerator.device.type):
        raise SoundloomError(f"device {settings.device}: this training would run on {accelerator.device.type}")
    if accelerator.mixed_precision == "fp16":
        raise SoundloomError("mixed_precision: fp16 in accelerate's configuration is not supported; use bf16 or no")
    return accelerator


def run(task: Task, settings: RunSettings, accelerator: Accelerator, stop: StopFlag) -> int:
    """Train; return the exit code (143 after SIGTERM, 130 after Ctrl-C, both saved)."""
    output, is_main, device = Path(settings.output), accelerator.is_main_process, accelerator.device
    log = JsonlLog(output / "log.jsonl")
    if is_main:
        log.rewind(task.finished)
    board = open_tensorboard(output, settings.tensorboard and is_main)
    reason, clock = None, SaveClock(settings.save_minutes)
    profiler = StepProfiler(output, settings.profile_steps if is_main else 0)
    with Progress(settings.steps, task.finished, is_main) as progress, closing(_Feed(task)) as batches, profiler:
        _say(progress, task.introduction())
        seconds, begin = 0.0, time.monotonic()
        for batch in batches:
            task.step(batch)
            seconds += time.monotonic() - begin  # includes the wait for the batch, not validation or saving
            profiler.step()
            left = task.finished
            if task.rewind():
                _continue_there(task, left, batches, accelerator, log, progress)
                clock.saved()
                begin = time.monotonic()
                continue
            progress.advance(task.finished)
            reason = agree_to_stop(stop, device)
            last = task.finished == settings.steps or reason is not None

            figures: dict[str, Any] = {}
            if last or due(task.finished, settings.log_every):
                figures |= task.figures(seconds)
                seconds = 0.0
            # After a signal there may be seconds left: save, and leave the rest.
            validated = reason not in EXIT_CODES and (last or due(task.finished, settings.validate_every))
            if validated:
                report = task.evaluate()
                figures |= report or {}
                if report is not None and report.get("best", True):
                    task.export()
            if figures and is_main:
                record(log, board, task.finished, figures)
                progress.show(task.finished, {k: v for k, v in figures.items() if isinstance(v, float)})
            if validated and is_main:
                _say(progress, task.remarks(log.read()))
            if clock.due(device) or last or due(task.finished, settings.save_every):
                task.save()
                clock.saved()
                accelerator.wait_for_everyone()
            if reason:
                break
            begin = time.monotonic()
        task.settle()
        if is_main:
            drawn = plot_curves(log.read(), output / "curve.png", task.curves)
            _say(progress, ending(task, settings, reason, drawn))
    accelerator.wait_for_everyone()  # a process that leaves while another still talks to it dies by a signal
    accelerator.end_training()
    return EXIT_CODES.get(reason or "", 0)


class _Feed:
    """The batches of a task from where it stands; `restart` follows it to another place."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._batches = task.batches()

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> Any:
        return next(self._batches)

    def restart(self) -> None:
        """Begin again at the task's present step."""
        self.close()
        self._batches = self._task.batches()

    def close(self) -> None:
        """End what makes batches ahead."""
        self._batches.close()


def _continue_there(
    task: Task, left: int, batches: _Feed, accelerator: Accelerator, log: JsonlLog, progress: Progress
) -> None:
    """Commit that a run went back from step ``left``, and let data, log and progress follow it."""
    batches.restart()
    accelerator.wait_for_everyone()  # all have read the checkpoint
    if accelerator.is_main_process:
        remove_after(log.path.parent / "checkpoints", task.finished)
    task.save()
    task.settle()
    if accelerator.is_main_process:
        log.rewind(task.finished)
        log.write(step=task.finished, rewound_from=left)
    progress.advance(task.finished)
    _say(progress, [f"losses spiked: from step {left} back to step {task.finished}, past the data between"])


def due(step: int, every: int) -> bool:
    """Return whether something happens at this step; never where ``every`` is 0."""
    return every > 0 and step % every == 0


def ending(task: Task, settings: RunSettings, reason: str | None, drawn: bool) -> list[str]:
    """Return the lines that end a run: how it ended, its result, and what to do next."""
    why = f"stopped by {reason}, saved" if reason else "done"
    result, *rest = task.result()
    pictures = f"{settings.output}/curve.png and log.jsonl" if drawn else f"{settings.output}/log.jsonl"
    lines = [f"{why} after step {task.finished} of {settings.steps}; {result}; history: {pictures}"]
    if task.finished < settings.steps:
        rest = ["to resume: the same command again", *rest]
    return lines + rest


def _say(progress: Progress, lines: Sequence[str]) -> None:
    for line in lines:
        progress.say(line)
