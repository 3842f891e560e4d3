"""Name the key of pitch contents: correlations with key profiles (Krumhansl and Kessler 1982)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Profile = npt.NDArray[np.float64]
KRUMHANSL = {
    "major": np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88]),
    "minor": np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17]),
}


@dataclass(frozen=True)
class Key:
    """A tonic, 0 for C to 11, and major or minor."""

    tonic: int
    third: str


def find_key(pitch_classes: Profile, profiles: dict[str, Profile] = KRUMHANSL) -> Key:
    """Return the key whose profile correlates best with the 12 pitch classes."""

    def fit(key: Key) -> float:
        return float(np.corrcoef(pitch_classes, np.roll(profiles[key.third], key.tonic))[0, 1])

    if np.ptp(pitch_classes) == 0:
        return Key(0, "major")
    return max((Key(tonic, third) for third in ("major", "minor") for tonic in range(12)), key=fit)


def key_score(found: Key, true: Key) -> float:
    """Return MIREX's weight: 1 for the same key, 0.5 a fifth above, 0.3 relative, 0.2 parallel, else 0."""
    if found == true:
        return 1.0
    if found.third == true.third:
        return 0.5 if (found.tonic - true.tonic) % 12 == 7 else 0.0
    relative = (true.tonic + (9 if true.third == "major" else 3)) % 12
    return 0.3 if found.tonic == relative else 0.2 if found.tonic == true.tonic else 0.0
