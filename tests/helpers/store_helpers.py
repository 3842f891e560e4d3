"""A small codec without a network, small corpora, and a program to kill, for the tests of the token store.

``python tests/helpers/store_helpers.py CORPUS STORE …`` is tokenize_corpus with that codec;
``… kill COUNT PROCESSES SEED CORPUS STORE …`` kills it again and again at random moments, then lets it finish.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch


class FakeCodec:
    """Codes are sums over frames: exact, fast, and different for every wave."""

    sample_rate, channels, hop_length, frame_rate = 8000, 1, 160, 50.0
    num_levels, codebook_size = 4, 1024

    def __init__(self, fingerprint: str = "fake-1", delay: float = 0.0) -> None:
        self.fingerprint = fingerprint
        self.delay = delay

    def encode(self, wave: torch.Tensor) -> torch.Tensor:
        time.sleep(self.delay)
        if log := os.environ.get("STORE_TEST_LOG"):
            with open(log, "ab") as file:
                file.write(b".")
        B, _C, N = wave.shape
        T = -(-N // self.hop_length)
        padded = torch.nn.functional.pad(wave[:, 0], (0, T * self.hop_length - N))
        whole = (padded * 32768).round().long().reshape(B, T, self.hop_length).sum(-1)  # [B, T]
        return torch.stack([(whole // (7**level)) % self.codebook_size for level in range(self.num_levels)], 1)


def load_fake(name: str | None) -> FakeCodec:
    """Load the codec called ``name`` ("other" has another fingerprint, "slow" takes 3 ms an utterance)."""
    return FakeCodec("fake-2" if name == "other" else "fake-1", 0.003 if name == "slow" else 0.0)


def speech(seconds: float, seed: int, rate: int = 8000) -> np.ndarray:
    """Noise that comes and goes, float64 ``[N]``."""
    count = round(seconds * rate)
    noise = np.random.default_rng(seed).uniform(-0.3, 0.3, count)
    return noise * (0.5 + 0.5 * np.sin(np.arange(count) * 2 * np.pi / rate))


def write_corpus(folder: Path, count: int, seconds: float = 0.3) -> Path:
    """Write ``count`` WAV files of slightly different lengths and a manifest as make_corpus writes it."""
    (folder / "wavs").mkdir(parents=True)
    lines = []
    for number in range(count):
        length = seconds * (1 + number % 5 / 10)
        soundfile.write(folder / "wavs" / f"{number:04d}.wav", speech(length, number), 8000, subtype="PCM_16")
        record: dict[str, Any] = {"id": f"u{number:04d}", "audio": f"wavs/{number:04d}.wav", "text": f"text {number} é"}
        record |= {"speaker": f"s{number % 3}", "language": "en", "duration": length}
        lines.append(json.dumps({**record, "split": "dev" if number % 10 == 9 else "train"}, ensure_ascii=False))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def store_bytes(store: Path) -> dict[str, bytes]:
    """Read every file of a store."""
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}


def tokenize(*arguments: str | Path) -> int:
    """Run the program in this process with the fake codec."""
    from pipelines.command_line.run import run
    from pipelines.tokenize_corpus import main

    return run(lambda: main([str(argument) for argument in arguments], load_fake))


_PEEK = os.WEXITED | os.WNOHANG | os.WNOWAIT  # has it ended? (its status stays to be collected)


def log_size() -> int:
    """Tell how many waves were encoded by all processes since the log began."""
    log = Path(os.environ["STORE_TEST_LOG"])
    return log.stat().st_size if log.exists() else 0


def kill_often(count: int, processes: int, seed: int, arguments: list[str]) -> dict[str, int]:
    """Start the program in forked processes and kill them all at a random moment, ``count`` times; then finish.

    Returns: how many kills met a process at work on an unfinished store, how many shards the killed ones finished,
    and whether the last run ended well.
    """
    draw = random.Random(seed)
    hits, shards, finished = 0, 0, False
    for attempt in range(count + 1):
        shards = len(list(Path(arguments[1]).glob("data-*.json")))
        unfinished = not (Path(arguments[1]) / "store.json").exists()
        children = []
        for rank in range(processes):
            child = os.fork()
            if child == 0:
                os.environ.update(RANK=str(rank), WORLD_SIZE=str(processes))
                os._exit(tokenize(*arguments))
            children.append(child)
        if attempt < count:
            # So much work after the start and then a moment more: a busy machine does not change what is met.
            target = log_size() + draw.randint(8 * processes * (attempt % 2), 12 * processes)
            while log_size() < target and all(os.waitid(os.P_PID, child, _PEEK) is None for child in children):
                time.sleep(0.0005)
            time.sleep(draw.uniform(0.0, 0.01))
            for child in children:
                os.kill(child, signal.SIGKILL)
        codes = [os.waitpid(child, 0)[1] for child in children]
        hits += unfinished and any(os.WIFSIGNALED(code) for code in codes)
        finished = all(code == 0 for code in codes)
    return {"hits": hits, "shards": shards, "finished": int(finished)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "kill":
        import pipelines.corpus.tokenize_shards  # noqa: F401  (loaded once, before the forks)

        print(json.dumps(kill_often(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])))
    else:
        # By its name as a module, so that workers can find the codec's class too.
        from store_helpers import tokenize as program

        raise SystemExit(program(*sys.argv[1:]))
