"""From a call's options to sentence requests: settings checked, the prompt read, the text cut, each of them once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from codec.errors import SoundloomError, quoted
from codec.model import Codec
from codec.pretrained import AudioCodec
from lm.checkpoint import LoadedLM
from lm.config import from_dict
from lm.generation.request import GenerateConfig
from lm.step_lm import DelayLM
from pipelines.voice.folder import SpeakerPrompt, VoiceConfig
from pipelines.voice.prompts import PromptReader
from pipelines.voice.ready import key_of, pack, unpack
from pipelines.voice.request import (
    Prompt,
    SentenceRequest,
    SpeakOptions,
    Style,
    VoicePrompt,
    with_current_names,
)
from pipelines.voice.sentences import Cutter, Piece
from pipelines.voice.takes import MOST_TAKES
from pipelines.voice.timescale import checked_speed

_SPACE = "▁"  # a tokenizer's piece between words


@dataclass
class Planner:
    """Makes requests for one voice: its settings, codec, language model, player and other speakers."""

    config: VoiceConfig
    codec: AudioCodec
    lm: LoadedLM
    player: AudioCodec
    speakers: Mapping[str, SpeakerPrompt]
    stored: Mapping[str, Tensor] = field(default_factory=dict)  # ready state of speakers, from the voice's folder
    _ready: dict[tuple[Any, ...], VoicePrompt] = field(default_factory=dict)  # prompts of named speakers

    @property
    def reader(self) -> PromptReader:
        """What reads recordings."""
        return PromptReader(self.codec, self.lm, self.player)

    @property
    def cutter(self) -> Cutter:
        """A fresh cutter of texts, with the voice's settings."""
        config = self.config
        longest, pause, language = config.max_sentence_seconds, config.pause_seconds, self.lm.tokenizer.language
        return Cutter(self.text_ids, self.seconds, longest, pause, language)

    def seconds(self, units: int) -> float:
        """Return how long that many text ids take on average."""
        return self.lm.model.config.expected_frames(units) / self.lm.codec_facts.frame_rate

    def text_ids(self, text: str) -> list[int]:
        """Return the model's tokens for a text. Raises: SoundloomError where nothing in it can be spoken."""
        # Text that just stops gets a mark: without one, some seeds misread "hello world".
        tokenizer = self.lm.tokenizer
        ids = tokenizer.encode(tokenizer.language.finish(text))
        return self._calm(ids)

    def _calm(self, ids: list[int]) -> list[int]:
        """Return the ids of one word that is asked or cried with a full stop at its end; others as they are.

        The corpora have no single words. Of 48 takes of such ones (Really? Stop!) 19 had errors; a full stop mends
        some.
        """
        piece = self.lm.tokenizer.piece
        if ids and piece(ids[-1]) in ("?", "!") and _SPACE not in map(piece, ids):
            return [*ids[:-1], *self.lm.tokenizer.encode("a.")[-1:]]
        return ids

    def forget(self) -> None:
        """Drop prompts that were kept, because the models moved."""
        self._ready.clear()

    def check_speaker(self, name: str) -> None:
        """Raises: SoundloomError where the voice has no such speaker, with those that it has."""
        if name not in self.speakers:
            known, voice = ", ".join(self.speakers) or "none", self.config.name
            raise SoundloomError(f"no speaker {quoted(name)}; next to its own the voice {voice} has: {known}")

    def style(self, options: SpeakOptions) -> Style:
        """Check the options and fill in the voice's own settings."""
        settings = asdict(self.config.generation) | with_current_names(options.sampling)
        sampling = from_dict(GenerateConfig, settings, "settings")
        levels = (self.config.levels or self.lm.codec_facts.num_levels) if options.levels is None else options.levels
        if not isinstance(levels, int) or not 1 <= levels <= self.lm.codec_facts.num_levels:
            raise SoundloomError(
                f"levels is {levels}; the voice {self.config.name} has levels 1 to {self.lm.codec_facts.num_levels}"
            )
        retries = self.config.retries if options.retries is None else options.retries
        if not isinstance(retries, int) or not 0 <= retries <= 20:
            raise SoundloomError(f"retries is {retries}; expected 0 to 20")
        vectors = self._vectors(sampling, levels)
        player = self.codec if vectors is None else self.player
        if not 1 <= options.takes <= MOST_TAKES:
            raise SoundloomError(f"takes is {options.takes}; expected 1 to {MOST_TAKES}")
        words, takes, checker = options.check_words, options.takes, options.checker
        return Style(sampling, levels, retries, player, vectors, checked_speed(options.speed), words, takes, checker)

    def _vectors(self, sampling: GenerateConfig, levels: int) -> Tensor | None:
        """Return the codebooks of the levels, where not all of them are decoded as sampled codes."""
        sampled = sampling.sampled_levels
        if sampled is None or sampled >= levels:
            return None
        if not isinstance(self.codec, Codec) or not isinstance(self.lm.model, DelayLM):
            raise SoundloomError(
                f"sampled_levels is {sampled}, but expected latents need a codec of soundloom and a delay model; "
                f"the voice {self.config.name} has a {type(self.codec).__name__} and a {type(self.lm.model).__name__}"
            )
        return self.codec.quantizer.vectors(levels)

    def prompt(self, options: SpeakOptions, style: Style) -> VoicePrompt | None:
        """Return what the first sentence continues, or None without a speaker and a prompt."""
        if options.speaker is not None:
            if options.prompt is not None or options.prompt_text is not None:
                raise SoundloomError(f"speaker {options.speaker!r} and a prompt: give one of them")
            return self._named(options.speaker, style)
        if options.prompt is None:
            if options.prompt_text is not None:
                raise SoundloomError("prompt_text without a prompt: give the recording that says it")
            return None
        return self._read_prompt(options.prompt, options.prompt_text, style)

    def _named(self, name: str, style: Style) -> VoicePrompt:
        """Return the prompt of one of the voice's speakers; it is read once."""
        self.check_speaker(name)
        key = (name, style.levels, style.sampling.sampled_levels)
        if key not in self._ready:
            speaker = self.speakers[name]
            speaker.check()
            self._ready[key] = self._stored(name, style) or self._read_prompt(speaker.audio, speaker.text, style)
        return self._ready[key]

    def _stored(self, name: str, style: Style) -> VoicePrompt | None:
        """Return a speaker's prompt from its stored state, where there is one for these models and settings."""
        if f"{name}/key" not in self.stored:
            return None
        key, ids = key_of(self.config, self.player, name, style), tuple(self.text_ids(self.speakers[name].text))
        return unpack(self.stored, name, key, ids, self.lm.codec_facts.num_levels, self.player)

    def states(self) -> Iterator[dict[str, Tensor]]:
        """Yield the state of each speaker whose recording can be read, made anew, to be stored."""
        style = self.style(SpeakOptions())
        for name, speaker in self.speakers.items():
            key = key_of(self.config, self.player, name, style)
            if key is None:
                continue
            with suppress(SoundloomError):  # which the speaker's first use reports
                yield pack(name, key, self._read_prompt(speaker.audio, speaker.text, style))

    def _read_prompt(self, prompt: Prompt, prompt_text: str | None, style: Style) -> VoicePrompt:
        if prompt_text is None or not prompt_text.strip():
            raise SoundloomError("a prompt needs its text: give prompt_text, the words that the recording says")
        return self.reader.voice_prompt(prompt, tuple(self.text_ids(prompt_text.strip())), style)

    def request(self, piece: Piece, prompt: VoicePrompt | None, seed: int, style: Style) -> SentenceRequest:
        """Return the request for one piece of a text."""
        return SentenceRequest(piece.text, piece.ids, seed, style, prompt, self.seconds(len(piece.ids)))
