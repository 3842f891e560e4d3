"""A stand-in for fluidsynth, for machines without it: a program that plays a tone, and a file that plays the font."""

from __future__ import annotations

import sys
from pathlib import Path

_PROGRAM = """#!{python} -S
import math, struct, sys, wave
arguments = sys.argv[1:]
if "--version" in arguments:
    print("FluidSynth runtime version 9.9.9")
    raise SystemExit
# another tone for another MIDI file, as a synthesizer would play it
pitch = 200 + sum(open(arguments[-1], "rb").read()) % 200
with wave.open(arguments[arguments.index("-F") + 1], "wb") as out:
    out.setnchannels(2); out.setsampwidth(2); out.setframerate(24000)
    for i in range(24000 * 2):
        out.writeframesraw(struct.pack("<hh", *[int(9000 * math.sin(i * pitch / 3820))] * 2))
"""


def fake_fluidsynth(folder: Path) -> list[str]:
    """Write the program and the font; return the options of make_music_corpus.py that name them."""
    program, font = folder / "fluidsynth", folder / "font.sf2"
    program.write_text(_PROGRAM.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    font.write_bytes(b"RIFF")
    return ["--fluidsynth", str(program), "--soundfont", str(font)]
