"""Sentence requests to sound: whole and side by side with a guard, or chunk by chunk while the codes are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from codec.common.seeds import retry_seed
from codec.errors import SoundloomError
from codec.model import Codec
from lm.checkpoint import LoadedLM
from lm.generation.generate import Frame, Generation, Stream, generate
from lm.generation.grid_writer import GenerativeLM
from lm.generation.request import Request, make_request
from pipelines.voice.edges import Edges
from pipelines.voice.guard import verdict
from pipelines.voice.reading import SHORT_UNITS, clarity, reads_well
from pipelines.voice.request import SentenceRequest, device_of
from pipelines.voice.speech import Sentence
from pipelines.voice.takes import Take, rounds
from pipelines.voice.timescale import Stretcher, stretch

WARM_UP_SECONDS = 1.0  # this much of a prompt's end is decoded before the new sound, and dropped
FIRST_CHUNK, LARGEST_CHUNK = 0.04, 0.16  # seconds of sound that a stream decodes at once; doubled from one to the next
_CROSSFADE = 0.02  # seconds in which a recording becomes its continuation


def synthesize(lm: LoadedLM, requests: Sequence[SentenceRequest]) -> list[Take]:
    """Speak requests of one style side by side; each until a try is good, else its least bad one.

    Neighbours do not change a request's result, up to rounding.
    """
    style = requests[0].style
    best: dict[int, Take] = {}
    waiting = list(range(len(requests)))
    for attempts in rounds(style.takes, style.retries, style.checker is not None):
        tried = [(i, attempt) for i in waiting for attempt in attempts]
        chosen = [_with_retry_seed(requests[i], attempt) for i, attempt in tried]
        written = generate(_writer(lm), lm_request(lm, chosen))
        for row, ((i, attempt), request) in enumerate(zip(tried, chosen, strict=True)):
            take = _take(lm, request, written, row, attempt + 1)
            best[i] = min(best.get(i, take), take, key=lambda one: one.rank)
        waiting = [i for i in waiting if not best[i].is_good]
        for i, _ in tried:
            best[i] = replace(best[i], sentence=replace(best[i].sentence, attempts=attempts.stop))
        if not waiting:
            break
    return list(map(best.__getitem__, range(len(requests))))


def _with_retry_seed(request: SentenceRequest, attempt: int) -> SentenceRequest:
    return request if attempt == 0 else replace(request, seed=retry_seed(request.seed, attempt))


def _take(lm: LoadedLM, request: SentenceRequest, written: Generation, row: int, attempt: int) -> Take:
    """Decode one row of what was written and let the guard check it."""
    first, end = request.prompt_frames, int(written.lengths[row])
    codes = written.codes[row, :, first:end].clone()
    latents = None if written.latents is None else request.fitted(written.latents[row, :, first:end].clone())
    raw = decode(request, codes, latents)
    rate = request.player.sample_rate
    wave = Edges(rate).whole(stretch(raw, rate, request.style.speed))
    reason = finish_reason(request, written.finish_reasons[row], raw, wave)
    sentence = Sentence(request.text, codes, request.seed, reason, attempt, 0, wave.shape[-1], latents)
    return _checked(lm, request, Take(sentence, wave), raw)


def _checked(lm: LoadedLM, request: SentenceRequest, take: Take, raw: Tensor) -> Take:
    """Return the take with what the guard, and a checker where there is one, find in its words."""
    style, sentence = request.style, take.sentence
    if not request.text_ids or request.expected_seconds is None:
        return take
    looks = len(request.text_ids) <= SHORT_UNITS if style.check_words is None else style.check_words
    looks = looks and sentence.finish_reason == "end"
    if looks and not reads_well(lm, request.text, request.text_ids, sentence.codes, raw):
        take = replace(take, sentence=replace(sentence, finish_reason="words"))
    if style.takes > 1 and style.checker is None:
        take = replace(take, clarity=clarity(lm, request.text_ids, sentence.codes, raw))
    if style.checker is not None:
        take = replace(take, wrong=style.checker(request.text, take.wave.mean(0), request.player.sample_rate))
    return take


def finish_reason(request: SentenceRequest, reason: str, raw: Tensor, wave: Tensor) -> str:
    """Return the guard's verdict on ``raw`` sound; ``wave`` is the same with its edges, at the speed that was asked."""
    if request.expected_seconds is None:  # exactly the asked length was wanted
        return "end" if reason == "cap" else reason
    heard = wave if request.style.speed == 1.0 else raw
    return verdict(reason, heard, request.player.sample_rate, request.expected_seconds)


