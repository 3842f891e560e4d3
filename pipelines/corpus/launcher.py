"""Which part of the work this process has, as ``--part`` or its launcher says: torchrun, accelerate, Slurm's srun."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codec.errors import SoundloomError, quoted


@dataclass(frozen=True)
class Share:
    """Process ``rank`` of ``size``; ``local`` is its number among those of its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    def of(self, shards: Sequence[int]) -> list[int]:
        """Take this process's part of the shards: no other process has any of them."""
        return list(shards[self.rank :: self.size])

    def device(self, name: str) -> str:
        """Return the device of this process: each of a machine has its own, where ``name`` is ``cuda`` alone."""
        return f"cuda:{self.local}" if name == "cuda" and self.size > 1 else name


def find_share(part: str | None = None, environment: Mapping[str, str] = os.environ) -> Share:
    """Return this process's share. Within part i of n, a launcher's processes share that part.

    Only the environment is read: tokenizing needs no talk between processes, and none waits for another that died.
    Slurm's variables count only in a step of ``srun``: a batch script has them too, and runs once.

    Raises:
        SoundloomError: ``part`` is no ``i/n``, or a launcher's variables are no numbers of a process.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "SLURM_STEP_NUM_TASKS" in environment and "RANK" not in environment:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    try:
        rank, size, local = (int(environment.get(name, default)) for name, default in zip(names, "010", strict=True))
    except ValueError:
        rank, size, local = -1, 0, 0
    if not 0 <= rank < size or local < 0:
        raise SoundloomError(f"{names[0]} and {names[1]} are set but are no numbers of a process; unset them")
    if part is None:
        return Share(rank, size, local)
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", part)
    first, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 <= first < parts:
        raise SoundloomError(f"--part {quoted(part)}: expected i/n with i from 0 to n-1, such as 0/10")
    return Share(first + parts * rank, parts * size, local)
