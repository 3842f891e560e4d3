"""Tokenize shards in a process: its share of them under a launcher, its progress, and the forecast."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from codec.audio.files import read_audio
from codec.errors import SoundloomError
from codec.pretrained import choose_device
from codec.store.plan import Plan, Settings, Utterance
from codec.store.writer import tokenize_shard
from pipelines.command_line.progress import Bar
from pipelines.corpus.read import Corpus, open_corpus

LoadCodec = Callable[[str | None], Any]
#: called with the seconds of an utterance and the reason if it was rejected, else ""
Progress = Callable[[float, str], None]
_SHARD_BYTES = 1200  # what a shard's Arrow stream takes without rows
_ROW_BYTES = 150  # measured: what a row takes without codes and text, most of it id and sha256


@dataclass(frozen=True)
class Job:
    """What a worker must know; it is sent to another process, so that it holds nothing heavy."""

    plan: Plan
    settings: Settings
    codec_name: str | None
    device: str
    load_codec: LoadCodec
    batch: int = 1


def prepare_codec(load_codec: LoadCodec, name: str | None, device: str) -> Any:
    """Load a codec for encoding; one thread, since on a CPU the number of threads may change the last bit of a sum."""
    torch.set_num_threads(1)
    place = choose_device(device)
    codec = load_codec(name)
    if hasattr(codec, "eval"):
        codec = codec.eval()
    return codec.to(place) if place.type != "cpu" and hasattr(codec, "to") else codec


def do_shards(job: Job, shards: Sequence[int], progress: Progress) -> None:
    """Tokenize shards in this process, one after another."""
    codec = prepare_codec(job.load_codec, job.codec_name, job.device)
    corpus = open_corpus(job.settings)
    for index in shards:
        tokenize_shard(
            job.plan, index, codec, corpus.fetch, lambda item, reason: progress(item.seconds, reason), job.batch
        )


def default_batch(device: str) -> int:
    """Return how many pieces are encoded together: 1 on a CPU, where one keeps it busy."""
    return 1 if choose_device(device).type == "cpu" else 16


class HoursBar:
    """Progress in hours of audio, with the number of rejects."""

    def __init__(self, seconds: float) -> None:
        self._bar = Bar(seconds / 3600, "hour")
        self._rejects = 0

    def __enter__(self) -> HoursBar:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.__exit__(*exception)

    def add(self, seconds: float, reason: str) -> None:
        """Count one utterance, rejected if there is a ``reason``."""
        self._rejects += bool(reason)
        self._bar.add(seconds / 3600, f"{self._rejects} rejects" if self._rejects else None)


@dataclass(frozen=True)
class Forecast:
    """What a run will take: audio seconds to do, bytes that the store will have, seconds of work of one worker."""

    utterances: int
    shards: int
    audio_seconds: float
    bytes: int
    work_seconds: float

    def lines(self, workers: int, free_bytes: int) -> list[str]:
        """Return the lines that people read."""
        hours = self.audio_seconds / 3600
        duration = self.work_seconds / max(1, min(workers, self.shards))
        lines = [
            f"to do: {self.utterances} utterances, {hours:.2f} hours of audio, in {self.shards} shards",
            f"forecast: store {_size(self.bytes)}, about {_time(duration)} with {workers} worker(s)",
        ]
        if self.bytes > free_bytes:
            lines.append(f"warning: only {_size(free_bytes)} are free where the store goes")
        return lines


def make_forecast(plan: Plan, shards: Sequence[int], codec: Any, corpus: Corpus) -> Forecast:
    """Estimate size and time from the headers and from encoding up to five seconds of the plan's own audio."""
    positions = [plan.position(index) for index in shards]
    seconds = sum(map(plan.parts.seconds, positions))
    count = sum(map(plan.parts.usable, positions))
    codes = seconds * plan.facts.frame_rate * plan.facts.num_levels * 2
    plan_bytes = sum((plan.store / name).stat().st_size for name in plan.files)
    text = sum(map(plan.parts.text_bytes, positions))
    samples = (item for index in shards for item in plan.shard(index) if not item.problem)
    speed = _measure_speed(plan, samples, codec, corpus)
    size = int(codes + text + count * _ROW_BYTES + len(shards) * _SHARD_BYTES + plan_bytes)
    return Forecast(count, len(shards), seconds, size, seconds * speed)


def _measure_speed(plan: Plan, items: Iterable[Utterance], codec: Any, corpus: Corpus) -> float:
    """Seconds of work for a second of audio, reading included; 0 where no file of the first ten can be read."""
    speed = 0.0
    for item in islice(items, 10):
        try:
            for _ in range(2):  # the first time is a warm-up
                with corpus.fetch(item) as path:
                    begin = time.perf_counter()
                    wave = read_audio(path, plan.facts.sample_rate, plan.facts.channels, item.start, 5.0)
                parameter = next(iter(codec.parameters()), None) if hasattr(codec, "parameters") else None
                with torch.inference_mode():
                    codec.encode(wave[None] if parameter is None else wave[None].to(parameter.device)).cpu()
                speed = (time.perf_counter() - begin) / (wave.shape[1] / plan.facts.sample_rate)
            return speed
        except (SoundloomError, OSError, ValueError):
            continue
    return speed


def free_bytes(plan: Plan) -> int:
    """Return the free space where the store is."""
    return shutil.disk_usage(plan.store).free


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
