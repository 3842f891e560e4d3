"""Transcribe music with basic-pitch (Bittner et al. 2022): its ONNX network, run by onnxruntime alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from codec.audio import resample
from codec.metrics import require
from pipelines.evaluation.packages import package_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

SAMPLE_RATE, _HOP = 22_050, 256
_WINDOW = 2 * SAMPLE_RATE - _HOP
_OVERLAP = 30  # frames that two windows share
_FRAMES = 172  # of a window
_STEP = _WINDOW - _OVERLAP * _HOP  # samples from one window to the next
#: frames a second: basic-pitch's 86 drifts by 60 ms in 10 s, because a window has more frames than hops
FRAME_RATE = (_FRAMES - _OVERLAP) * SAMPLE_RATE / _STEP
LOWEST = 21  # MIDI number of the first of 88 pitches
_ONSET, _FRAME, _SHORTEST = 0.5, 0.3, 5
INSTALL = "pip install --no-deps basic-pitch==0.4.0"
Grid = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FoundNote:
    """A note in seconds."""

    start: float
    end: float
    pitch: int


@dataclass(frozen=True)
class Transcription:
    """Probabilities [T, 88] that a pitch sounds (``frames``) and begins (``onsets``), `FRAME_RATE` times a second."""

    frames: Grid
    onsets: Grid

    def notes(self) -> list[FoundNote]:
        """Return the notes: from each peak of an onset until the pitch stops, at least 60 ms."""
        found = []
        peaks = _peaks(self.onsets)
        for pitch in range(self.frames.shape[1]):
            begins = np.flatnonzero(peaks[:, pitch])
            silent = self.frames[:, pitch] < _FRAME
            for i, begin in enumerate(begins):
                last = begins[i + 1] if i + 1 < len(begins) else len(silent)
                quiet = np.flatnonzero(silent[begin + 1 : last])
                end = begin + 1 + quiet[0] if len(quiet) else last
                if end - begin >= _SHORTEST:
                    found.append(FoundNote(begin / FRAME_RATE, end / FRAME_RATE, pitch + LOWEST))
        return sorted(found, key=lambda note: (note.start, note.pitch))

    def pitch_classes(self) -> npt.NDArray[np.float64]:
        """Return how much each of the 12 pitch classes sounds, adding up to 1 (all alike where nothing sounds)."""
        sounding = np.where(self.frames >= _FRAME, self.frames, 0).sum(0)
        classes = np.zeros(12)
        np.add.at(classes, (np.arange(len(sounding)) + LOWEST) % 12, sounding)
        return classes / classes.sum() if classes.sum() > 0 else np.full(12, 1 / 12)

    def bass_classes(self) -> npt.NDArray[np.float64]:
        """Return how often each pitch class is the lowest that sounds, adding up to 1."""
        sounding = self.frames >= _FRAME
        lowest = sounding.argmax(1)[sounding.any(1)]
        classes = np.bincount((lowest + LOWEST) % 12, minlength=12).astype(float)
        return classes / classes.sum() if classes.sum() > 0 else np.full(12, 1 / 12)


def _peaks(onsets: Grid) -> npt.NDArray[np.bool_]:
    before = np.pad(onsets, ((1, 0), (0, 0)))[:-1]
    after = np.pad(onsets, ((0, 1), (0, 0)))[1:]
    return (onsets >= _ONSET) & (onsets > before) & (onsets >= after)


class BasicPitch:
    """Transcribes. Raises: SoundloomError where basic-pitch or onnxruntime is not installed."""

    description = "basic-pitch 0.4.0, nmp.onnx"

    def __init__(self, threads: int = 1) -> None:
        require("onnxruntime", "music")
        import onnxruntime

        path = package_folder("basic_pitch", "basic-pitch", INSTALL) / "saved_models" / "icassp_2022" / "nmp.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, wave: Tensor, sample_rate: int) -> Transcription:
        """Transcribe wave [N]."""
        samples = resample(wave[None], sample_rate, SAMPLE_RATE)[0].numpy()
        shared = _OVERLAP * _HOP
        padded = np.concatenate([np.zeros(shared // 2, np.float32), samples])
        names = ["StatefulPartitionedCall:1", "StatefulPartitionedCall:2"]
        grids: list[list[Grid]] = [[], []]
        for at in range(0, len(padded), _STEP):
            window = padded[at : at + _WINDOW]
            window = np.pad(window, (0, _WINDOW - len(window)))[None, :, None].astype(np.float32)
            made = self._session.run(names, {"serving_default_input_2:0": window})
            for grid, new in zip(grids, made, strict=True):
                grid.append(new[0, _OVERLAP // 2 : -_OVERLAP // 2])
        length = int(len(samples) * FRAME_RATE / SAMPLE_RATE)
        frames, onsets = (np.concatenate(grid)[:length] for grid in grids)
        return Transcription(frames, onsets)


def onset_f1(found: Iterable[FoundNote], true: Iterable[FoundNote], within: float = 0.05) -> float:
    """Return the F1 score of note onsets: the same pitch, at most ``within`` seconds apart, each note used once."""
    left = sorted(true, key=lambda note: note.start)
    total = len(left)
    notes = sorted(found, key=lambda note: note.start)
    hits = 0
    for note in notes:
        match = next((t for t in left if t.pitch == note.pitch and abs(t.start - note.start) <= within), None)
        if match is not None:
            left.remove(match)
            hits += 1
    return 2 * hits / (len(notes) + total) if notes or total else 1.0
