"""Make anchors for a listener's scale: what Opus leaves of a recording at a bitrate."""

from __future__ import annotations

import io

from torch import Tensor

from codec.audio import encode_audio, read_audio, resample
from codec.errors import SoundloomError

OPUS_RATE = 24_000


def through_opus(wave: Tensor, sample_rate: int, bitrate: int) -> tuple[Tensor, int]:
    """Return wave [N] after Opus, and the bytes of its file (libopus in libsndfile, variable bitrate, Ogg)."""
    data = encode_audio(resample(wave, sample_rate, OPUS_RATE), OPUS_RATE, ".opus", bitrate)
    return read_audio(io.BytesIO(data), sample_rate)[0], len(data)


def opus_targets(text: str) -> list[int]:
    """Parse target bitrates in kbit/s with commas between, as bit/s. Raises: SoundloomError."""
    targets = numbers(text, "--opus", 1000)
    if targets and not 6_000 <= targets[0] <= targets[-1] <= 256_000:
        raise SoundloomError(f"--opus {text}: Opus takes 6 to 256 kbit/s")
    return targets


def numbers(text: str, option: str, scale: float = 1) -> list[int]:
    """Parse numbers with commas between, each times ``scale``, sorted. Raises: SoundloomError that names the option."""
    try:
        found = [float(part) * scale for part in text.split(",") if part.strip()]
        wrong = any(value != round(value) for value in found)
    except (ValueError, OverflowError):
        wrong = True
    if wrong:
        raise SoundloomError(f"{option} {text}: wanted numbers with commas between, such as 1,2,4,8")
    return sorted({round(value) for value in found})
