"""MusicGen as a whole: a text through T5, codes from our own decoder, sound from our own EnCodec."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from codec import load_codec
from codec.errors import SoundloomError
from codec.pretrained import AudioCodec, choose_device
from lm.generation.sampling import SamplingConfig
from lm.musicgen.checkpoint import find_musicgen, load_decoder, save_musicgen
from lm.musicgen.generate import MusicGenSampling, generate
from lm.musicgen.network import MusicGenLM
from pipelines.music_model.windows import Windows, write_windows
from pipelines.music_model.writer import Music, MusicWriter, OnStep, Written, checked_texts
from pipelines.musicgen.text_encoder import TextEncoder

__all__ = ["Music", "MusicGen", "load_musicgen"]

DEFAULT = "facebook/musicgen-small"
WINDOW_SECONDS = 30.0  # what the published models were trained with
STRIDE_SHARE = 0.6  # of a window is new; 18 s of 30, as in audiocraft


class MusicGen(MusicWriter):
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
    def levels(self) -> int:
        """Levels of the codes, those of both channels in stereo."""
        return self.decoder.config.num_levels

    @property
    def lag(self) -> int:
        """Steps by which a window takes longer than it has frames."""
        return self.decoder.config.lag

    @property
    def windows(self) -> Windows:
        """The windows that pieces are written in."""
        config = self.decoder.config
        longest = min(config.max_steps - config.lag, round(WINDOW_SECONDS * self.codec.frame_rate))
        return Windows(longest, max(1, round(STRIDE_SHARE * longest)))

    @property
    def sampling(self) -> SamplingConfig:
        """How codes are sampled unless asked for otherwise."""
        return MusicGenSampling()

    def to(self, device: str | torch.device) -> MusicGen:
        """Move all networks to a device and return the model itself. Raises: SoundloomError where there is none."""
        place = choose_device(device)
        for network in (self.decoder, self.codec, self.text.network):
            network.to(place)
        return self

    def write_rows(
        self,
        texts: Sequence[str] | None,
        seconds: float,
        *,
        prompt: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        settings: SamplingConfig | None = None,
        on_step: OnStep | None = None,
    ) -> list[Written]:
        """Write a piece for each text, the prompt's codes first; see `MusicWriter.write_rows`."""
        seeds, new = checked_texts(texts, seeds), self.frames(seconds)
        before = self.prompts(prompt, len(seeds))
        states, lengths = (None, None) if texts is None else self.text.encode(texts)

        def write(frames: int, context: Tensor | None, seeds: Sequence[int], on_step: Callable[[int], None]) -> Tensor:
            return generate(
                self.decoder, states, lengths, frames, prompt_codes=context, seeds=seeds, settings=settings,
                on_step=lambda step, _: on_step(step),
            )  # fmt: skip

        return [Written(row) for row in write_windows(write, self.windows, new, before, seeds, self.lag, on_step)]

    def encode(self, wave: Tensor) -> Tensor:
        """Encode wave float [C, N] to codes long [K, T]; in stereo, levels come in pairs, left and right."""
        codes = self.codec.encode(wave[:, None])  # [C, K, T]
        return codes.transpose(0, 1).flatten(0, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes long [K, T] to wave float [C, N]. Raises: SoundloomError for levels of another model."""
        if codes.dim() != 2 or codes.shape[0] != self.levels:
            raise SoundloomError(f"codes have shape {list(codes.shape)}; expected [{self.levels}, frames]")
        split = codes.view(-1, self.channels, codes.shape[-1]).transpose(0, 1)
        return self.codec.decode(split)[:, 0]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a checkpoint that transformers opens, the decoder as it now is."""
        save_musicgen(Path(folder), self.decoder, self.folder)


def load_musicgen(name: str | os.PathLike[str] = DEFAULT, *, device: str | torch.device = "cpu") -> MusicGen:
    """Open a MusicGen checkpoint in transformers' format, mono or stereo: a folder, or a hub name.

    Raises: SoundloomError that names the file and the tensor, or says how to get the files where there is no network.
    """
    folder = find_musicgen(os.fspath(name))
    decoder = load_decoder(folder)
    return MusicGen(folder, decoder, load_codec(folder), TextEncoder.open(folder)).to(device)
