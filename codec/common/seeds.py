"""Seeds that follow from other seeds: the same in every process, and unrelated for neighbouring inputs."""

from __future__ import annotations

import hashlib

import torch

from codec.errors import SoundloomError, quoted


def stable_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on ``parts`` alone (not on the process, as Python's ``hash`` does)."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_step(seed: int, *position: int | str) -> None:
    """Seed torch's global generators from the run's seed and a position (step, micro-batch …).

    Called before each forward pass it makes dropout and the like a function of the position. A resumed run then needs
    no saved random state, and one process can repeat what two would sample.
    """
    torch.manual_seed(stable_seed(seed, *position))


def checked_seed(seed: int) -> int:
    """Return the seed itself.

    Raises:
        SoundloomError: it is no whole number from 0 to 2^63 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise SoundloomError(f"seed is {quoted(seed)}; wanted a whole number from 0 to 2^63 - 1")
    return seed


def sentence_seed(seed: int, index: int) -> int:
    """Return the seed of a text's sentence; the first has the text's own, so that one sentence is its own text."""
    if checked_seed(seed) == seed and index == 0:
        return seed
    return _hashed(f"{seed}/sentence/{index}")


def turn_seed(seed: int, index: int) -> int:
    """Return the seed of a script's turn; the first has the script's own, so that one turn is its own text."""
    return checked_seed(seed) if index == 0 else _hashed(f"{checked_seed(seed)}/turn/{index}")


def retry_seed(seed: int, attempt: int) -> int:
    """Return the seed of a request's n-th retry; retries of neighbouring seeds share nothing."""
    return _hashed(f"{seed}/{attempt}")


def _hashed(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
