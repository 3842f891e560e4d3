"""MusicGen as a whole: a text through T5, codes from our own decoder, sound from our own EnCodec."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codec import load_codec
from codec.audio.files import read_audio, write_audio
from codec.errors import SoundloomError, quoted
from codec.pretrained import AudioCodec, choose_device
from lm.generation.sampling import SamplingConfig
from lm.musicgen.checkpoint import find_musicgen, load_decoder, save_musicgen
from lm.musicgen.network import MusicGenLM
from pipelines.musicgen.text_encoder import TextEncoder
from pipelines.musicgen.windows import TextStates, Windows, write_windows

DEFAULT = "facebook/musicgen-small"
WINDOW_SECONDS = 30.0  # what the published models were trained with
STRIDE_SHARE = 0.6  # of a window is new; 18 s of 30, as in audiocraft
MAX_SECONDS = 600.0


@dataclass(frozen=True)
class Music:
    """A piece: ``waveform`` float32 [C, N] at ``sample_rate``; ``codes`` long [K, T], its prompt included."""

    waveform: Tensor
    sample_rate: int
    codes: Tensor

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.waveform.shape[-1] / self.sample_rate

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an audio file of the kind that the suffix names. Raises: SoundloomError."""
        write_audio(path, self.waveform, self.sample_rate)


