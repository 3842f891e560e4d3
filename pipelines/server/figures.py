"""What the explorer's figures show, computed with the real codec and voice; no HTTP here.

Every function takes and returns plain tensors, lists and dictionaries, so that the same page can later ask models that
run in the browser.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from codec.errors import SoundloomError
from codec.metrics import codebook_use, count_codes, mel_distance
from codec.model import Codec
from codec.quantize import ResidualVectorQuantizer
from pipelines.voice.alignment import clearest_map
from pipelines.voice.voice import Voice

MAX_SECONDS = 20.0
SMALLEST_CODEBOOK = 16
TOP = 6  # candidates of each level that a generation step lists
TONE_SECONDS = 0.6  # how long a single code is played


class Explorer:
    """The codec and the voice behind the figures of the explorer."""

    def __init__(self, voice: Voice) -> None:
        if not isinstance(voice.codec, Codec):
            raise SoundloomError(f"explorer: needs a codec of soundloom, not {type(voice.codec).__name__}")
        self.voice = voice
        self.codec: Codec = voice.codec
        self._small = lru_cache(maxsize=8)(self._smaller_quantizer)
        self._planes = lru_cache(maxsize=16)(self._plane)
        self._others: dict[str, Codec] = {}

    # --- the codec -----------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Return the codec's numbers and the names of its decoders."""
        codec = self.codec
        return {
            "sample_rate": codec.sample_rate,
            "hop_length": codec.hop_length,
            "frame_rate": codec.frame_rate,
            "levels": codec.num_levels,
            "codebook_size": codec.codebook_size,
            "bits_per_code": math.log2(codec.codebook_size),
            "decoders": ["shipped", *codec.decoders],
            "max_seconds": MAX_SECONDS,
        }

    def encode(self, wave: Tensor) -> Tensor:
        """wave float [1, N] -> codes long [K, T]. Raises: SoundloomError for more than `MAX_SECONDS`."""
        return self.codec.encode(self._checked(wave)[None])[0]

    def decode(self, codes: Tensor, levels: int | None = None, decoder: str = "shipped") -> Tensor:
        """The first ``levels`` of codes long [K, T] -> wave float [1, N]."""
        return self._decoder(decoder).decode(codes[None, : levels or codes.shape[0]])[0]

    def levels(self, wave: Tensor) -> list[dict[str, float]]:
        """What each level adds for wave [1, N]: residual energy, mel distance and bitrate of the first n, n = 1 … K."""
        codec, latent = self.codec, self._latent(wave)
        codes = codec.quantizer.encode(latent)
        energy = latent.square().mean()
        rows = []
        for n in range(1, codec.num_levels + 1):
            residual = latent - codec.quantizer.decode(codes[:, :n])
            made = codec.decode(codes[:, :n])[0, :, : wave.shape[1]]
            rows.append(
                {
                    "levels": n,
                    "kbps": codec.bitrate(n) / 1000,
                    "residual": float(residual.square().mean() / energy),
                    "mel_distance": mel_distance(wave, made, codec.sample_rate),
                }
            )
        return rows

    def codebook(self, level: int, size: int | None = None) -> dict[str, Any]:
        """A level's codebook seen from its two widest directions: points [[x, y], …] in the order of the codes.

        ``size``: the same codebook clustered to so few codes.
        """
        centre, axes, share = self._planes(self._checked_level(level))
        vectors = self._quantizer(size).vectors(self.codec.num_levels)[level]
        points = (vectors - centre) @ axes
        return {"level": level, "variance_shown": round(share, 3), "points": points.tolist()}

    def tone(self, level: int, code: int) -> Tensor:
        """The sound of one code, held for `TONE_SECONDS`: wave float [1, N]. The other levels add nothing."""
        self._checked_level(level)
        if not 0 <= code < self.codec.codebook_size:
            raise SoundloomError(f"code {code}: the codebook has 0 to {self.codec.codebook_size - 1}")
        vector = self.codec.quantizer.vectors(level + 1)[level, code]
        frames = round(TONE_SECONDS * self.codec.frame_rate)
        return self.codec.decode_latent(vector[None, :, None].expand(1, -1, frames).contiguous())[0]

    def smaller(self, wave: Tensor, size: int, levels: int) -> tuple[dict[str, Any], Tensor]:
        """Encode wave [1, N] with codebooks of ``size`` codes: what that costs, and the sound [1, N]."""
        codec, quantizer = self.codec, self._quantizer(size)
        latent = self._latent(wave)
        codes = quantizer.encode(latent)[:, :levels]
        made = codec.decode_latent(quantizer.decode(codes))[0, :, : wave.shape[1]]
        use = codebook_use(count_codes(codes, size))
        residual = latent - quantizer.decode(codes)
        report = {
            "size": size,
            "levels": levels,
            "kbps": codec.frame_rate * levels * math.log2(size) / 1000,
            "residual": float(residual.square().mean() / latent.square().mean()),
            "mel_distance": mel_distance(wave, made, codec.sample_rate),
            "usage": [round(row.used, 3) for row in use],
            "perplexity": [round(row.perplexity, 1) for row in use],
        }
        return report, made

    # --- generation ----------------------------------------------------------------------------------------------

    def steps(self, text: str, seed: int) -> Iterator[dict[str, Any]]:
        """Yield what the language model did for the first sentence of ``text``, frame by frame.

        First ``{"tokens": […], "speech": …}``; then for each frame its codes, each level's most probable codes with
        their probabilities, and the attention over the text. The sentence is generated first. Probabilities and
        attention then come from the model's training forward over the same codes: they are the model's own, before
        guidance and temperature. The voice speaks as itself, because a speaker's prompt is no part of that forward.
        """
        speech = self.voice.speak(text, seed=seed)
        sentence = speech.sentences[0]
        ids = self.voice.text_ids(sentence.text)
        tokenizer = self.voice.lm.tokenizer
        yield {"tokens": [tokenizer.decode([one]) for one in ids], "sentence": sentence.text, "speech": speech}
        codes = sentence.codes.long()
        probabilities, attention = self._score(ids, codes)
        for t in range(codes.shape[1]):
            best = probabilities[:, t].topk(min(TOP, probabilities.shape[2]))
            yield {
                "frame": t,
                "codes": codes[:, t].tolist(),
                "top": [
                    [[code, round(p, 4)] for p, code in zip(ps, cs, strict=True)]
                    for ps, cs in zip(best.values.tolist(), best.indices.tolist(), strict=True)
                ],
                "attention": [round(value, 3) for value in attention[t].tolist()] if attention is not None else None,
            }

    @torch.no_grad()
    def _score(self, ids: list[int], codes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Probabilities [K, T, V + 1] of codes [K, T] given the text, and attention [T, L] of the clearest head."""
        model = self.voice.lm.model
        text, lengths = torch.tensor([ids]), torch.tensor([len(ids)])
        scores = model(text, lengths, codes[None], torch.tensor([codes.shape[1]])).logits[0, :, : codes.shape[1]]
        attend: Any = getattr(model, "attention_maps", None)
        maps = None if attend is None else attend(text[0], codes).flatten(0, 1)
        return scores.float().softmax(-1), None if maps is None else clearest_map(maps)

    # --- inside --------------------------------------------------------------------------------------------------

    def _checked(self, wave: Tensor) -> Tensor:
        seconds = wave.shape[-1] / self.codec.sample_rate
        if seconds > MAX_SECONDS:
            raise SoundloomError(f"the sound lasts {seconds:.1f} s; the explorer takes {MAX_SECONDS:g} s at most")
        return wave

    def _checked_level(self, level: int) -> int:
        if not 0 <= level < self.codec.num_levels:
            raise SoundloomError(f"level {level}: the codec has levels 0 to {self.codec.num_levels - 1}")
        return level

    @torch.no_grad()
    def _latent(self, wave: Tensor) -> Tensor:
        return self.codec.encoder(self._checked(wave)[None])

    def _decoder(self, name: str) -> Codec:
        if name == "shipped":
            return self.codec
        if name not in self.codec.decoders:
            raise SoundloomError(f"decoder {name!r}: the codec has {', '.join(self.describe()['decoders'])}")
        if name not in self._others:
            self._others[name] = self.codec.other_decoder(name)
        return self._others[name]

    def _quantizer(self, size: int | None) -> ResidualVectorQuantizer:
        if size is None or size == self.codec.codebook_size:
            return self.codec.quantizer
        if not SMALLEST_CODEBOOK <= size < self.codec.codebook_size:
            raise SoundloomError(
                f"codebook size {size}: choose {SMALLEST_CODEBOOK} to {self.codec.codebook_size} codes"
            )
        return self._small(size)

    def _smaller_quantizer(self, size: int) -> ResidualVectorQuantizer:
        """The trained codebooks clustered to ``size`` codes a level, by k-means from a fixed seed."""
        quantizer = self.codec.quantizer
        with torch.random.fork_rng(devices=[]):  # its first, random codebooks must not move the caller's generator
            small = ResidualVectorQuantizer(quantizer.dim, replace(quantizer.config, codebook_size=size))
        for level, trained in zip(small.levels, quantizer.levels, strict=True):
            start: Any = level.start
            start(trained.codebook, generator=torch.Generator().manual_seed(0))
        return small.eval()

    def _plane(self, level: int) -> tuple[Tensor, Tensor, float]:
        """Centre [D], two principal axes [D, 2] of a level's codebook, and the share of variance that they show."""
        vectors = self.codec.quantizer.vectors(level + 1)[level]
        centre = vectors.mean(0)
        _, singular, axes = torch.linalg.svd(vectors - centre, full_matrices=False)
        power = singular.square()
        return centre, axes[:2].t().contiguous(), float(power[:2].sum() / power.sum())
