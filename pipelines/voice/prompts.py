"""Prompts: recordings (and their text) that generation continues, and what they show about their speaker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codec.audio.files import read_audio
from codec.equalize import spectrum_gains
from codec.errors import SoundloomError
from codec.model import Codec
from codec.pretrained import AudioCodec
from lm.checkpoint import LoadedLM
from lm.data.dataset import Example, collate
from lm.generation.generate import evaluating
from lm.generation.latents import SKIPPED, fit_latents, teacher_forced_latents
from pipelines.voice.request import Prompt, Speaker, Style, VoicePrompt, device_of

MAX_SECONDS, MIN_SECONDS = 20.0, 0.1
_FULL_SCALE = {torch.int16: 2.0**15, torch.int32: 2.0**31}


@dataclass(frozen=True)
class PromptReader:
    """Reads prompts for a codec and a language model. ``player``: the codec with the voice's own decoder."""

    codec: AudioCodec
    lm: LoadedLM
    player: AudioCodec

    def voice_prompt(self, prompt: Prompt, text_ids: tuple[int, ...], style: Style) -> VoicePrompt:
        """Encode a recording whose text has the given ids. Raises: SoundloomError where it is too long or too short."""
        wave = self.wave(prompt)
        self.check_length(wave)
        return self.of_wave(wave, text_ids, style)

    def of_wave(self, wave: Tensor, text_ids: tuple[int, ...], style: Style) -> VoicePrompt:
        """Encode wave [C, N], which says the text with the given ids."""
        codes = self.codec.encode(wave[None])[0].clone()
        speaker = self._speaker(wave, codes, text_ids, style)
        return VoicePrompt(codes[: self.lm.codec_facts.num_levels], text_ids, speaker)

    def wave(self, prompt: Prompt) -> Tensor:
        """Return a recording [C, N] at the codec's rate, cut to whole frames, where the models are.

        Raises: SoundloomError.
        """
        channels, rate, hop = self.codec.channels, self.codec.sample_rate, self.codec.hop_length
        if isinstance(prompt, (Tensor, np.ndarray)):
            wave = _samples(prompt)
            wave = wave if wave.shape[0] == channels else wave.mean(0, keepdim=True).expand(channels, -1)
        else:
            wave = read_audio(prompt, rate, channels)
        wave = wave[:, : wave.shape[1] // hop * hop]
        if wave.shape[1] < MIN_SECONDS * rate:
            raise SoundloomError(f"the prompt is shorter than {MIN_SECONDS:g} s; three seconds are good")
        return wave.to(device_of(self.lm))

    def check_length(self, wave: Tensor) -> None:
        """Raises: SoundloomError where a prompt is longer than a model can take."""
        seconds = wave.shape[1] / self.codec.sample_rate
        if seconds > MAX_SECONDS:
            raise SoundloomError(
                f"the prompt is {seconds:.1f} s long; cut it, and prompt_text with it, to at most {MAX_SECONDS:g} s"
            )

    def _speaker(self, wave: Tensor, codes: Tensor, text_ids: tuple[int, ...], style: Style) -> Speaker | None:
        """Return what a recording [C, N] with its codes of all levels [K, P] and its text shows about its speaker."""
        vectors = style.vectors
        if vectors is None or not isinstance(self.codec, Codec) or not isinstance(self.player, Codec):
            return None
        example = Example("prompt", list(text_ids), codes[: self.lm.codec_facts.num_levels])
        batch = collate([example], self.lm.tokenizer.pad_id).to(device_of(self.lm))
        with evaluating(self.lm.model):
            known = teacher_forced_latents(self.lm.model, batch, vectors, style.sampling.sampled_levels)[0]
        true = self.codec.quantizer.decode(codes[None])[0]
        fit = fit_latents(known, true)
        if fit is None or self.codec.config.network != "spectral":
            return Speaker(codes, fit)
        begin = SKIPPED * self.codec.hop_length
        made = self.player.decode_latent(fit(known)[None])[0]
        window = self.codec.config.spectral.decoder_window
        gains = spectrum_gains(made[0, begin:], wave[0, begin:], self.codec.sample_rate, window)
        return Speaker(codes, fit, self.player.equalized(gains))


def _samples(prompt: Tensor | np.ndarray) -> Tensor:
    """Return a waveform as float32 [C, N]; int16 and int32 are scaled to -1 … 1. Raises: SoundloomError."""
    wave = torch.from_numpy(np.ascontiguousarray(prompt)) if isinstance(prompt, np.ndarray) else prompt.detach()
    if not wave.is_floating_point() and wave.dtype not in _FULL_SCALE:
        raise SoundloomError(f"the prompt has samples of type {wave.dtype}; expected floats from -1 to 1, or int16")
    scale = _FULL_SCALE.get(wave.dtype, 1.0)
    wave = wave.float().cpu() / scale if scale != 1.0 else wave.float().cpu()
    wave = wave[None] if wave.dim() == 1 else wave
    if wave.dim() != 2 or not bool(torch.isfinite(wave).all()):
        raise SoundloomError(f"the prompt has shape {list(prompt.shape)}; wanted finite samples [N] or [C, N]")
    return wave
