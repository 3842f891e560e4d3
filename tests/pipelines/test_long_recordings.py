"""Memory of long recordings: that of a piece, whatever the length, but for the codes.

``SOUNDLOOM_HOURS=6`` takes six hours in place of one; a recording of 24 kHz may have 6.2.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from codec.config import CodecConfig, QuantizerConfig, SpectralConfig
from codec.model import Codec

ROOT = Path(__file__).parents[2]
HOURS = float(os.environ.get("SOUNDLOOM_HOURS", "1"))
SIZES = {"encoder_dim": 8, "encoder_blocks": 1, "bottleneck_dim": 8, "bottleneck_blocks": 1, "latent_dim": 8}
# Runs a program and prints the largest resident size that it had, in MB; children count as well.
MEASURE = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print("PEAK", peak >> 10)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with a recording of ten minutes and of hours, and a codec that is quick: its codes have 8 levels."""
    place = tmp_path_factory.mktemp("long")
    spectral = SpectralConfig(**SIZES, decoder_dim=8, decoder_blocks=1)
    Codec(CodecConfig(spectral=spectral, quantizer=QuantizerConfig(num_levels=8))).save_pretrained(place / "codec")
    minute = np.random.default_rng(0).integers(-3000, 3000, 60 * 24_000).astype(np.int16)
    for name, minutes in (("short", 10), ("long", round(60 * HOURS))):
        (place / name).mkdir()
        with soundfile.SoundFile(place / name / "a.wav", "w", 24_000, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(minute)
    return place


def peak(program: str, *words: str | Path) -> int:
    """Return the peak memory of a program, in MB."""
    command = [sys.executable, "-c", MEASURE, ROOT / "pipelines" / f"{program}.py", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.rpartition("PEAK ")[2])


@pytest.mark.slow
@pytest.mark.proof("an hour takes little more memory than ten minutes")
@pytest.mark.parametrize("program", ["reconstruct", "import_audio", "tokenize_corpus"])
def test_memory_does_not_grow_with_a_recording(place: Path, program: str, record_property: Any) -> None:
    found = {}
    for name in ("short", "long"):
        words = {
            "reconstruct": [place / name / "a.wav", "-o", place / f"{name}.flac", "--codec", place / "codec"],
            "import_audio": [place / name, place / f"{name}-imported"],
            "tokenize_corpus": [place / name, place / f"{name}-store", "--codec", place / "codec", "--shards", "1"],
        }[program]
        found[name] = peak(program, *words)
    record_property("peak of ten minutes and of hours, MB:", f"{found['short']}, {found['long']} ({HOURS:g} h)")
    print(program, found)
    # Codes are held, at 8 bytes each: 11.5 MB an hour, several times while they are joined.
    assert found["long"] < found["short"] + 60 + 50 * HOURS