def lm_request(lm: LoadedLM, requests: Sequence[SentenceRequest]) -> Request:
    """Return the language model's request for sentences of one style, texts and prompts padded to the longest."""
    device, style = device_of(lm), requests[0].style
    texts = [request.all_text_ids() for request in requests]
    text_lengths = torch.tensor([len(text) for text in texts])
    prompt_lengths = torch.tensor([request.prompt_frames for request in requests])
    text_ids = torch.zeros(len(texts), int(text_lengths.max()), dtype=torch.long)
    codes = torch.zeros(len(texts), lm.codec_facts.num_levels, int(prompt_lengths.max()), dtype=torch.long)
    for row, (request, text) in enumerate(zip(requests, texts, strict=True)):
        text_ids[row, : len(text)] = text
        if request.prompt is not None:
            codes[row, :, : request.prompt_frames] = request.prompt.codes
    return make_request(
        lm.model.config,
        text_ids.to(device),
        text_lengths,
        codes.to(device),
        prompt_lengths,
        [request.seed for request in requests],
        style.sampling,
        torch.tensor([request.prompt_units for request in requests]),
        style.vectors,
    )


def _writer(lm: LoadedLM) -> GenerativeLM:
    """Return the model of a voice, which writes whole grids: other ones were refused when its folder was opened."""
    return cast(GenerativeLM, lm.model)


def warm_up(request: SentenceRequest) -> Tensor:
    """Return the end of the prompt as frames, which the decoder takes before the new ones.

    Frames are codes long [levels, T] or, where the request has vectors, latents float [D, T].
    """
    style, player = request.style, request.player
    prompt = torch.zeros(style.levels, 0, dtype=torch.long)
    if request.prompt is not None:
        prompt = request.prompt.codes[: style.levels]
    if style.vectors is not None and request.speaker is not None:
        prompt = request.speaker.codes
    codes = prompt[:, max(0, prompt.shape[1] - round(WARM_UP_SECONDS * player.frame_rate)) :]
    if style.vectors is None:
        return codes
    assert isinstance(player, Codec)
    return player.quantizer.decode(codes.to(style.vectors.device)[None])[0]


def _decoded(request: SentenceRequest, codes: Tensor, latents: Tensor | None) -> tuple[Tensor, int]:
    """Return wave [C, n] of the prompt's end and the new frames, and where the new begin; see `decode`."""
    player, before = request.player, warm_up(request)
    new = codes[: request.style.levels] if latents is None else latents
    frames = torch.cat([before.to(new.device), new], dim=1)[None]
    if latents is None:
        wave = player.decode(frames)
    else:
        assert isinstance(player, Codec)
        wave = player.decode_latent(frames)
    return wave[0], before.shape[1] * player.hop_length


def decode(request: SentenceRequest, codes: Tensor, latents: Tensor | None) -> Tensor:
    """Decode new codes [K, T], or their latents [D, T] where there are, to a wave [C, T * hop_length]."""
    wave, begin = _decoded(request, codes, latents)
    return wave[:, begin:].clone()


def joined(request: SentenceRequest, wave: Tensor, sentence: Sentence) -> tuple[Tensor, int]:
    """Return the prompt's recording [C, N] with its continuation, and where that begins.

    The two are cross-faded in the recording's last 20 ms, so that there is no step.
    """
    decoded, seam = _decoded(request, sentence.codes, sentence.latents)
    rate = request.player.sample_rate
    decoded = Edges(rate, rise=False).whole(decoded)
    n = min(round(_CROSSFADE * rate), seam)
    weight = torch.linspace(0, 1, n, device=wave.device)
    mixed = wave[:, wave.shape[1] - n :] * (1 - weight) + decoded[:, seam - n : seam] * weight
    return torch.cat([wave[:, : wave.shape[1] - n], mixed, decoded[:, seam:]], dim=-1), wave.shape[1]


class SentenceStream(Iterator[Tensor]):
    """One request as chunks [C, n] while it is written, none of them empty; then ``sentence`` is set.

    Nothing is tried again: what was played cannot be taken back.
    """

    def __init__(self, lm: LoadedLM, request: SentenceRequest) -> None:
        self.sentence: Sentence | None = None
        self._chunks = self._run(Stream(_writer(lm), lm_request(lm, [request])), SentenceDecoder(request))

    def __next__(self) -> Tensor:
        return next(self._chunks)

    def _run(self, written: Stream, decoder: SentenceDecoder) -> Iterator[Tensor]:
        for frame in written:
            wave = decoder.push(frame)
            if wave is not None:
                yield wave
        wave = decoder.finish()
        if wave.shape[-1]:
            yield wave
        self.sentence = decoder.sentence(written.finish_reason or "end")


