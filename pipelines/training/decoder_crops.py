"""Pieces of a voice's latents with the sound that they stand for; each batch is a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.audio.files import read_audio
from codec.common.read_ahead import read_ahead
from codec.common.seeds import stable_seed
from codec.errors import SoundloomError
from lm.data.dataset import Example, GridDataset, collate
from lm.generation.latents import fit_latents, teacher_forced_latents
from pipelines.corpus.manifest import read_manifest
from pipelines.voice.voice import Voice

CONTEXT_SECONDS = 0.25  # of latents that the decoder receives before a crop, as in the midst of a sentence
_STARTS = 0.1  # share of batches that begin where utterances begin, without anything before


def audio_by_id(manifests: Sequence[str]) -> dict[str, Path]:
    """Where each utterance of some corpora lies: manifest.jsonl files -> path by id. Raises: SoundloomError.

    ``PREFIX=FILE`` puts PREFIX before a manifest's ids, as tokenize_corpus.py's --id-prefix does.
    """
    found: dict[str, Path] = {}
    for name in manifests:
        before, sign, after = name.partition("=")
        prefix, path = (before, Path(after)) if sign and not Path(name).is_file() else ("", Path(name))
        for row in read_manifest(path):
            found.setdefault(prefix + row.id, path.parent / row.audio)
    return found


class VoiceCrops:
    """Latents that a voice's model makes of true codes, and the recordings' sound.

    An utterance counts if its recording is known and long enough. An utterance that follows a prompt in the dataset is
    used without the prompt; if the prompt is given, its latents are fitted to it, as the voice does. ``codes_share`` of
    the crops are the codes' own vectors instead, because the decoder receives the end of a prompt before the voice
    begins.
    """

    def __init__(
        self,
        voice: Voice,
        dataset: GridDataset,
        audio: dict[str, Path],
        *,
        levels: int,
        drawn: int,
        seconds: float,
        rows: int,
        crops: int = 1,
        codes_share: float = 0.0,
        bf16: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.voice, self.dataset, self.audio = voice, dataset, audio
        self.levels, self.drawn = levels, drawn
        self.rows, self.crops, self.codes_share = rows, crops, codes_share
        self.bf16, self.seed, self.rank, self.world = bf16, seed, rank, world
        self.frames = round(seconds * voice.frame_rate)
        self.context = round(CONTEXT_SECONDS * voice.frame_rate)
        self.vectors = voice.codec.quantizer.vectors(levels)
        usable = [i for i in range(len(dataset)) if dataset.scored[i] >= self.frames + self.context]
        usable = [i for i in usable if dataset.last_id(i) in audio]
        if len(usable) < rows:
            raise SoundloomError(
                f"{dataset.reader.path}: of {len(dataset)} utterances {len(usable)} are "
                f"{seconds + CONTEXT_SECONDS:g} s or longer and have a recording in the manifests given; wanted {rows}"
            )
        order = np.argsort(dataset.lengths[usable], kind="stable")
        self.usable = np.array(usable)[order]  # by length: neighbours fit into one batch

    def batch(self, step: int) -> tuple[Tensor, Tensor, list[str]]:
        """latents [B, D, t], wave [B, C, n] (the sound of their end), and what they are made of, for messages."""
        rng = np.random.default_rng(stable_seed(self.seed, "voice", step, self.rank))
        from_start = np.random.default_rng(stable_seed(self.seed, "starts", step)).random() < _STARTS
        near = 8 * self.rows
        first = int(rng.integers(max(1, len(self.usable) - near + 1)))
        picked = rng.choice(self.usable[first : first + near], self.rows, replace=False)
        examples = [self.dataset.example(int(index), step) for index in picked]
        latents = self._latents(examples)
        pieces, waves = [], []
        for row, (index, example) in enumerate(zip(picked, examples, strict=True)):
            begin, end = example.first_frames, example.codes.shape[1]
            true = self.voice.codec.quantizer.decode(example.codes[None, : self.levels].long())[0]
            for _ in range(self.crops):
                length = self.frames + self.context
                at = begin if from_start else int(rng.integers(begin, end - length + 1))
                heard = true if rng.random() < self.codes_share else latents[row]
                pieces.append(heard[:, at : at + length])
                waves.append(self._sound(self.dataset.last_id(int(index)), at - begin, length, from_start))
        return torch.stack(pieces), torch.stack(waves), [example.id for example in examples]

    def _latents(self, examples: list[Example]) -> Tensor:
        batch = collate(examples, self.dataset.tokenizer.pad_id)
        batch = replace(batch, codes=batch.codes[:, : self.voice.num_levels])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            latents = teacher_forced_latents(self.voice.lm.model, batch, self.vectors, self.drawn).float()
        for row, example in enumerate(examples):
            prompt = example.codes[None, :, : example.first_frames].long()
            if example.given:
                true = self.voice.codec.quantizer.decode(prompt)[0]
                fit = fit_latents(latents[row, :, : example.first_frames], true)
                latents[row] = latents[row] if fit is None else fit(latents[row])
        return latents

    def _sound(self, identity: str, frame: int, frames: int, whole: bool) -> Tensor:
        """Samples [C, n] of some frames of a recording, without the context unless ``whole``."""
        codec = self.voice.codec
        skipped = 0 if whole else self.context
        start, count = (frame + skipped) * codec.hop_length, (frames - skipped) * codec.hop_length
        rate = codec.sample_rate
        wave = read_audio(self.audio[identity], rate, codec.channels, start / rate, count / rate)[:, :count]
        return F.pad(wave, (0, count - wave.shape[1]))  # the last frame of a recording may reach past its end

    def prefetched(self, first: int, last: int) -> Generator[tuple[Tensor, Tensor, list[str]], None, None]:
        """Yield the batches of steps ``first`` to ``last - 1``, the next one made ahead by a thread."""
        return read_ahead(self.batch, range(first, last), ahead=1)
