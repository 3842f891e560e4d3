"""What a sentence needs to be spoken: built once from text and options, and handed down."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.model import Codec
from codec.pretrained import AudioCodec
from lm.checkpoint import LoadedLM
from lm.generation.latents import LatentFit
from lm.generation.request import GenerateConfig
from pipelines.voice.takes import WordChecker

Prompt = Tensor | np.ndarray | str | os.PathLike[str]
_OLD_NAMES = {"drawn_levels": "sampled_levels"}


def with_current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return sampling settings by today's names; old ones are still read."""
    return {_OLD_NAMES.get(name, name): value for name, value in values.items()}


def device_of(lm: LoadedLM) -> torch.device:
    """Return the device that a language model is on."""
    return next(lm.model.parameters()).device


@dataclass(frozen=True)
class SpeakOptions:
    """The options of one call, as a user gives them; see `Voice.speak`. ``sampling``: fields of `GenerateConfig`.

    ``check_words``: whether the guard looks for words said twice or left out; None = in short utterances only.
    ``takes``: how many takes of each sentence the best is chosen from; ``checker`` counts their wrong words.
    """

    speaker: str | None = None
    prompt: Prompt | None = None
    prompt_text: str | None = None
    levels: int | None = None
    retries: int | None = None
    speed: float = 1.0
    strict: bool = False
    check_words: bool | None = None
    takes: int = 1
    checker: WordChecker | None = None
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SpeakOptions:
        """Take what is an option of ours, and the rest as settings for sampling."""
        own = {f.name for f in dataclasses.fields(cls)} - {"sampling"}
        rest = {name: value for name, value in options.items() if name not in own}
        return cls(**{name: value for name, value in options.items() if name in own}, sampling=rest)


@dataclass(frozen=True)
class Style:
    """How all sentences of one call are spoken.

    ``levels``: how many levels are decoded. ``vectors`` float [levels, V, D]: the codebooks, where the decoder gets
    expected latents (`sampled_levels`), else None. ``player``: the codec that decodes.
    """

    sampling: GenerateConfig
    levels: int
    retries: int
    player: AudioCodec
    vectors: Tensor | None = None
    speed: float = 1.0
    check_words: bool | None = None
    takes: int = 1
    checker: WordChecker | None = None


@dataclass(frozen=True)
class Speaker:
    """Speaker statistics from a prompt; they move expected latents, which lie near the mean speaker, to this one.

    ``codes`` [K, P]: the prompt's, all levels of the codec. ``fit`` moves latents. ``player``: the codec with the
    prompt's long-term spectrum. Both are None where the prompt is too short or the codec cannot.
    """

    codes: Tensor
    fit: LatentFit | None = None
    player: Codec | None = None


@dataclass(frozen=True)
class VoicePrompt:
    """What generation continues: codes [K, P], the ids of their text, and the speaker of a recording."""

    codes: Tensor
    text_ids: tuple[int, ...] = ()
    speaker: Speaker | None = None


@dataclass(frozen=True)
class SentenceRequest:
    """One sentence to speak. ``text_ids`` are its own; those of the prompt's text come before them.

    ``expected_seconds``: how long such a text takes on average, for the guard; None where exactly the asked length
    is right.
    """

    text: str
    text_ids: tuple[int, ...]
    seed: int
    style: Style
    prompt: VoicePrompt | None = None
    expected_seconds: float | None = None

    @property
    def speaker(self) -> Speaker | None:
        """The speaker of a recorded prompt."""
        return None if self.prompt is None else self.prompt.speaker

    @property
    def player(self) -> AudioCodec:
        """The codec that decodes this sentence."""
        own = None if self.speaker is None or self.style.vectors is None else self.speaker.player
        return self.style.player if own is None else own

    @property
    def prompt_units(self) -> int:
        """How many text ids the prompt has."""
        return 0 if self.prompt is None else len(self.prompt.text_ids)

    @property
    def prompt_frames(self) -> int:
        """How many frames the prompt has."""
        return 0 if self.prompt is None else self.prompt.codes.shape[1]

    def all_text_ids(self, device: torch.device | str = "cpu") -> Tensor:
        """The ids of the prompt's text and the sentence's own, long [L]."""
        before = () if self.prompt is None else self.prompt.text_ids
        return torch.tensor([*before, *self.text_ids], dtype=torch.long, device=device)

    def fitted(self, latents: Tensor) -> Tensor:
        """Move expected latents [D, T] to the prompt's speaker."""
        fit = None if self.speaker is None else self.speaker.fit
        return latents if fit is None else fit(latents)
