"""Tokenizing on a cluster by an engine that others keep: datatrove, on Slurm, on Ray or on this machine.

The engine only decides which process does which shards; what is done, and what is there already, is for
`codec.store.writer.tokenize_shard` and the store's commit records to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from codec.common.extras import install_hint
from codec.errors import SoundloomError
from codec.store.plan import Settings, load_plans
from codec.store.writer import finalize
from pipelines.corpus.tokenize_shards import Job, LoadCodec, do_shards

Engine = Literal["local", "slurm", "ray"]
_EXECUTORS = {"local": "LocalPipelineExecutor", "slurm": "SlurmPipelineExecutor", "ray": "RayPipelineExecutor"}


@dataclass(frozen=True)
class ShardTask:
    """A step of a datatrove pipeline: task ``rank`` of ``world_size`` does its share of the shards, the last finalizes.

    It travels to other machines, so it names the store instead of holding the plan; both must see the same folders.
    """

    store: Path
    shards: tuple[int, ...]
    settings: Settings
    codec_name: str | None
    device: str
    load_codec: LoadCodec
    batch: int = 1

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterable[Any]:
        """Tokenize; what the step before gave is handed on untouched."""
        mine = set(self.shards[rank::world_size])
        for plan in load_plans(self.store):
            todo = [index for index in plan.missing() if index in mine]
            if todo:
                job = Job(plan, self.settings, self.codec_name, self.device, self.load_codec, self.batch)
                do_shards(job, todo, lambda seconds, reason: None)
        finalize(self.store)
        return data or ()


def run_engine(engine: Engine, task: ShardTask, tasks: int, options: Sequence[str] = ()) -> None:
    """Give the task to datatrove; return when it is done, on Slurm when it is queued.

    Args:
        engine: where the tasks run.
        tasks: number of tasks; each takes every n-th shard.
        options: ``KEY=VALUE`` words for datatrove's executor, such as ``partition=cpu`` and ``time=20:00:00``.

    Raises:
        SoundloomError: datatrove is not installed or does not take an option.
    """
    try:
        from datatrove import executor
    except ImportError as error:
        raise SoundloomError(f"--engine: needs datatrove; {install_hint('cluster')}") from error
    words: dict[str, Any] = {"logging_dir": str(task.store.with_name(task.store.name + "-logs"))}
    words |= dict(_parse_option(option) for option in options)
    try:
        # What is done is known from the store: the engine's own list of finished tasks would outlive a new plan.
        run = getattr(executor, _EXECUTORS[engine])(pipeline=[task], tasks=tasks, skip_completed=False, **words)
    except (TypeError, ValueError) as error:
        raise SoundloomError(
            f"--engine {engine}: datatrove refuses its options ({error}); see --engine-option"
        ) from error
    run.run()


def _parse_option(word: str) -> tuple[str, Any]:
    """``workers=4`` to ("workers", 4): JSON where it is JSON, text otherwise (a time such as 20:00:00 is text)."""
    key, sign, value = word.partition("=")
    if not sign or not key.isidentifier():
        raise SoundloomError(f"--engine-option {word!r}: expected KEY=VALUE, such as partition=cpu")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
