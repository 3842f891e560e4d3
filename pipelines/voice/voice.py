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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.audio.files import read_audio
from codec.common.files import CARD_BYTES, read_bytes
from codec.common.seeds import checked_seed, sentence_seed
from codec.equalize import spectrum_gains
from codec.errors import SoundloomError
from codec.model import Codec
from lm.checkpoint import LoadedLM
from lm.config import from_dict
from lm.data.dataset import Example, collate
from lm.generation.generate import evaluating
from lm.generation.generate import stream as stream_codes
from lm.generation.latents import SKIPPED, fit_latents, known_latents
from lm.generation.request import GenerateConfig
from lm.step_lm import DelayLM
from pipelines.voice.folder import (
    CARD_FILE,
    DECODER_FILE,
    SPEAKERS_FOLDER,
    SpeakerPrompt,
    VoiceConfig,
    find_voice,
    read_decoder,
    read_speaker_prompts,
    read_voice,
    write_voice,
)
from pipelines.voice.speech import Piece, Sentence, Speech, cut_text, verdict
from pipelines.voice.synthesis import ChunkDecoder, Job, Speaker, SpeechStream, joined, say

MAX_PROMPT_SECONDS = 20.0
FREE_TEMPERATURE = 1.0  # where no text says what comes: a low one stays in the silence in which a recording ends
CONTEXT_SECONDS = 10.0  # of a recording that is continued without text, the model hears this much

Prompt = Tensor | str | os.PathLike[str]


def load_voice(name_or_folder: str | os.PathLike[str] | None = None) -> Voice:
    """Open a voice: the shipped one (None, or by its name), a folder, or a name on the Hugging Face hub.

    Only a hub name uses the network. Raises: SoundloomError that says what was looked for and what would be right.
    """
    folder = find_voice(name_or_folder)
    config, codec, lm = read_voice(folder)
    card = folder / CARD_FILE
    text = read_bytes(card, CARD_BYTES).decode("utf-8", "replace") if card.is_file() else ""
    own = folder / DECODER_FILE
    decoder = read_decoder(own) if own.is_file() else None
    return Voice(config, codec, lm, text, decoder, read_speaker_prompts(folder / SPEAKERS_FOLDER))


@dataclass(frozen=True)
class _Start:
    """What a sentence goes on from: codes [K, P] and their text; of a recording also what it tells of its speaker."""

    codes: Tensor
    text: str
    speaker: Speaker | None = None


@dataclass
class _Spoken:
    """How far a text has come: its pieces, the prompt of the next, and what was said so far."""

    pieces: list[Piece]
    seed: int
    start: _Start | None
    parts: list[Tensor] = field(default_factory=list)
    sentences: list[Sentence] = field(default_factory=list)

    def speech(self, sample_rate: int, levels: int) -> Speech:
        sentences = [replace(sentence, codes=sentence.codes[:levels].clone()) for sentence in self.sentences]
        return Speech.of(torch.cat(self.parts, dim=-1), sample_rate, sentences)


