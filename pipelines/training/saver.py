"""Write checkpoints while training continues: only the copy of its tensors makes it wait."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.training.checkpoints import save_checkpoint


class Saver:
    """Saves checkpoints, one at a time; with ``background`` a thread writes and hashes a copy of the tensors.

    A copy takes as much memory of the host as the checkpoint has bytes. What fails in the thread is raised by the next
    call here.
    """

    def __init__(self, background: bool = False) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if background else None
        self._writing: Future[Path] | None = None

    def save(
        self, folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keep: int = 2
    ) -> None:
        """Commit a checkpoint as `save_checkpoint` does, or begin to.

        Raises:
            SoundloomError: this one or the one before could not be written.
        """
        self.wait()
        if self._pool is None:
            save_checkpoint(folder, step, tensors, facts, keep)
            return
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        self._writing = self._pool.submit(save_checkpoint, folder, step, copies, dict(facts), keep)

    def wait(self) -> None:
        """Return when the last checkpoint is committed.

        Raises:
            SoundloomError: it could not be written; earlier ones are intact.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
