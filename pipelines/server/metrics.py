"""What the server counts, in Prometheus' text format."""

from __future__ import annotations

from dataclasses import dataclass, field

_BUCKETS = (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 2.0, 5.0, 10.0)


@dataclass
class Metrics:
    """Counters since the start; written by the engine's threads and the event loop, each its own."""

    requests: int = 0
    refused: int = 0
    cancelled: int = 0
    failed: int = 0
    done: int = 0
    errors: dict[int, int] = field(default_factory=dict)  # by HTTP status
    seconds: float = 0.0
    steps: int = 0
    rows: int = 0
    step_seconds: float = 0.0
    first: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS) + 1))
    first_seconds: float = 0.0

    def step(self, rows: int, seconds: float) -> None:
        """Count a step of the batch."""
        self.steps += 1
        self.rows += rows
        self.step_seconds += seconds

    def finished(self, seconds: float, first_sound: float | None) -> None:
        """Count a request that ended well: seconds of audio, and seconds to its first sound."""
        self.done += 1
        self.seconds += seconds
        if first_sound is not None:
            self.first_seconds += first_sound
            self.first[sum(first_sound > bucket for bucket in _BUCKETS)] += 1

    def error(self, status: int) -> None:
        """Count an answer with an error status."""
        self.errors[status] = self.errors.get(status, 0) + 1

    def text(self, waiting: int, active: int) -> str:
        """Return all as Prometheus reads it."""
        counters = {
            "requests_total": ("Requests accepted", self.requests),
            "requests_refused_total": ("Requests refused because the queue was full", self.refused),
            "requests_cancelled_total": ("Requests whose client left", self.cancelled),
            "requests_failed_total": ("Requests that failed or took too long", self.failed),
            "requests_finished_total": ("Requests spoken to the end", self.done),
            "audio_seconds_total": ("Seconds of audio of finished requests", round(self.seconds, 3)),
            "batch_steps_total": ("Steps of the running batch", self.steps),
            "batch_rows_total": ("Rows of all steps; by steps it is the mean batch size", self.rows),
            "batch_step_seconds_total": ("Seconds spent in steps", round(self.step_seconds, 3)),
        }
        lines = [_metric(name, "counter", text, value) for name, (text, value) in counters.items()]
        lines.append(_metric("requests_waiting", "gauge", "Requests that wait for a place", waiting))
        lines.append(_metric("sentences_active", "gauge", "Sentences being written now", active))
        lines.append(_head("http_errors_total", "counter", "Answers with an error, by status"))
        lines += [f'soundloom_http_errors_total{{status="{s}"}} {n}\n' for s, n in sorted(self.errors.items())]
        return "".join([*lines, *self._histogram()])

    def _histogram(self) -> list[str]:
        lines, total = [_head("first_sound_seconds", "histogram", "From a request's acceptance to its first sound")], 0
        for bucket, count in zip((*map(str, _BUCKETS), "+Inf"), self.first, strict=True):
            total += count
            lines.append(f'soundloom_first_sound_seconds_bucket{{le="{bucket}"}} {total}\n')
        lines.append(f"soundloom_first_sound_seconds_sum {round(self.first_seconds, 4)}\n")
        return [*lines, f"soundloom_first_sound_seconds_count {total}\n"]


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP soundloom_{name} {text}.\n# TYPE soundloom_{name} {kind}\n"


def _metric(name: str, kind: str, text: str, value: float) -> str:
    return f"{_head(name, kind, text)}soundloom_{name} {value}\n"
