"""Sentences from text ids to sound, whole with a guard, or chunk by chunk while they are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from codec.common.seeds import retry_seed
from codec.errors import SoundloomError
from codec.model import Codec
from lm.checkpoint import LoadedLM
from lm.generation.generate import Frame, Generation, generate
from lm.generation.latents import LatentFit
from lm.generation.request import GenerateConfig
from pipelines.voice.speech import FINISH_REASONS, Edges, Piece, Sentence, Speech, verdict

WARM_UP_SECONDS = 1.0  # of a prompt, the codec's decoder is led through this much before the new sound
FIRST_CHUNK, LARGEST_CHUNK = 0.04, 0.16  # seconds of sound that a stream decodes at once; doubled from one to the next
_CROSSFADE = 0.02  # seconds in which a recording becomes its continuation


@dataclass(frozen=True)
class Speaker:
    """What a recording tells of who speaks there, for means of levels: the model's own lie near those of all speakers.

    codes [K, P]: the recording's, of all the codec's levels. fit: moves latents to the speaker. player: the codec that
    they sound through, with the recording's long-term spectrum. None where a recording or a codec does not tell.
    """

    codes: Tensor
    fit: LatentFit | None = None
    player: Codec | None = None


@dataclass
class Job:
    """One piece to speak: text_ids [L], prompt codes [K, P] or None, and what its sound is made with.

    Of the text the first ``prompt_units`` are the prompt's. ``vectors`` [levels, V, D]: the codec's codebooks where
    latents are decoded (`GenerateConfig.drawn_levels`), else None. ``speaker``: what a recorded prompt tells of who
    speaks there.
    """

    piece: Piece
    text_ids: Tensor
    prompt: Tensor | None
    prompt_units: int
    seed: int
    config: GenerateConfig
    levels: int
    expected_seconds: float
    vectors: Tensor | None = None
    speaker: Speaker | None = None

    def fitted(self, latents: Tensor) -> Tensor:
        """Latents [D, T] of the model as they are heard."""
        fit = None if self.speaker is None else self.speaker.fit
        return latents if fit is None else fit(latents)


def say(
    lm: LoadedLM, codec: Any, jobs: Sequence[Job], retries: int, exact: bool = False
) -> list[tuple[Sentence, Tensor]]:
    """Speak jobs of one config side by side; each until a try ends well, else its least bad one.

    Neighbours do not change a job's result, up to rounding. ``exact``: running to the cap is what was wanted. Returns
    for each job the sentence, with the codes of all levels, and its waveform [C, N].
    """
    best: list[tuple[Sentence, Tensor] | None] = [None] * len(jobs)
    waiting = list(range(len(jobs)))
    for attempt in range(retries + 1):
        seeds = [jobs[i].seed if attempt == 0 else retry_seed(jobs[i].seed, attempt) for i in waiting]
        written = _write(lm, [jobs[i] for i in waiting], seeds)
        again = []
        for row, (i, seed) in enumerate(zip(waiting, seeds, strict=True)):
            job = jobs[i]
            first, end = 0 if job.prompt is None else job.prompt.shape[1], int(written.lengths[row])
            codes = written.codes[row, :, first:end].clone()
            latents = None if written.latents is None else job.fitted(written.latents[row, :, first:end].clone())
            edges = Edges(codec.sample_rate)
            wave = torch.cat([edges.push(decode(codec, job, codes, latents)), edges.finish()], dim=-1)
            reason = written.finish_reasons[row]
            if not exact:
                reason = verdict(reason, wave, codec.sample_rate, job.expected_seconds)
            elif reason == "cap":
                reason = "end"
            before = best[i]
            if before is None or FINISH_REASONS.index(reason) < FINISH_REASONS.index(before[0].finish_reason):
                before = Sentence(job.piece.text, codes, seed, reason, attempt + 1, 0, wave.shape[-1], latents), wave
            best[i] = replace(before[0], attempts=attempt + 1), before[1]
            if reason != "end":
                again.append(i)
        waiting = again
        if not waiting:
            break
    return [one for one in best if one is not None]


def _write(lm: LoadedLM, jobs: Sequence[Job], seeds: Sequence[int]) -> Generation:
    """Generate for the jobs as one batch, texts and prompts padded to the longest."""
    prompts = [torch.zeros(lm.codec_facts.num_levels, 0) if job.prompt is None else job.prompt for job in jobs]
    text_lengths = torch.tensor([len(job.text_ids) for job in jobs])
    prompt_lengths = torch.tensor([prompt.shape[1] for prompt in prompts])
    text_ids = torch.zeros(len(jobs), int(text_lengths.max()), dtype=torch.long)
    prompt_codes = torch.zeros(len(jobs), prompts[0].shape[0], int(prompt_lengths.max()), dtype=torch.long)
    for row, (job, prompt) in enumerate(zip(jobs, prompts, strict=True)):
        text_ids[row, : len(job.text_ids)] = job.text_ids
        prompt_codes[row, :, : prompt.shape[1]] = prompt
    said = torch.tensor([job.prompt_units for job in jobs])
    config, vectors = jobs[0].config, jobs[0].vectors
    return generate(lm.model, text_ids, text_lengths, prompt_codes, prompt_lengths, seeds, config, said, vectors)


def warm_up(codec: Any, job: Job) -> Tensor:
    """The end of the prompt as frames, which the decoder hears before the new ones.

    Frames are codes long [levels, T] or, where the job has vectors, latents float [D, T].
    """
    prompt = torch.zeros(job.levels, 0, dtype=torch.long) if job.prompt is None else job.prompt[: job.levels]
    if job.vectors is not None and job.speaker is not None:
        prompt = job.speaker.codes
    codes = prompt[:, max(0, prompt.shape[1] - round(WARM_UP_SECONDS * codec.frame_rate)) :]
    return codes if job.vectors is None else codec.quantizer.decode(codes[None])[0]


def _decoded(codec: Any, job: Job, codes: Tensor, latents: Tensor | None) -> tuple[Tensor, int]:
    """Wave [C, n] of the prompt's end and the new frames, and where the new begin; see `decode`."""
    before = warm_up(codec, job)
    new = codes[: job.levels] if latents is None else latents
    frames = torch.cat([before, new], dim=1)[None]
    wave = codec.decode(frames) if latents is None else codec.decode_latent(frames)
    return wave[0], before.shape[1] * codec.hop_length


