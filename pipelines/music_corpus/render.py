"""Render a clip: fluidsynth plays its MIDI file with a sound font, then a room and a level."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec.audio import read_audio
from codec.common.files import sha256_file
from codec.errors import SoundloomError
from pipelines.music_corpus.midi import to_midi
from pipelines.music_corpus.score import Clip
from pipelines.training.codec_augment import in_room, room_response

SAMPLE_RATE = 24_000
_FADE = 0.01  # seconds at the end, so that a cut note does not click
_SILENT = 1e-3
_SECONDS_LIMIT = 120  # for one clip; fluidsynth needs about a tenth of a second
FONT_FOLDERS = ("/usr/share/sounds/sf2", "/usr/share/soundfonts", "/usr/local/share/sounds/sf2", "/opt/homebrew/share")
FONT_NAMES = ("FluidR3_GM.sf2", "default.sf2", "default-GM.sf2")
INSTALL = "Debian: apt install fluidsynth fluid-soundfont-gm; macOS: brew install fluid-synth and a GM sound font"


@dataclass(frozen=True)
class Synthesizer:
    """A program and a sound font that exist."""

    program: str
    font: str

    def facts(self) -> dict[str, str]:
        """Return what renders, for the corpus's facts: version, and the sound font's name and SHA-256."""
        output = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"\d+\.\d+\.\d+", output)
        digest = sha256_file(Path(self.font))
        return {"fluidsynth": version[0] if version else "unknown", "font": Path(self.font).name, "font_sha256": digest}


def find_synthesizer(program: str | None = None, font: str | None = None) -> Synthesizer:
    """Find fluidsynth and a sound font: as given, by SOUNDLOOM_FLUIDSYNTH and SOUNDLOOM_SF2, or in the usual places.

    Raises: SoundloomError where one is missing; it names what to install.
    """
    name = program or os.environ.get("SOUNDLOOM_FLUIDSYNTH") or "fluidsynth"
    found = shutil.which(name)
    if found is None:
        raise SoundloomError(f"{name}: no such program; name it with --fluidsynth, or install it ({INSTALL})")
    given = font or os.environ.get("SOUNDLOOM_SF2")
    if given and not Path(given).is_file():
        raise SoundloomError(f"{given}: no such sound font; expected a .sf2 or .sf3 file with General MIDI")
    usual = (str(Path(folder, name)) for folder in FONT_FOLDERS for name in FONT_NAMES)
    chosen = given or next((path for path in usual if Path(path).is_file()), None)
    if chosen is None:
        raise SoundloomError(
            f"no sound font in {FONT_FOLDERS[0]}; name it with --soundfont, or install one ({INSTALL})"
        )
    return Synthesizer(found, chosen)


def render(clip: Clip, synthesizer: Synthesizer) -> Tensor:
    """Return the clip as mono audio [1, N] at 24 kHz, exactly its seconds long.

    Raises: SoundloomError where fluidsynth fails or the clip is silent.
    """
    wave = _play(to_midi(clip), synthesizer)
    length = round(clip.seconds * SAMPLE_RATE)
    wave = torch.nn.functional.pad(wave, (0, max(0, length - wave.shape[1])))[:, :length].clone()
    if float(wave.abs().max()) < _SILENT:
        raise SoundloomError(f"{clip.id}: fluidsynth rendered silence; does {synthesizer.font} hold General MIDI?")
    if clip.room is not None:
        wave = in_room(wave, room_response(np.random.default_rng(clip.room), SAMPLE_RATE))
    fade = round(_FADE * SAMPLE_RATE)
    wave[:, -fade:] *= torch.linspace(1, 0, fade)
    return wave / wave.abs().max() * 10 ** (clip.level_db / 20)


def _play(midi: bytes, synthesizer: Synthesizer) -> Tensor:
    """Return fluidsynth's audio [1, N] of a MIDI file, both channels mixed, without its own reverb and chorus."""
    with tempfile.TemporaryDirectory(prefix="soundloom-") as folder:
        source, target = Path(folder, "clip.mid"), Path(folder, "clip.wav")
        source.write_bytes(midi)
        options = ["-ni", "-q", "-R", "0", "-C", "0", "-g", "0.5", "-r", str(SAMPLE_RATE), "-T", "wav", "-O", "s16"]
        options += ["-o", "synth.dynamic-sample-loading=1", "-F", str(target), synthesizer.font, str(source)]
        try:
            command = [synthesizer.program, *options]
            done = subprocess.run(command, capture_output=True, timeout=_SECONDS_LIMIT, check=False)
        except subprocess.TimeoutExpired as error:
            raise SoundloomError(f"{synthesizer.program} took more than {_SECONDS_LIMIT} s") from error
        if done.returncode or not target.exists():
            message = done.stderr.decode("utf-8", "replace").strip()[-200:]
            raise SoundloomError(f"{synthesizer.program} failed: {message or done.returncode}")
        return read_audio(target, SAMPLE_RATE, 1)