class SentenceDecoder:
    """Decodes a request's frames as they come, in chunks that grow from 40 to 160 ms, with the sentence's edges."""

    def __init__(self, request: SentenceRequest) -> None:
        self.request = request
        self.codec = cast(Any, request.player)  # some codecs stream, by methods that not all have
        self.frames: list[Frame] = []
        self.edges = Edges(self.codec.sample_rate)
        self.stretcher = Stretcher(self.codec.sample_rate, request.style.speed)
        self.raw: list[Tensor] = []
        self.made: list[Tensor] = []
        before = warm_up(request)
        self.skip = before.shape[1] * self.codec.hop_length
        try:
            self.state = self.codec.init_state(1)
        except (AttributeError, SoundloomError):
            self.state = None  # a codec that decodes only the whole: the sentence comes in one chunk
        self.nothing = before[:, :0]
        self.waiting: list[Tensor] = list(before.unbind(1)) if self.state is not None else []
        rate = self.codec.frame_rate
        self.size, self.largest = (max(1, round(seconds * rate)) for seconds in (FIRST_CHUNK, LARGEST_CHUNK))
        self.fresh = 0

    def push(self, frame: Frame) -> Tensor | None:
        """Take the next frame; return a chunk of sound [C, n] once enough frames wait, else None."""
        self.add(frame)
        if not self.due:
            return None
        wave = self.taken(self._decode(last=False))
        return wave if wave.shape[-1] else None

    def add(self, frame: Frame) -> None:
        """Take the next frame."""
        # The frame is a view of the grid, which is still being written.
        latent = None if frame.latent is None else self.request.fitted(frame.latent[:, None].clone())[:, 0]
        self.frames.append(Frame(frame.codes.clone(), latent))
        self.waiting.append(frame.codes[: self.request.style.levels] if latent is None else latent)
        self.fresh += 1

    @property
    def due(self) -> bool:
        """Whether enough frames wait for the next chunk."""
        return self.state is not None and self.fresh >= self.size

    @property
    def half_due(self) -> bool:
        """Whether half of the frames of the next chunk wait, so that it may join the decoding of others."""
        return self.state is not None and 2 * self.fresh >= self.size

    def taken(self, decoded: Tensor) -> Tensor:
        """Return the chunk [C, n] of the frames just decoded, with its speed and its edges."""
        self.size, self.fresh = min(2 * self.size, self.largest), 0
        return self._finished(self.stretcher.push(decoded))

    def finish(self) -> Tensor:
        """Return the rest of the sentence's sound [C, n] after the last frame."""
        if self.state is None:
            rest = decode(self.request, self.codes(), self.latents())
            self.raw.append(rest)
        else:
            rest = self._decode(last=True)
        rest = torch.cat([self.stretcher.push(rest), self.stretcher.finish()], dim=-1)
        return torch.cat([self._finished(rest), self._kept(self.edges.finish())], dim=-1)

    def sentence(self, reason: str) -> Sentence:
        """Return what was spoken; ``reason`` is the model's, which the guard may change."""
        wave = torch.cat(self.made, dim=-1)
        reason = finish_reason(self.request, reason, torch.cat(self.raw, dim=-1), wave)
        text, seed = self.request.text, self.request.seed
        return Sentence(text, self.codes(), seed, reason, 1, 0, wave.shape[-1], self.latents())

    def codes(self) -> Tensor:
        """Return the codes of all frames so far, [K, T]."""
        return torch.stack([frame.codes for frame in self.frames], dim=1)

    def latents(self) -> Tensor | None:
        """Return their latents [D, T], where there are."""
        found = [frame.latent for frame in self.frames if frame.latent is not None]
        return torch.stack(found, dim=1) if found else None

    def _finished(self, wave: Tensor) -> Tensor:
        return self._kept(self.edges.push(wave))

    def _kept(self, wave: Tensor) -> Tensor:
        self.made.append(wave)
        return wave

    def _decode(self, last: bool) -> Tensor:
        play = self.codec.decode_chunk if self.request.style.vectors is None else self.codec.decode_latent_chunk
        return self.kept_raw(play(self.next_frames()[None], self.state, last=last)[0])

    def next_frames(self) -> Tensor:
        """Return the frames to decode next, [levels or D, t]: those that wait, after the prompt's end at first."""
        device = self.frames[0].codes.device if self.frames else self.nothing.device
        frames = torch.stack([one.to(device) for one in self.waiting], dim=1) if self.waiting else self.nothing
        self.waiting = []
        return frames

    def kept_raw(self, wave: Tensor) -> Tensor:
        """Drop what belongs to the prompt from a decoded wave [C, n], and keep the rest for the guard."""
        skipped = min(self.skip, wave.shape[-1])
        self.skip -= skipped
        self.raw.append(wave[:, skipped:].clone())
        return self.raw[-1]


def decode_together(decoders: Sequence[SentenceDecoder]) -> list[Tensor]:
    """Return the next chunk [C, n] of each decoder: what it would get alone, within rounding, in less time.

    Those that share a codec are decoded at once: speakers may have decoders of their own.
    """
    waves: dict[int, Tensor] = {}
    groups: dict[int, list[SentenceDecoder]] = {}
    for decoder in decoders:
        groups.setdefault(id(decoder.codec), []).append(decoder)
    for group in groups.values():
        frames, states = [one.next_frames() for one in group], [one.state for one in group]
        codec = group[0].codec
        if isinstance(codec, Codec):
            decoded = codec.decode_chunks(frames, states)
        else:
            decoded = [codec.decode_chunk(one[None], state)[0] for one, state in zip(frames, states, strict=True)]
        waves |= {id(one): one.taken(one.kept_raw(wave)) for one, wave in zip(group, decoded, strict=True)}
    return [waves[id(decoder)] for decoder in decoders]
