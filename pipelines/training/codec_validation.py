"""Validation of a codec in training: what to log, and what looks sick."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from codec.health.survey import Finding, judge_log, judge_survey, judge_weights, survey
from codec.losses import MelLoss
from codec.model import Codec


def validate(
    codec: Codec, mel: MelLoss, waves: Tensor, levels: Iterable[int]
) -> tuple[dict[str, object], list[Finding]]:
    """Survey a codec on waves [M, C, N]; return what to log (mel distances, use of codes, rank), and the findings."""
    found = survey(codec, mel, waves.split(8), levels)
    report: dict[str, object] = {
        "effective_rank": round(found.effective_rank or 0.0, 2),
        "mel_unquantized": round(found.mel_unquantized or 0.0, 5),
    }
    if found.usage:
        report["mel_by_levels"] = {str(n): round(value, 5) for n, value in found.mel_by_levels.items()}
        report["usage"] = [round(share, 3) for share in found.usage]
        report["perplexity"] = [round(value, 1) for value in found.perplexity]
        report["gain_db"] = [round(value, 2) for value in found.gain_decibels]
    return report, [judge_weights(codec), *judge_survey(found)]


def alarm_lines(findings: Iterable[Finding], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each sick finding, those of a training's log rows included."""
    sick = [one for one in [*findings, *judge_log(rows)] if one.status == "sick"]
    return [f"ALARM {one.detector}: {one.measured}. {one.advice}" for one in sick]
