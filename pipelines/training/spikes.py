"""Notice losses that spike, and go back to the last checkpoint and past the batches that led there.

A large model's loss may jump and stay high after some batches, although none is at fault by itself. What helps is to
resume from a checkpoint before them and leave them out (Chowdhery et al. 2022, PaLM, section 5.1).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codec.errors import SoundloomError
from pipelines.training.checkpoints import Checkpoint, load_checkpoint

WINDOW = 64  # good steps that a step is compared with
LEAST = 32  # good steps that must be known before anything spikes
MOST_REWINDS = 3  # to the same checkpoint
_DEVIATION = 1.4826  # a normal distribution's standard deviation, in median absolute deviations


class SpikeGuard:
    """Compare the loss and the gradients' norm of each step with those before, and note when to go back.

    A step spikes where either lies more than ``threshold`` robust standard deviations above the median of the last
    `WINDOW` good steps, or is not finite. ``patience`` such steps in a row are enough to go back; 0 as ``threshold``
    turns it off. ``skipped``: steps of data that were left out so far. All of it is in checkpoints, so that a run that
    resumes decides as one that was never stopped. ``every``: steps between checkpoints; the run goes back to one of
    these, not to one that a signal or a clock asked for (0: to any).
    """

    def __init__(self, threshold: float, patience: int, every: int = 0) -> None:
        self.threshold, self.patience, self.every = threshold, patience, every
        self.skipped = 0
        self.rewinds = (-1, 0)  # a checkpoint's step, and how often the run went back to it in a row
        self.forget()

    def forget(self) -> None:
        """Begin to compare anew, as where another loss enters."""
        self.recent: list[list[float]] = []  # loss and norm of good steps
        self.in_a_row = 0

    @property
    def due(self) -> bool:
        """Whether it is time to go back."""
        return self.threshold > 0 and self.in_a_row >= self.patience

    def see(self, loss: float, norm: float) -> None:
        """Take a step's loss and its gradients' norm before clipping."""
        if not self.threshold:
            return
        values = [loss, norm]
        known = len(self.recent) >= LEAST
        limits = [self._limit([row[place] for row in self.recent]) for place in range(2)] if known else [math.inf] * 2
        if all(value < limit for value, limit in zip(values, limits, strict=True)):
            self.in_a_row = 0
            self.recent = [*self.recent, values][-WINDOW:]
        else:
            self.in_a_row += known

    def _limit(self, values: list[float]) -> float:
        middle = statistics.median(values)
        deviation = _DEVIATION * statistics.median(abs(value - middle) for value in values)
        return middle + self.threshold * max(deviation, 0.01 * abs(middle))

    def facts(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as JSON values."""
        rewinds = list(self.rewinds)
        return {"skipped": self.skipped, "rewinds": rewinds, "recent": self.recent, "in_a_row": self.in_a_row}

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore what `facts` gave; a checkpoint from before there were any leaves the guard as it is."""
        found = checkpoint.facts.get("spikes")
        if found is None:
            return
        try:
            self.skipped, self.in_a_row = int(found["skipped"]), int(found["in_a_row"])
            self.rewinds = (int(found["rewinds"][0]), int(found["rewinds"][1]))
            self.recent = [[float(loss), float(norm)] for loss, norm in found["recent"]]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SoundloomError(f"{checkpoint.path}: 'spikes' in its facts.json is unusable ({error})") from error

    def go_back(
        self, folder: Path, step: int, restore: Callable[[Checkpoint], None], settle: Callable[[], None]
    ) -> bool:
        """Restore the last checkpoint in ``folder`` if it is time to, past the data up to ``step``; return whether.

        ``settle`` waits until what was saved is on disk; ``restore`` loads a checkpoint, this guard's state included.
        The caller then saves: a run that is stopped must not meet the same batches again. Without a checkpoint there is
        nothing to go back to, and training continues.

        Raises:
            SoundloomError: it went back to the same checkpoint several times.
        """
        if not self.due:
            return False
        settle()
        checkpoint = load_checkpoint(folder, every=self.every)
        if checkpoint is None:
            self.forget()
            return False
        data = step + self.skipped
        before, times = self.rewinds
        times = times + 1 if before == checkpoint.step else 1
        if times > MOST_REWINDS:
            raise SoundloomError(
                f"step {step}: the loss spikes again after going back to step {checkpoint.step} {MOST_REWINDS} times; "
                "lower the learning rate, or raise spike_threshold"
            )
        restore(checkpoint)
        self.skipped = data - checkpoint.step
        self.rewinds = (checkpoint.step, times)
        self.in_a_row = 0
        return True
