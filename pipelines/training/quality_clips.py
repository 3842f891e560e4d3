"""Predicted quality of validation clips: logged, never part of a loss, never a reason to choose a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from codec.errors import SoundloomError

CLIP_SECONDS = 8.0  # about what DistillMOS takes at once: shorter clips would be padded with silence

Predictor = Callable[[Tensor, int], "float | None"]


def open_predictor() -> Predictor:
    """Return DistillMOS: wave [1, N] and its sample rate to a score from 1 to 5, None for silence.

    Raises:
        SoundloomError: it is not installed; or ImportError or OSError, where its packages are broken.
    """
    from pipelines.evaluation.quality import DistillMOS

    return DistillMOS()


class QualityClips:
    """DistillMOS of some validation clips [C, N] and of what the codec makes of them, where it is installed.

    Where it is not, nothing is scored and `notes` says so once. The originals are scored once.
    """

    def __init__(self, wanted: bool, sample_rate: int) -> None:
        self.wanted, self.sample_rate = wanted, sample_rate
        self._predict: Predictor | None = None
        self._notes: list[str] = []
        self._original: float | None = None

    def score(self, decoded: Mapping[str, Iterable[Tensor]], originals: Iterable[Tensor]) -> dict[str, Any]:
        """Return the mean score of each set of decoded clips, by its name, and of the originals."""
        predict = self._open()
        if predict is None or not decoded:
            return {}
        if self._original is None:
            self._original = self._mean(predict, originals)
        scores = {name: self._mean(predict, waves) for name, waves in decoded.items()}
        found = {
            "distillmos": {n: s for n, s in scores.items() if s is not None},
            "distillmos_original": self._original,
        }
        return {key: value for key, value in found.items() if value}

    def notes(self) -> list[str]:
        """Return what there is to say, once."""
        notes, self._notes = self._notes, []
        return notes

    def _mean(self, predict: Predictor, waves: Iterable[Tensor]) -> float | None:
        clips = (wave.mean(0, keepdim=True).float().cpu() for wave in waves)
        scores = [score for clip in clips if (score := predict(clip, self.sample_rate)) is not None]
        return round(sum(scores) / len(scores), 3) if scores else None

    def _open(self) -> Predictor | None:
        if self.wanted and self._predict is None:
            try:
                self._predict = open_predictor()
            except (ImportError, OSError, SoundloomError) as error:
                self._notes.append(f"quality_clips: DistillMOS is not available ({error}); left out")
                self.wanted = False
        return self._predict