def decode(codec: Any, job: Job, codes: Tensor, latents: Tensor | None) -> Tensor:
    """New codes [K, T], or their latents [D, T] where there are, -> wave [C, T * hop_length]."""
    wave, begin = _decoded(codec, job, codes, latents)
    return wave[:, begin:].clone()


def joined(codec: Any, job: Job, wave: Tensor, sentence: Sentence) -> tuple[Tensor, int]:
    """The prompt's recording [C, N] and its continuation, and where that begins.

    Within the recording's last 20 ms the one becomes the other, so that there is no step.
    """
    decoded, seam = _decoded(codec, job, sentence.codes, sentence.latents)
    edges = Edges(codec.sample_rate, rise=False)
    decoded = torch.cat([edges.push(decoded), edges.finish()], dim=-1)
    n = min(round(_CROSSFADE * codec.sample_rate), seam)
    weight = torch.linspace(0, 1, n)
    mixed = wave[:, wave.shape[1] - n :] * (1 - weight) + decoded[:, seam - n : seam] * weight
    return torch.cat([wave[:, : wave.shape[1] - n], mixed, decoded[:, seam:]], dim=-1), wave.shape[1]


class SpeechStream(Iterator[Tensor]):
    """Chunks of sound, float32 [C, n], as they come; ``speech`` holds the whole after the last, else None."""

    def __init__(self, sample_rate: int, parts: Iterator[Tensor | Sentence]) -> None:
        self.sample_rate = sample_rate
        self.speech: Speech | None = None
        self._parts = parts
        self._chunks: list[Tensor] = []
        self._sentences: list[Sentence] = []

    def __next__(self) -> Tensor:
        for part in self._parts:
            if isinstance(part, Tensor):
                self._chunks.append(part)
                return part
            self._sentences.append(part)
        if self.speech is None:
            self.speech = Speech.of(torch.cat(self._chunks, dim=-1), self.sample_rate, self._sentences)
        raise StopIteration


class ChunkDecoder:
    """Frames as they come -> chunks of sound with a sentence's edges; no empty ones."""

    def __init__(self, codec: Any, job: Job) -> None:
        self.codec, self.job = codec, job
        self.frames: list[Frame] = []
        self.edges = Edges(codec.sample_rate)
        before = warm_up(codec, job)
        self.skip = before.shape[1] * codec.hop_length
        try:
            self.state = codec.init_state(1)
        except (AttributeError, SoundloomError):
            self.state = None  # a codec that decodes only the whole: the sentence comes in one chunk
        self.nothing = before[:, :0]
        self.waiting: list[Tensor] = list(before.unbind(1)) if self.state is not None else []
        rate = codec.frame_rate
        self.size, self.largest = (max(1, round(seconds * rate)) for seconds in (FIRST_CHUNK, LARGEST_CHUNK))
        self.fresh = 0

    def codes(self) -> Tensor:
        """The codes of all frames so far, [K, T]."""
        return torch.stack([frame.codes for frame in self.frames], dim=1)

    def latents(self) -> Tensor | None:
        """Their latents [D, T], where there are."""
        found = [frame.latent for frame in self.frames if frame.latent is not None]
        return torch.stack(found, dim=1) if found else None

    def run(self, frames: Iterator[Frame]) -> Iterator[Tensor]:
        """Decode all frames of a sentence: chunks of sound [C, n]."""
        for frame in frames:
            wave = self.push(frame)
            if wave is not None:
                yield wave
        wave = self.finish()
        if wave.shape[-1]:
            yield wave

    def push(self, frame: Frame) -> Tensor | None:
        """Take the next frame; return a chunk of sound [C, n] once enough frames wait, else None."""
        # The frame is a view of the grid, and the grid is still being written.
        latent = None if frame.latent is None else self.job.fitted(frame.latent[:, None].clone())[:, 0]
        self.frames.append(Frame(frame.codes.clone(), latent))
        self.waiting.append(frame.codes[: self.job.levels] if latent is None else latent)
        self.fresh += 1
        if self.state is None or self.fresh < self.size:
            return None
        self.size, self.fresh = min(2 * self.size, self.largest), 0
        wave = self.edges.push(self._decode(last=False))
        return wave if wave.shape[-1] else None

    def finish(self) -> Tensor:
        """Return the rest of the sentence's sound [C, n] after the last frame."""
        if self.state is None:
            wave = decode(self.codec, self.job, self.codes(), self.latents())
        else:
            wave = self._decode(last=True)
        return torch.cat([self.edges.push(wave), self.edges.finish()], dim=-1)

    def _decode(self, last: bool) -> Tensor:
        frames = torch.stack(self.waiting, dim=1) if self.waiting else self.nothing
        self.waiting = []
        play = self.codec.decode_chunk if self.job.vectors is None else self.codec.decode_latent_chunk
        wave = play(frames[None], self.state, last=last)[0]
        skipped = min(self.skip, wave.shape[-1])
        self.skip -= skipped
        return wave[:, skipped:].clone()
