"""Time functions so that the times compare: in turn, ratios with their spread, next to the machine's limit."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from codec.common.devices import wait_for


@dataclass(frozen=True)
class Work:
    """What one call needs at least: ``bytes`` read from memory, ``operations`` in floating point (0: not counted)."""

    bytes: float = 0.0
    operations: float = 0.0


@dataclass(frozen=True)
class Machine:
    """What the machine gave with the run's threads: bytes read and operations, each a second."""

    bandwidth: float
    peak: float

    def bound(self, work: Work) -> float:
        """Return the seconds that ``work`` takes at least."""
        return max(work.bytes / self.bandwidth, work.operations / self.peak)


@dataclass
class Entry:
    """One line of a benchmark: the seconds of every call, ours and the peer's, for ``amount`` of ``unit``.

    ``peer`` names the other implementation ("" for none); ``checks`` says whether the results agree.
    """

    group: str
    name: str
    unit: str
    amount: float
    seconds: dict[str, list[float]]
    peer: str = ""
    work: Work = field(default_factory=Work)
    checks: dict[str, Any] = field(default_factory=dict)

    def record(self, machine: Machine) -> dict[str, Any]:
        """Return plain values: rates at the median, ratios peer / ours call by call, share of the roofline."""
        medians = {who: statistics.median(times) for who, times in self.seconds.items()}
        result = asdict(self) | {"rate": {who: self.amount / median for who, median in medians.items()}}
        if self.peer:
            result["ratio"] = spread([b / a for a, b in zip(self.seconds["ours"], self.seconds["peer"], strict=True)])
        bound = machine.bound(self.work)
        if bound:
            result["roofline"] = {
                "bound_seconds": bound,
                "share": bound / medians["ours"],
                "share_best": bound / min(self.seconds["ours"]),
            }
        return result


def spread(values: list[float]) -> dict[str, float]:
    """Return median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def take_turns(
    functions: Mapping[str, Callable[[], object]], repeats: int, settle: int = 0, device: str = "cpu"
) -> dict[str, list[float]]:
    """Time ``repeats`` calls of each, A B A B …, after one call of each that does not count; seconds by name.

    In turns, so that the machine's other work falls on all of them. ``settle``: calls at the start of each turn that do
    not count, for functions that fill much memory: the first pays for what the function before it released.
    ``device``: where they run; a call ends when the device has done its work.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            for _ in range(settle):
                function()
            wait_for(device)
            begin = time.perf_counter()
            function()
            wait_for(device)
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def measure_machine(quick: bool = False, device: str = "cpu") -> Machine:
    """Measure the sum of an array far larger than any cache and a product of square matrices, the best of several."""
    floats, side, repeats = (1 << 22, 256, 3) if quick else (1 << 26, 1536, 9)
    if device != "cpu" and not quick:
        side = 8192  # a smaller product does not fill a GPU
    array, square = torch.ones(floats, device=device), torch.randn(side, side).to(device)
    times = take_turns({"sum": array.sum, "product": lambda: square @ square}, repeats, device=device)
    return Machine(4 * floats / min(times["sum"]), 2 * side**3 / min(times["product"]))


def describe_machine(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Return processor, device, cores, versions and threads."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass  # not Linux
    return {
        "processor": model,
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device,
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def load_average() -> float | None:
    """Return how many processes wanted to run over the last minute (None where the system does not say)."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