class Voice:
    """A codec and a language model that fit, with default settings; `load_voice` opens one.

    ``decoder``: tensors of the codec's decoder that the voice has of its own. `player`, the codec with them, is what
    latents sound through (`GenerateConfig.drawn_levels`); codes sound through the codec itself. ``speakers``: whom
    else it can sound like, by name.
    """

    def __init__(
        self,
        config: VoiceConfig,
        codec: Any,
        lm: LoadedLM,
        card: str = "",
        decoder: Mapping[str, Tensor] | None = None,
        speakers: Mapping[str, SpeakerPrompt] | None = None,
    ) -> None:
        lm.require_codec(codec)
        if decoder and not isinstance(codec, Codec):
            raise SoundloomError(f"voice {config.name}: layers of a decoder of its own need a codec of soundloom")
        self.config = config
        self.codec = codec
        self.lm = lm
        self.card = card
        self.decoder = decoder
        self.speakers = dict(speakers or {})
        self.player = codec.with_decoder(decoder) if decoder else codec
        self.name = config.name
        self.sample_rate: int = codec.sample_rate
        self.num_levels: int = lm.codec_facts.num_levels
        self.frame_rate: float = lm.codec_facts.frame_rate
        if (config.levels or 1) > self.num_levels:
            raise SoundloomError(
                f"voice {self.name}: decodes {config.levels} levels, its model writes {self.num_levels}"
            )

    def speak(
        self,
        text: str,
        *,
        seed: int = 0,
        levels: int | None = None,
        speaker: str | None = None,
        prompt: Prompt | None = None,
        prompt_text: str | None = None,
        retries: int | None = None,
        **overrides: Any,
    ) -> Speech:
        """Say a text, sentence by sentence; the same seed and settings give the same sound.

        ``levels``: decode the first n levels (default: the voice's own). ``speaker``: one of `speakers` to sound like.
        ``prompt``: a recording (a file, or a waveform [N] or [C, N] at the voice's sample rate) of any other speaker,
        with ``prompt_text``, what it says.
        ``overrides``: fields of `lm.generation.request.GenerateConfig`. A sentence that did not end well
        is tried again at most ``retries`` times with other seeds; `Speech.finish_reason` and `Speech.attempts` tell
        what came of it.
        Raises: SoundloomError.
        """
        same: dict[str, Any] = {"levels": levels, "speaker": speaker, "prompt": prompt, "prompt_text": prompt_text}
        return self.speak_batch([text], seeds=[seed], retries=retries, **same, **overrides)[0]

    def speak_batch(
        self,
        texts: Sequence[str],
        *,
        seeds: Sequence[int] | None = None,
        batch_size: int = 8,
        levels: int | None = None,
        speaker: str | None = None,
        prompt: Prompt | None = None,
        prompt_text: str | None = None,
        retries: int | None = None,
        **overrides: Any,
    ) -> list[Speech]:
        """Say many texts, ``batch_size`` sentences side by side: much faster than one by one, and the same sound.

        (The same codes, up to draws that fall within rounding of a border.) ``seeds``: one a text; 0 for each by
        default. The other arguments and the errors are those of `speak`.
        """
        config, levels, retries = self._settings(levels, retries, overrides)
        if batch_size < 1:
            raise SoundloomError(f"batch_size is {batch_size}; wanted 1 or more")
        seeds = [0] * len(texts) if seeds is None else seeds
        first = self._start(speaker, prompt, prompt_text, config, levels)
        spoken = [_Spoken(self._pieces(text), seed, first) for text, seed in zip(texts, seeds, strict=True)]
        # A text's next sentence may need the one before; of different texts, those of about one length go together.
        for index in range(max((len(one.pieces) for one in spoken), default=0)):
            row = [one for one in spoken if index < len(one.pieces)]
            row.sort(key=lambda one: len(one.pieces[index].text))
            for begin in range(0, len(row), batch_size):
                group = row[begin : begin + batch_size]
                jobs = [
                    self._job(one.pieces[index], one.start, sentence_seed(one.seed, index), config, levels)
                    for one in group
                ]
                for one, (sentence, wave) in zip(
                    group, say(self.lm, self._player(jobs[0]), jobs, retries), strict=True
                ):
                    one.sentences.append(replace(sentence, start=sum(part.shape[-1] for part in one.parts)))
                    one.parts += [wave, self._pause(one.pieces[index], index == len(one.pieces) - 1)]
                    one.start = self._carry(one.start, sentence, one.pieces[index])
        return [one.speech(self.sample_rate, levels) for one in spoken]

    def check_speaker(self, name: str) -> None:
        """Raises: SoundloomError where the voice has no such speaker, with those that it has."""
        if name not in self.speakers:
            known = ", ".join(self.speakers) or "none"
            raise SoundloomError(f"no speaker {name!r}; beside its own the voice {self.name} has: {known}")

    def check_text(self, text: str) -> None:
        """Raises: SoundloomError where the text cannot be spoken, and why."""
        self._pieces(text)

    def stream(
        self,
        text: str,
        *,
        seed: int = 0,
        levels: int | None = None,
        speaker: str | None = None,
        prompt: Prompt | None = None,
        prompt_text: str | None = None,
        **overrides: Any,
    ) -> SpeechStream:
        """Say a text as it is written: an iterator of float32 chunks [C, n]; `SpeechStream.speech` is set at the end.

        What was heard cannot be taken back, so nothing is tried again: a sentence that loops or does not end is cut,
        and the finish reason says so. Where `speak` needed one attempt, the chunks joined are its waveform (to about
        1e-6). The pair of coarse and fine model gives a sentence at a time. Arguments and errors: see `speak`.
        """
        config, levels, _ = self._settings(levels, 0, overrides)
        start = self._start(speaker, prompt, prompt_text, config, levels)
        pieces = self._pieces(text)
        sentence_seed(seed, 0)  # so that a bad seed is told now, not at the first chunk
        return SpeechStream(self.sample_rate, self._stream(pieces, start, seed, config, levels))

    def continue_audio(
        self,
        prompt: Prompt,
        seconds: float,
        *,
        text: str | None = None,
        prompt_text: str | None = None,
        seed: int = 0,
        levels: int | None = None,
        only_new: bool = False,
        retries: int | None = None,
        **overrides: Any,
    ) -> Speech:
        """Go on where a recording ends: the recording and its continuation, or with ``only_new`` the latter.

        Without text exactly ``seconds`` are added, at temperature 1 unless told otherwise. With ``text``, at most
        ``seconds``: it may end when that is spoken; ``prompt_text``, what the recording says, lets the model know where
        it stands. Raises: SoundloomError.
        """
        if text is None:
            overrides = {"temperature": FREE_TEMPERATURE} | overrides
        config, levels, retries = self._settings(levels, retries, overrides)
        if not (math.isfinite(seconds) and 0 < seconds <= 600):
            raise SoundloomError(f"seconds is {seconds}; wanted more than 0 and at most 600")
        if prompt_text is not None and text is None:
            raise SoundloomError("prompt_text without text: give the text that shall follow it")
        wave = self._prompt_wave(prompt)
        said = self.text_ids(prompt_text) if prompt_text is not None and prompt_text.strip() else []
        ids = said + ([] if text is None else self.text_ids(text))
        heard = math.ceil(CONTEXT_SECONDS * self.frame_rate) * self.codec.hop_length
        context = wave if prompt_text is not None else wave[:, -heard:]
        if context.shape[1] > MAX_PROMPT_SECONDS * self.sample_rate:
            raise SoundloomError(f"the prompt is longer than {MAX_PROMPT_SECONDS:g} s; cut it, and prompt_text with it")
        all_codes = self.codec.encode(context[None])[0].clone()
        codes = all_codes[: self.num_levels]
        frames = codes.shape[1] + math.ceil(seconds * self.frame_rate)
        config = replace(config, max_frames=frames, min_frames=frames if text is None else config.min_frames)
        piece = Piece(text or "", 0.0)
        text_ids = torch.tensor(ids, dtype=torch.long)
        parts = self._vectors(config, levels), self._speaker(context, all_codes, said, config, levels)
        job = Job(piece, text_ids, codes, len(said), checked_seed(seed), config, levels, 0.0, *parts)
        ((sentence, new),) = say(self.lm, self._player(job), [job], retries, exact=True)
        sentence = replace(sentence, codes=sentence.codes[:levels].clone())
        if not only_new:
            new, begin = joined(self._player(job), job, wave, sentence)
            sentence = replace(sentence, start=begin, num_samples=new.shape[-1] - begin)
        return Speech.of(new, self.sample_rate, [sentence])

    def save(self, folder: str | os.PathLike[str], dtype: str = "float32", replace_voice: bool = False) -> Path:
        """Write the voice as a folder that `load_voice` opens; ``dtype`` is that of the language model on disk."""
        parts = self.config, self.codec, self.lm, self.card, dtype, replace_voice, self.decoder, self.speakers
        return write_voice(folder, *parts)

    # --- what is asked for ----------------------------------------------------------------------------------------

    def _settings(
        self, levels: int | None, retries: int | None, overrides: dict[str, Any]
    ) -> tuple[GenerateConfig, int, int]:
        config = from_dict(GenerateConfig, asdict(self.config.generation) | overrides, "settings")
        levels = (self.config.levels or self.num_levels) if levels is None else levels
        if not 1 <= levels <= self.num_levels:
            raise SoundloomError(f"levels is {levels}; the voice {self.name} has levels 1 to {self.num_levels}")
        retries = self.config.retries if retries is None else retries
        if not 0 <= retries <= 20:
            raise SoundloomError(f"retries is {retries}; wanted 0 to 20")
        return config, levels, retries

    def text_ids(self, text: str) -> list[int]:
        """The tokens that the model gets for a text. Raises: SoundloomError where nothing in it can be spoken.

        A text that just stops gets a full stop: of 8 seeds one misread "hello world", none "hello world.".
        """
        text = text.rstrip()
        return self.lm.tokenizer.encode(f"{text}." if text[-1:].isalnum() else text)

    def expected_seconds(self, text: str) -> float:
        """How long such a text takes on average. Raises: SoundloomError where nothing in it can be spoken."""
        return self._seconds(len(self.text_ids(text)))

    def _seconds(self, units: int) -> float:
        return self.lm.model.config.expected_frames(units) / self.frame_rate

    def _pieces(self, text: str) -> list[Piece]:
        def speakable(part: str) -> bool:
            try:
                return bool(self.text_ids(part))
            except SoundloomError:
                return False

        def fits(part: str) -> bool:
            return not speakable(part) or self.expected_seconds(part) <= self.config.max_sentence_seconds

        pieces = cut_text(text, fits, speakable)
        for piece in pieces:
            if self.expected_seconds(piece.text) > 5 * self.config.max_sentence_seconds:
                raise SoundloomError(f"one word takes too long to speak: {piece.text[:40]!r}…; put spaces into it")
        return pieces

    def _start(
        self,
        speaker: str | None,
        prompt: Prompt | None,
        prompt_text: str | None,
        config: GenerateConfig,
        levels: int,
    ) -> _Start | None:
        """What the first sentence goes on from, or None without a speaker and a prompt."""
        if speaker is not None:
            if prompt is not None or prompt_text is not None:
                raise SoundloomError(f"speaker {speaker!r} and a prompt: give one of them")
            self.check_speaker(speaker)
            prompt, prompt_text = self.speakers[speaker].audio, self.speakers[speaker].text
        if prompt is None:
            if prompt_text is not None:
                raise SoundloomError("prompt_text without a prompt: give the recording that says it")
            return None
        if prompt_text is None or not prompt_text.strip():
            raise SoundloomError("a prompt needs its text: give prompt_text, the words that the recording says")
        said = self.text_ids(prompt_text)  # nothing in it to speak: an error
        wave = self._prompt_wave(prompt)
        if wave.shape[1] > MAX_PROMPT_SECONDS * self.sample_rate:
            raise SoundloomError(
                f"the prompt is {wave.shape[1] / self.sample_rate:.1f} s long; wanted at most {MAX_PROMPT_SECONDS:g} s"
            )
        codes = self.codec.encode(wave[None])[0].clone()
        told = self._speaker(wave, codes, said, config, levels)
        return _Start(codes[: self.num_levels], prompt_text.strip(), told)

    def _speaker(
        self, wave: Tensor, codes: Tensor, said: list[int], config: GenerateConfig, levels: int
    ) -> Speaker | None:
        """What a recording [C, N] with its codes of all levels [K, P] and its text tells of its speaker."""
        vectors = self._vectors(config, levels)
        if vectors is None:
            return None
        batch = collate([Example("prompt", said, codes[: self.num_levels])], self.lm.tokenizer.pad_id)
        with evaluating(self.lm.model):
            known = known_latents(self.lm.model, batch, vectors, config.drawn_levels)[0]
        true = self.codec.quantizer.decode(codes[None])[0]
        fit = fit_latents(known, true)
        if fit is None or self.codec.config.network != "spectral":
            return Speaker(codes, fit)
        begin = SKIPPED * self.codec.hop_length
        made = self.player.decode_latent(fit(known)[None])[0]
        gains = spectrum_gains(
            made[0, begin:], wave[0, begin:], self.sample_rate, self.codec.config.spectral.decoder_window
        )
        return Speaker(codes, fit, self.player.equalized(gains))

    def _prompt_wave(self, prompt: Prompt) -> Tensor:
        """A recording [C, N] at the codec's rate, cut to whole frames."""
        channels = self.codec.channels
        if isinstance(prompt, Tensor):
            wave = prompt.detach().float().cpu()
            wave = wave[None] if wave.dim() == 1 else wave
            if wave.dim() != 2 or not bool(torch.isfinite(wave).all()):
                raise SoundloomError(f"the prompt has shape {list(prompt.shape)}; wanted finite samples [N] or [C, N]")
            wave = wave if wave.shape[0] == channels else wave.mean(0, keepdim=True).expand(channels, -1)
        else:
            wave = read_audio(prompt, self.sample_rate, channels)
        wave = wave[:, : wave.shape[1] // self.codec.hop_length * self.codec.hop_length]
        if wave.shape[1] < 0.1 * self.sample_rate:
            raise SoundloomError("the prompt is shorter than 0.1 s; three seconds are good")
        return wave

    def _job(self, piece: Piece, start: _Start | None, seed: int, config: GenerateConfig, levels: int) -> Job:
        said = [] if start is None else self.text_ids(start.text)
        ids = torch.tensor(said + self.text_ids(piece.text), dtype=torch.long)
        expected = self.expected_seconds(piece.text)
        job = Job(piece, ids, None, len(said), seed, config, levels, expected, self._vectors(config, levels))
        return job if start is None else replace(job, prompt=start.codes, speaker=start.speaker)

    def _vectors(self, config: GenerateConfig, levels: int) -> Tensor | None:
        """The codebooks of the levels, where not all of them sound as they were drawn."""
        if config.drawn_levels is None or config.drawn_levels >= levels:
            return None
        if not isinstance(self.codec, Codec) or not isinstance(self.lm.model, DelayLM):
            raise SoundloomError(
                f"drawn_levels is {config.drawn_levels}, but means of levels need a codec of soundloom and a delay "
                f"model; the voice {self.name} has a {type(self.codec).__name__} and a {type(self.lm.model).__name__}"
            )
        return self.codec.quantizer.vectors(levels)

    def _player(self, job: Job) -> Any:
        if job.vectors is None:
            return self.codec
        own = None if job.speaker is None else job.speaker.player
        return self.player if own is None else own

    def _carry(self, start: _Start | None, sentence: Sentence, piece: Piece) -> _Start | None:
        """The prompt of the next sentence: where the voice wants it, the first that ended well."""
        if start is None and self.config.carry and sentence.finish_reason == "end":
            return _Start(sentence.codes, piece.text)
        return start

    def _pause(self, piece: Piece, last: bool) -> Tensor:
        seconds = 0.0 if last else self.config.pause_seconds * piece.pause
        return torch.zeros(self.codec.channels, round(seconds * self.sample_rate))

    def _stream(
        self, pieces: list[Piece], start: _Start | None, seed: int, config: GenerateConfig, levels: int
    ) -> Iterator[Tensor | Sentence]:
        """Chunks [C, n], and each sentence when it is done."""
        at = 0
        for index, piece in enumerate(pieces):
            job = self._job(piece, start, sentence_seed(seed, index), config, levels)
            written = stream_codes(
                self.lm.model, job.text_ids, job.prompt, job.seed, config, job.prompt_units, job.vectors
            )
            decoder = ChunkDecoder(self._player(job), job)
            heard: list[Tensor] = []
            for wave in decoder.run(written):
                heard.append(wave)
                yield wave
            wave = torch.cat(heard, dim=-1)
            reason = verdict(written.finish_reason or "end", wave, self.sample_rate, job.expected_seconds)
            made = decoder.codes(), decoder.latents()
            sentence = Sentence(piece.text, made[0], job.seed, reason, 1, at, wave.shape[-1], made[1])
            start = self._carry(start, sentence, piece)
            yield replace(sentence, codes=sentence.codes[:levels])
            pause = self._pause(piece, index == len(pieces) - 1)
            at += wave.shape[-1] + pause.shape[-1]
            if pause.shape[-1]:
                yield pause
