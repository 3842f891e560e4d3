"""A voice: text in, speech out, whole or as a stream; and recordings continued.

from pipelines import load_voice

voice = load_voice()
speech = voice.speak("hello world", seed=0)
speech.save("hello.wav")
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.common.seeds import checked_seed, sentence_seed
from codec.errors import SoundloomError
from codec.model import Codec
from codec.pretrained import AudioCodec, choose_device
from lm.checkpoint import LoadedLM
from lm.text.lexicon import Lexicon
from pipelines.voice.folder import (
    Card,
    SpeakerPrompt,
    VoiceConfig,
    VoiceParts,
    open_voice_folder,
    write_voice,
)
from pipelines.voice.planning import Planner
from pipelines.voice.request import (
    Prompt,
    SentenceRequest,
    SpeakOptions,
    Style,
    VoicePrompt,
    device_of,
)
from pipelines.voice.sentences import Piece, Script
from pipelines.voice.speech import Sentence, Speech, SpeechStream
from pipelines.voice.synthesis import SentenceStream, joined, synthesize
from pipelines.voice.takes import WordChecker

FREE_TEMPERATURE = 1.0  # without text a low one stays in the silence in which a recording ends
CONTEXT_SECONDS = 10.0  # without text, the model continues from this much of the recording's end
MAX_SECONDS = 600.0  # of a continuation


def load_voice(
    name_or_folder: str | os.PathLike[str] | None = None, *, device: str | torch.device | None = None
) -> Voice:
    """Open a voice: the shipped one (None, or by its name), a folder, or a name on the Hugging Face hub.

    Only a hub name uses the network. ``device``: where the models run: "cpu" (the default), "cuda", "mps" or "auto".
    Raises: SoundloomError that says what was looked for and what would be right.
    """
    voice = Voice(**vars(open_voice_folder(name_or_folder)))
    return voice if device is None else voice.to(device)


@dataclass
class _Progress:
    """How far one text has come: its script, the prompt of the next sentence, and what was spoken so far."""

    script: Script
    seed: int
    prompt: VoicePrompt | None
    parts: list[Tensor] = field(default_factory=list)
    sentences: list[Sentence] = field(default_factory=list)

    def speech(self, sample_rate: int, levels: int) -> Speech:
        sentences = [replace(sentence, codes=sentence.codes[:levels].clone()) for sentence in self.sentences]
        return Speech.of(torch.cat(self.parts, dim=-1), sample_rate, sentences, self.script.skipped)


class Voice:
    """A codec and a language model that fit, with default settings; `load_voice` opens one.

    ``decoder``: the voice's own tensors of the codec's decoder. `player`, the codec with them, decodes latents
    (`sampled_levels`); codes are decoded by the codec itself. ``speakers``: other speakers to sound like, by name.
    """

    def __init__(
        self,
        config: VoiceConfig,
        codec: AudioCodec,
        lm: LoadedLM,
        card: str | Card = "",
        decoder: Mapping[str, Tensor] | None = None,
        speakers: Mapping[str, SpeakerPrompt] | None = None,
        ready: Mapping[str, Tensor] | None = None,
    ) -> None:
        lm.require_codec(codec)
        if decoder and not isinstance(codec, Codec):
            raise SoundloomError(f"voice {config.name}: layers of a decoder of its own need a codec of soundloom")
        self.config = config
        self.codec: Any = codec
        self.lm = lm
        self.decoder = decoder
        self.speakers = dict(speakers or {})
        self.player: Any = codec.with_decoder(decoder) if decoder and isinstance(codec, Codec) else codec
        self.name = config.name
        self.sample_rate: int = codec.sample_rate
        self.num_levels: int = lm.codec_facts.num_levels
        self.frame_rate: float = lm.codec_facts.frame_rate
        self._card = card
        self.plan = Planner(config, codec, lm, self.player, self.speakers, ready or {})
        if (config.levels or 1) > self.num_levels:
            raise SoundloomError(
                f"voice {self.name}: decodes {config.levels} levels, its model writes {self.num_levels}"
            )

    @property
    def card(self) -> str:
        """The voice's description, Markdown."""
        return self._card if isinstance(self._card, str) else self._card.read()

    @property
    def device(self) -> torch.device:
        """Where the models are, and so everything that the voice returns."""
        return device_of(self.lm)

    def add_words(self, words: str | os.PathLike[str] | Mapping[str, str]) -> None:
        """Take pronunciations before those of the voice's own lexicon: a file, or words with their phonemes.

        A file has a line for each word: word, TAB, phonemes of misaki's alphabet. Raises: SoundloomError.
        """
        language = self.lm.tokenizer.language
        lexicon = Lexicon.of(words, language) if isinstance(words, Mapping) else Lexicon.load(Path(words), language)
        self.lm = replace(self.lm, tokenizer=self.lm.tokenizer.with_words(lexicon))
        self.plan.lm = self.lm
        self.plan.forget()

    def to(self, device: str | torch.device) -> Voice:
        """Move the models to a device ("auto" is the fastest that is there) and return the voice itself.

        Raises: SoundloomError where this machine has no such device.
        """
        place = choose_device(device)
        for network in (self.codec, self.player, self.lm.model):
            network.to(place)
        self.plan.forget()
        return self

    # --- speaking -----------------------------------------------------------------------------------------------------

    def speak(
        self,
        text: str,
        *,
        seed: int = 0,
        speaker: str | None = None,
        prompt: Prompt | None = None,
        prompt_text: str | None = None,
        levels: int | None = None,
        retries: int | None = None,
        speed: float = 1.0,
        strict: bool = False,
        takes: int = 1,
        checker: WordChecker | None = None,
        **sampling: Any,
    ) -> Speech:
        """Speak a text, sentence by sentence; the same seed and settings give the same sound.

        ``[pause:0.5s]`` in the text is half a second of silence. ``speaker``: one of `speakers` to sound like.
        ``prompt``: a recording (a file, or a waveform [N] or [C, N] at the voice's sample rate) of any other speaker,
        with ``prompt_text``, what it says. ``levels``: decode the first n levels (default: the voice's own).
        ``retries``: a sentence that did not end well is tried again at most so often, with other seeds;
        `Speech.finish_reason` and `Speech.attempts` show the result. ``speed``: 0.5 to 2 times the rate, at the same
        pitch. ``strict``: raise where a part of the text cannot be spoken, which else is left out and listed in
        `Speech.skipped`. ``takes``: keep the best of n takes of each sentence, by the guard's measures or a ``checker``
        of words (`pipelines.evaluation.word_checker`). ``sampling``: fields of `lm.generation.request.GenerateConfig`.
        Raises: SoundloomError.
        """
        options: dict[str, Any] = {"speaker": speaker, "prompt": prompt, "prompt_text": prompt_text, "levels": levels}
        options |= {"retries": retries, "speed": speed, "strict": strict, "takes": takes, "checker": checker}
        return self.speak_batch([text], seeds=[seed], **options, **sampling)[0]

    def speak_batch(
        self, texts: Sequence[str], *, seeds: Sequence[int] | None = None, batch_size: int = 8, **options: Any
    ) -> list[Speech]:
        """Speak many texts, ``batch_size`` sentences side by side: much faster than one by one, and the same sound.

        (The same codes, up to samples within rounding of a border.) ``seeds``: one for each text, 0 by default. The
        other options and the errors are those of `speak`.
        """
        if batch_size < 1:
            raise SoundloomError(f"batch_size is {batch_size}; expected at least 1")
        if isinstance(texts, str):
            raise SoundloomError("texts is a single str; expected a list of texts")
        seeds = [0] * len(texts) if seeds is None else seeds
        if len(seeds) != len(texts):
            raise SoundloomError(f"{len(seeds)} seeds for {len(texts)} texts; give one for each text")
        asked = SpeakOptions.of(options)
        style = self.plan.style(asked)
        prompt = self.plan.prompt(asked, style)
        cutter = self.plan.cutter
        texts_in_work = [
            _Progress(cutter.cut(text, asked.strict), checked_seed(seed), prompt)
            for text, seed in zip(texts, seeds, strict=True)
        ]
        for one in texts_in_work:
            one.parts.append(self.silence(one.script.lead))
        self._speak_all(texts_in_work, style, batch_size)
        return [one.speech(self.sample_rate, style.levels) for one in texts_in_work]

    def _speak_all(self, texts: Sequence[_Progress], style: Style, batch_size: int) -> None:
        """Speak the first sentences of all texts, then the second ones, and so on."""
        # A text's next sentence may need the one before; of different texts, those of about one length go together.
        for index in range(max((len(one.script.pieces) for one in texts), default=0)):
            row = [one for one in texts if index < len(one.script.pieces)]
            row.sort(key=lambda one: len(one.script.pieces[index].text))
            for begin in range(0, len(row), batch_size):
                group = row[begin : begin + batch_size]
                requests = [
                    self.plan.request(one.script.pieces[index], one.prompt, sentence_seed(one.seed, index), style)
                    for one in group
                ]
                for one, take in zip(group, synthesize(self.lm, requests), strict=True):
                    piece = one.script.pieces[index]
                    one.sentences.append(replace(take.sentence, start=sum(part.shape[-1] for part in one.parts)))
                    one.parts += [take.wave, self.silence(piece.pause)]
                    one.prompt = self.carry(one.prompt, take.sentence, piece)

    def stream(self, text: str, *, seed: int = 0, **options: Any) -> SpeechStream:
        """Speak a text while it is written: an iterator of float32 chunks [C, n], then `SpeechStream.speech` is set.

        Played sound cannot be taken back, so nothing is tried again: a sentence that loops or does not end is cut, and
        the finish reason says so. Where `speak` needs one attempt, the joined chunks are its waveform (to about 1e-6).
        A pair of coarse and fine model gives a sentence at a time. Options and errors: see `speak`.
        """
        asked = replace(SpeakOptions.of(options), retries=0)
        if asked.takes != 1 or asked.checker is not None:
            raise SoundloomError("several takes or a checker need whole sentences: use speak")
        style = self.plan.style(asked)
        prompt = self.plan.prompt(asked, style)
        script = self.plan.cutter.cut(text, asked.strict)
        parts = self._stream(script, prompt, checked_seed(seed), style)
        return SpeechStream(self.sample_rate, parts, script.skipped)

    def _stream(
        self, script: Script, prompt: VoicePrompt | None, seed: int, style: Style
    ) -> Iterator[Tensor | Sentence]:
        """Return chunks [C, n], and each sentence when it is done."""
        pause, at = self.silence(script.lead), 0
        for index, piece in enumerate(script.pieces):
            if pause.shape[-1]:
                yield pause
            at += pause.shape[-1]
            request = self.plan.request(piece, prompt, sentence_seed(seed, index), style)
            chunks = SentenceStream(self.lm, request)
            yield from chunks
            sentence = chunks.sentence
            assert sentence is not None
            prompt = self.carry(prompt, sentence, piece)
            yield replace(sentence, codes=sentence.codes[: style.levels], start=at)
            at += sentence.num_samples
            pause = self.silence(piece.pause)
        if pause.shape[-1]:
            yield pause

    # --- continuing a recording ---------------------------------------------------------------------------------------

    def continue_audio(
        self,
        prompt: Prompt,
        seconds: float,
        *,
        text: str | None = None,
        prompt_text: str | None = None,
        seed: int = 0,
        only_new: bool = False,
        levels: int | None = None,
        retries: int | None = None,
        **sampling: Any,
    ) -> Speech:
        """Continue a recording; return it with its continuation or, with ``only_new``, the latter alone.

        Without text exactly ``seconds`` are added, at temperature 1 by default. With ``text``, at most ``seconds``: it
        may end when that is spoken; ``prompt_text``, what the recording says, shows the model where it stands.
        Raises: SoundloomError.
        """
        if not (math.isfinite(seconds) and 0 < seconds <= MAX_SECONDS):
            raise SoundloomError(f"seconds is {seconds}; wanted more than 0 and at most {MAX_SECONDS:g}")
        if prompt_text is not None and text is None:
            raise SoundloomError("prompt_text without text: give the text that shall follow it")
        if text is None:
            sampling = {"temperature": FREE_TEMPERATURE} | sampling
        style = self.plan.style(SpeakOptions(levels=levels, retries=retries, sampling=sampling))
        before = self.text_ids(prompt_text) if prompt_text is not None and prompt_text.strip() else []
        reader = self.plan.reader
        wave = reader.wave(prompt)
        length = math.ceil(CONTEXT_SECONDS * self.frame_rate) * self.codec.hop_length
        context = wave if prompt_text is not None else wave[:, -length:]
        reader.check_length(context)
        start = reader.of_wave(context, tuple(before), style)
        frames = start.codes.shape[1] + math.ceil(seconds * self.frame_rate)
        least = frames if text is None else style.sampling.min_frames
        style = replace(style, sampling=replace(style.sampling, max_frames=frames, min_frames=least))
        ids = () if text is None else tuple(self.text_ids(text))
        request = SentenceRequest(text or "", ids, checked_seed(seed), style, start)
        (take,) = synthesize(self.lm, [request])
        sentence = replace(take.sentence, codes=take.sentence.codes[: style.levels].clone())
        if only_new:
            return Speech.of(take.wave, self.sample_rate, [sentence])
        whole, begin = joined(request, wave, sentence)
        sentence = replace(sentence, start=begin, num_samples=whole.shape[-1] - begin)
        return Speech.of(whole, self.sample_rate, [sentence])

    # --- checks and figures -------------------------------------------------------------------------------------------

    def check_speaker(self, name: str) -> None:
        """Raises: SoundloomError where the voice has no such speaker, with those that it has."""
        self.plan.check_speaker(name)

    def check_text(self, text: str, strict: bool = False) -> None:
        """Raises: SoundloomError where the text cannot be spoken, and why; with ``strict`` also where a part cannot."""
        self.plan.cutter.cut(text, strict)

    def text_ids(self, text: str) -> list[int]:
        """Return the model's tokens for a text. Raises: SoundloomError where nothing in it can be spoken."""
        return self.plan.text_ids(text)

    def expected_seconds(self, text: str) -> float:
        """Return how long such a text takes on average. Raises: SoundloomError where nothing in it can be spoken."""
        return self.plan.seconds(len(self.text_ids(text)))

    def save(self, folder: str | os.PathLike[str], dtype: str = "float32", replace_voice: bool = False) -> Path:
        """Write the voice as a folder that `load_voice` opens; ``dtype`` is that of the language model on disk."""
        parts = VoiceParts(self.config, self.codec, self.lm, self._card, self.decoder, self.speakers)
        return write_voice(folder, parts, dtype, replace_voice)

    # --- inside a text ------------------------------------------------------------------------------------------------

    def carry(self, prompt: VoicePrompt | None, sentence: Sentence, piece: Piece) -> VoicePrompt | None:
        """Return the prompt of the next sentence: where the voice wants it, the first that ended well."""
        if prompt is None and self.config.carry and sentence.finish_reason == "end":
            return VoicePrompt(sentence.codes, piece.ids)
        return prompt

    def silence(self, seconds: float) -> Tensor:
        """Return so much silence, [C, n]."""
        return torch.zeros(self.codec.channels, round(seconds * self.sample_rate), device=self.device)