class MusicGen:
    """Text to music, and recordings continued; see `load_musicgen`."""

    def __init__(self, folder: Path, decoder: MusicGenLM, codec: AudioCodec, text: TextEncoder) -> None:
        self.folder, self.decoder, self.codec, self.text = folder, decoder, codec, text
        c = decoder.config
        if (c.num_levels, c.codebook_size) != (codec.num_levels * c.channels, codec.codebook_size):
            raise SoundloomError(
                f"{folder}: the decoder writes {c.num_levels} levels of {c.codebook_size} codes, its codec has "
                f"{codec.num_levels} of {codec.codebook_size}, for {c.channels} channels"
            )

    @property
    def channels(self) -> int:
        """Channels of the music: 1 or 2."""
        return self.decoder.config.channels

    @property
    def windows(self) -> Windows:
        """The windows that pieces are written in."""
        config = self.decoder.config
        longest = min(config.max_steps - config.lag, round(WINDOW_SECONDS * self.codec.frame_rate))
        return Windows(longest, max(1, round(STRIDE_SHARE * longest)))

    def to(self, device: str | torch.device) -> MusicGen:
        """Move all networks to a device and return the model itself. Raises: SoundloomError where there is none."""
        place = choose_device(device)
        for network in (self.decoder, self.codec, self.text.network):
            network.to(place)
        return self

    def write(
        self,
        text: str | None,
        seconds: float,
        *,
        prompt: Tensor | None = None,
        only_new: bool = False,
        seed: int = 0,
        settings: SamplingConfig | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Music:
        """Write ``seconds`` of music for a text (None: whatever comes), after prompt float [C, N] if given.

        The prompt is at the codec's rate and has the model's channels. The same seed gives the same music. More than 30
        s are written in overlapping windows. Raises: SoundloomError for an empty text, or more than 600 s.
        """
        texts = None if text is None else [text]
        codes = self.write_codes(texts, seconds, prompt=prompt, seeds=[seed], settings=settings, on_step=on_step)
        return self.music(codes[0], prompt if only_new else None)

    def write_batch(
        self, texts: Sequence[str], seconds: float, *, only_new: bool = False, **options: object
    ) -> list[Music]:
        """Write a piece for each text side by side, all after the same prompt; options are those of `write_codes`."""
        codes = self.write_codes(texts, seconds, **options)  # type: ignore[arg-type]
        prompt = options.get("prompt") if only_new else None
        return [self.music(row, prompt if isinstance(prompt, Tensor) else None) for row in codes]

    def write_codes(
        self,
        texts: Sequence[str] | None,
        seconds: float,
        *,
        prompt: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        settings: SamplingConfig | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Write the codes long [B, K, T] of a piece for each text, the prompt's first; `music` decodes a row.

        ``seeds``: one for each text (0 by default); a row does not depend on its neighbours. Raises: SoundloomError.
        """
        if isinstance(texts, str):
            raise SoundloomError("texts is a single str; expected a list of texts")
        for text in texts or ():
            if not isinstance(text, str) or not text.strip():
                raise SoundloomError("the text is empty; say what the music should be like")
        rows = 1 if texts is None else len(texts)
        seeds = [0] * rows if seeds is None else list(seeds)
        if len(seeds) != rows:
            raise SoundloomError(f"{len(seeds)} seeds for {rows} texts; give one for each text")
        new = self._frames(seconds)
        start = self._no_frames() if prompt is None else self.encode(prompt)
        states = TextStates() if texts is None else TextStates(*self.text.encode(texts))
        before = start[None].expand(rows, -1, -1)
        return write_windows(self.decoder, states, self.windows, new, before, seeds, settings, on_step)

    def steps(self, seconds: float, prompt: Tensor | None = None) -> int:
        """Return how many steps `write` will take."""
        hop = self.codec.hop_length
        before = 0 if prompt is None else -(-prompt.shape[-1] // hop)
        return self.windows.steps(before, self._frames(seconds), self.decoder.config.lag)

    def music(self, codes: Tensor, without: Tensor | None = None) -> Music:
        """Decode codes long [K, T]; leave out the prompt ``without`` [C, N] at the start."""
        wave = self.decode(codes)
        if without is not None:
            before = -(-without.shape[-1] // self.codec.hop_length)
            codes, wave = codes[:, before:], wave[:, before * self.codec.hop_length :]
        return Music(wave, self.codec.sample_rate, codes)

    def encode(self, wave: Tensor) -> Tensor:
        """Encode wave float [C, N] to codes long [K, T]; in stereo, levels come in pairs, left and right."""
        if wave.shape[0] != self.channels:
            raise SoundloomError(f"the prompt has {wave.shape[0]} channels, this model writes {self.channels}")
        codes = self.codec.encode(wave[:, None])  # [C, K, T]
        return codes.transpose(0, 1).flatten(0, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes long [K, T] to wave float [C, N]. Raises: SoundloomError for levels of another model."""
        if codes.dim() != 2 or codes.shape[0] != self.decoder.config.num_levels:
            levels = self.decoder.config.num_levels
            raise SoundloomError(f"codes have shape {list(codes.shape)}; expected [{levels}, frames]")
        split = codes.view(-1, self.channels, codes.shape[-1]).transpose(0, 1)
        return self.codec.decode(split)[:, 0]

    def read_prompt(self, path: str | os.PathLike[str]) -> Tensor:
        """Read an audio file (or -) as a prompt [C, N], with the codec's rate and the model's channels."""
        wave = read_audio(path, self.codec.sample_rate, None if self.channels > 1 else 1)
        return wave if wave.shape[0] == self.channels else wave.mean(dim=0, keepdim=True).expand(self.channels, -1)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a checkpoint that transformers opens, the decoder as it now is."""
        save_musicgen(Path(folder), self.decoder, self.folder)

    def _frames(self, seconds: float) -> int:
        frames = round(seconds * self.codec.frame_rate) if 0 < seconds <= MAX_SECONDS else 0
        if frames < 1:
            raise SoundloomError(f"seconds is {quoted(seconds)}; expected more than 0 and at most {MAX_SECONDS:g}")
        return frames

    def _no_frames(self) -> Tensor:
        return torch.zeros(self.decoder.config.num_levels, 0, dtype=torch.long, device=self.decoder.heads.device)


def load_musicgen(name: str | os.PathLike[str] = DEFAULT, *, device: str | torch.device = "cpu") -> MusicGen:
    """Open a MusicGen checkpoint in transformers' format, mono or stereo: a folder, or a hub name.

    Raises: SoundloomError that names the file and the tensor, or says how to get the files where there is no network.
    """
    folder = find_musicgen(os.fspath(name))
    decoder = load_decoder(folder)
    return MusicGen(folder, decoder, load_codec(folder), TextEncoder.open(folder)).to(device)
