"""Predicted quality of validation clips: logged, never part of a loss, never a reason to choose a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from codec.errors import SoundloomError


class QualityClips:
    """DistillMOS (1 to 5) of the first ``count`` clips of a validation, where it is installed.

    Where it is not, nothing is scored and `notes` says so once.
    """

    def __init__(self, count: int, sample_rate: int) -> None:
        self.count, self.sample_rate = count, sample_rate
        self._predict: Any = None
        self._notes: list[str] = []
        self._original: float | None = None

    def score(self, decoded: Sequence[Tensor], originals: Sequence[Tensor]) -> dict[str, float]:
        """Return the mean scores of the clips [C, N] and of their originals, which are scored once."""
        if not self._open():
            return {}
        if self._original is None:
            self._original = self.mean(originals)
        return {"distillmos": self.mean(decoded), "distillmos_original": self._original}

    def score_levels(self, decoded: dict[str, Tensor], originals: Tensor) -> dict[str, Any]:
        """Do the same for clips [M, C, N] that were decoded from several numbers of levels."""
        if not decoded or not self._open():
            return {}
        scores = {levels: self.score(list(waves), list(originals)) for levels, waves in decoded.items()}
        return {
            "distillmos": {levels: score["distillmos"] for levels, score in scores.items()},
            "distillmos_original": self._original,
        }

    def mean(self, waves: Sequence[Tensor]) -> float:
        """Return the mean score of the first ``count`` waves [C, N]."""
        clips = [wave.mean(0, keepdim=True).float().cpu() for wave in waves[: self.count]]
        return round(sum(float(self._predict(clip, self.sample_rate)) for clip in clips) / len(clips), 3)

    def notes(self) -> list[str]:
        """Return what there is to say, once."""
        notes, self._notes = self._notes, []
        return notes

    def _open(self) -> bool:
        if self.count and self._predict is None:
            try:
                from pipelines.evaluation.quality import DistillMOS

                self._predict = DistillMOS()
            except (ImportError, OSError, SoundloomError) as error:
                self._notes.append(f"quality_clips: DistillMOS is not available ({error}); left out")
                self.count = 0
        return self.count > 0
