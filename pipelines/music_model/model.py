"""A music model: a caption in, a piece out, offline; see `load_music`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor

from codec.common.seeds import checked_seed, retry_seed
from codec.errors import SoundloomError
from codec.model import Codec
from codec.pretrained import choose_device
from lm.generation.generate import Generation, generate
from lm.generation.grid_writer import GenerativeLM
from lm.generation.request import GenerateConfig, Request, make_request
from lm.generation.sampling import SamplingConfig
from pipelines.music_model.caption import plain_caption
from pipelines.music_model.folder import MusicParts, open_music_folder, write_music
from pipelines.music_model.guard import verdict, worse
from pipelines.music_model.stream import MusicStream
from pipelines.music_model.windows import Windows, write_windows
from pipelines.music_model.writer import Music, MusicWriter, OnStep, Written, checked_texts
from pipelines.voice.contents import Card

__all__ = ["Music", "MusicModel", "load_music"]

LONGEST_TEXT = 512  # units; captions of the corpus have about 40


class MusicModel(MusicWriter):
    """A codec and a language model that fit; `load_music` opens one.

    The language model writes the first levels of the codec's grid; `player`, the codec with the model's own layers of
    the decoder, decodes them.
    """

    def __init__(self, parts: MusicParts) -> None:
        self.config, self.codec, self.lm, self.decoder = parts.config, parts.codec, parts.lm, parts.decoder
        self._card = parts.card
        self.lm.require_codec(self.codec)
        if self.decoder and not isinstance(self.codec, Codec):
            raise SoundloomError(f"music model {self.config.name}: layers of a decoder need a codec of soundloom")
        if self.config.levels > self.levels:
            raise SoundloomError(
                f"music model {self.config.name}: decodes {self.config.levels} levels, its model writes {self.levels}"
            )
        if self.config.sampled_levels is not None and not isinstance(self.codec, Codec):
            raise SoundloomError(f"music model {self.config.name}: expected latents need a codec of soundloom")
        self.player = self.codec
        if self.decoder and isinstance(self.codec, Codec):
            self.player = self.codec.with_decoder(self.decoder)

    @property
    def network(self) -> GenerativeLM:
        """The language model's network, which writes whole grids."""
        return cast(GenerativeLM, self.lm.model)

    @property
    def channels(self) -> int:
        """Channels of the music."""
        return self.codec.channels

    @property
    def levels(self) -> int:
        """Levels that the language model writes."""
        return self.lm.codec_facts.num_levels

    @property
    def lag(self) -> int:
        """Steps by which a window takes longer than it has frames."""
        return self.network.decoder.pattern.lag

    @property
    def windows(self) -> Windows:
        """The windows that pieces are written in."""
        rate = self.codec.frame_rate
        return Windows(round(self.config.window_seconds * rate), round(self.config.stride_seconds * rate))

    @property
    def sampling(self) -> SamplingConfig:
        """How codes are sampled unless asked for otherwise."""
        return self.config.sampling

    @property
    def card(self) -> str:
        """The model's description, Markdown."""
        return self._card.read() if isinstance(self._card, Card) else self._card

    def to(self, device: str | torch.device) -> MusicModel:
        """Move all networks to a device and return the model itself. Raises: SoundloomError where there is none."""
        place = choose_device(device)
        self.lm.model.to(place)
        self.codec.to(place)
        self.player.to(place)
        return self

    def text_ids(self, text: str) -> list[int]:
        """Return the language model's tokens for a text. Raises: SoundloomError where it has no words, or too many."""
        ids = self.lm.tokenizer.encode(plain_caption(text) or text)
        if len(ids) > LONGEST_TEXT:
            raise SoundloomError(f"the text has {len(ids)} pieces, more than {LONGEST_TEXT}; describe it shorter")
        return ids

    def request(
        self,
        texts: Sequence[Sequence[int]] | None,
        frames: int,
        prompt: Tensor | None,
        seeds: Sequence[int],
        settings: SamplingConfig | None = None,
    ) -> Request:
        """Return the request for a window of exactly ``frames``, after prompt codes [B, K, P], which count."""
        texts = [[]] * len(seeds) if texts is None else texts
        lengths = torch.tensor([len(ids) for ids in texts])
        text_ids = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long, device=self.codec.device)
        for row, ids in enumerate(texts):
            text_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        chosen = asdict(settings or self.sampling)
        chosen = {name: chosen[name] for name in asdict(SamplingConfig())}
        if not int(lengths.max()):
            chosen["guidance"] = 1.0
        vectors = None
        if self.config.sampled_levels is not None and isinstance(self.codec, Codec):
            vectors = self.codec.quantizer.vectors(self.config.levels)
        chosen["sampled_levels"] = self.config.sampled_levels
        # The model's END and its guard are off: a window has the length that was asked for, and a guard of its own.
        config = GenerateConfig(**chosen, max_frames=frames, min_frames=frames, loop_seconds=0)
        return make_request(self.network.config, text_ids, lengths, prompt, None, seeds, config, None, vectors)

    def write_rows(
        self,
        texts: Sequence[str] | None,
        seconds: float,
        *,
        prompt: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        settings: SamplingConfig | None = None,
        on_step: OnStep | None = None,
        retries: int | None = None,
    ) -> list[Written]:
        """Write a piece for each text, the prompt's codes first; see `MusicWriter.write_rows`.

        A window that is silent or repeats itself is tried again, at most ``retries`` times (None: the model's own).
        """
        seeds, new = checked_texts(texts, seeds), self.frames(seconds)
        before = self.prompts(prompt, len(seeds))
        ids = None if texts is None else [self.text_ids(text) for text in texts]
        run = _GuardedRun(
            self, partial(self.request, ids, settings=settings), len(seeds), self._tries(settings, retries)
        )
        codes = write_windows(run, self.windows, new, before, seeds, self.lag, on_step)
        return [
            Written(row, run.reasons[i], run.attempts[i], run.latents(i, self.given_latents(before[i])))
            for i, row in enumerate(codes)
        ]

    def stream(
        self,
        text: str | None,
        seconds: float,
        *,
        prompt: Tensor | None = None,
        only_new: bool = False,
        seed: int = 0,
        settings: SamplingConfig | None = None,
    ) -> MusicStream:
        """Return the piece of `write` as chunks of sound [C, n] while it is written; the guard only watches.

        Its ``music`` is set when it has ended. Raises: SoundloomError, as `write`, and before anything is written.
        """
        texts = None if text is None else [text]
        checked_texts(texts, [checked_seed(seed)])
        ids = None if texts is None else [self.text_ids(text) for text in texts]
        return MusicStream(self, ids, self.frames(seconds), self.prompts(prompt, 1), seed, settings, only_new)

    def _tries(self, settings: SamplingConfig | None, retries: int | None) -> int:
        settings = settings or self.sampling
        if settings.temperature == 0 and not settings.fine_temperature:
            return 1  # the likeliest codes are the same with every seed
        return 1 + (self.config.retries if retries is None else retries)

    def encode(self, wave: Tensor) -> Tensor:
        """Encode wave float [C, N] to codes long [K, T] of the levels that the language model writes."""
        return self.codec.encode(wave[None])[0, : self.levels]

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes long [K, T] to wave float [C, N]. Raises: SoundloomError for levels of another model."""
        if codes.dim() != 2 or codes.shape[0] != self.levels:
            raise SoundloomError(f"codes have shape {list(codes.shape)}; expected [{self.levels}, frames]")
        return self.player.decode(codes[None, : self.config.levels])[0]

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode latents float [D, T] to wave float [C, N]. Raises: SoundloomError for a codec that has none."""
        if not isinstance(self.player, Codec):
            raise SoundloomError("this model's codec decodes codes only")
        return self.player.decode_latent(latents[None])[0]

    @torch.no_grad()
    def given_latents(self, codes: Tensor) -> Tensor | None:
        """Return the latents float [D, T] of true codes long [K, T]; None where the model makes none."""
        if self.config.sampled_levels is None or not isinstance(self.codec, Codec):
            return None
        return self.codec.quantizer.decode(codes[None, : self.config.levels])[0]

    def verdict(self, codes: Tensor, latents: Tensor | None = None) -> str:
        """Return the guard's finish reason for codes long [K, T] and their latents float [D, T], if any."""
        wave = self.decode(codes) if latents is None else self.decode_latents(latents)
        return verdict(codes, self.codec.frame_rate, wave, self.codec.sample_rate)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the model as a folder that `load_music` opens, the networks as they now are, in float32."""
        write_music(folder, MusicParts(self.config, self.codec, self.lm, self.decoder, self._card))


class _GuardedRun:
    """Writes the windows of some pieces side by side, each until a try ends well, else keeps its least bad one."""

    def __init__(
        self, model: MusicModel, request: Callable[[int, Tensor | None, Sequence[int]], Request], rows: int, tries: int
    ) -> None:
        self.model, self.request, self.tries = model, request, tries
        self.reasons, self.attempts = ["end"] * rows, [1] * rows  # the worst of each piece's windows
        self._latents: list[list[Tensor]] = [[] for _ in range(rows)]

    def latents(self, row: int, before: Tensor | None) -> Tensor | None:
        """Return a piece's latents [D, T] after those of its prompt; None where the model makes none."""
        return None if before is None else torch.cat([before, *self._latents[row]], dim=1)

    def __call__(
        self, frames: int, prompt: Tensor | None, seeds: Sequence[int], on_step: Callable[[int], None]
    ) -> Tensor:
        """Write one window; see `pipelines.music_model.windows.WriteWindow`."""
        request = self.request(frames, prompt, seeds)
        kept = 0 if prompt is None else prompt.shape[2]
        best = self._takes(generate(self.model.network, request, on_step), kept)
        attempts = [1] * len(best)
        for attempt in range(1, self.tries):
            bad = [row for row, take in enumerate(best) if take.reason != "end"]
            if not bad:
                break
            again = request.rows(bad, [retry_seed(seeds[row], attempt) for row in bad])
            for row, take in zip(bad, self._takes(generate(self.model.network, again), kept), strict=True):
                attempts[row] += 1
                best[row] = take if worse(best[row].reason, take.reason) else best[row]
        for row, take in enumerate(best):
            self.reasons[row] = take.reason if worse(take.reason, self.reasons[row]) else self.reasons[row]
            self.attempts[row] = max(self.attempts[row], attempts[row])
            if take.latents is not None:
                self._latents[row].append(take.latents)
        return torch.stack([take.codes for take in best])

    def _takes(self, made: Generation, kept: int) -> list[_Take]:
        latents: list[Tensor | None] = [None] * len(made.codes)
        if made.latents is not None:
            latents = [row[:, kept:] for row in made.latents]
        reasons = [self.model.verdict(codes[:, kept:], own) for codes, own in zip(made.codes, latents, strict=True)]
        return [_Take(*parts) for parts in zip(made.codes, latents, reasons, strict=True)]


class _Take(NamedTuple):
    """One try at a window: codes [K, T], the context included; latents [D, n] of the new frames; finish reason."""

    codes: Tensor
    latents: Tensor | None
    reason: str


def load_music(name: str | os.PathLike[str] | None = "shipped", *, device: str | torch.device = "cpu") -> MusicModel:
    """Open a music model: the shipped one, a folder, or a hub name. Raises: SoundloomError that names the file."""
    return MusicModel(open_music_folder(name)).to(device)
