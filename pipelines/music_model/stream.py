"""A piece as sound while its codes are written, window after window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec.errors import SoundloomError
from lm.generation.generate import Stream
from pipelines.music_model.guard import worse
from pipelines.music_model.windows import window_seed
from pipelines.music_model.writer import Music

if TYPE_CHECKING:
    from lm.generation.sampling import SamplingConfig
    from pipelines.music_model.model import MusicModel

FIRST_CHUNK, LARGEST_CHUNK = 0.08, 0.64  # seconds of sound that are decoded at once; doubled from one to the next


class MusicStream(Iterator[Tensor]):
    """A piece as chunks of sound [C, n], none of them empty; then ``music`` is set.

    The codes are those of the same request that is not streamed, without further tries: what was played cannot be taken
    back. What the guard found is in ``music.finish_reason``.
    """

    def __init__(
        self,
        model: MusicModel,
        ids: Sequence[Sequence[int]] | None,
        new: int,
        before: Tensor,
        seed: int,
        settings: SamplingConfig | None,
        only_new: bool,
    ) -> None:
        self.music: Music | None = None
        self._model, self._ids, self._new, self._settings, self._seed = model, ids, new, settings, seed
        self._begin = before.shape[2] if only_new else 0
        self._chunks = self._run(before)

    def __next__(self) -> Tensor:
        return next(self._chunks)

    def _run(self, before: Tensor) -> Iterator[Tensor]:
        model, codes, reason, made = self._model, before, "end", list[Tensor]()
        decoder = _Decoder(model, self._begin)
        decoder.push(codes[0])
        for index, (kept, added) in enumerate(model.windows.parts(before.shape[2], self._new)):
            context = codes[:, :, -kept:] if kept else None
            seeds = [window_seed(self._seed, index)]
            request = model.request(self._ids, kept + added, context, seeds, self._settings)
            frames = list[Tensor]()
            for frame in Stream(model.network, request):
                frames.append(frame.codes)
                for wave in decoder.ready(frame.codes[:, None]):
                    made.append(wave)
                    yield wave
            written = torch.stack(frames, dim=1)
            found = model.verdict(written)
            reason = found if worse(found, reason) else reason
            codes = torch.cat([codes, written[None]], dim=2)
        rest = decoder.finish()
        made.append(rest)
        if rest.shape[-1]:
            yield rest
        codes = codes[0, :, self._begin :]
        self.music = Music(torch.cat(made, dim=-1), model.codec.sample_rate, codes, reason)


class _Decoder:
    """Decodes frames as they come, in chunks that grow; leaves out the sound of the first ``skipped`` frames."""

    def __init__(self, model: MusicModel, skipped: int) -> None:
        self.model, self.player = model, model.player
        self.skip = skipped * model.codec.hop_length
        rate = model.codec.frame_rate
        self.size, self.largest = (max(1, round(seconds * rate)) for seconds in (FIRST_CHUNK, LARGEST_CHUNK))
        self.waiting: list[Tensor] = []
        try:
            self.state = self.player.init_state(1)
        except SoundloomError:
            self.state = None  # a codec that decodes only the whole: the piece comes in one chunk

    def push(self, codes: Tensor) -> None:
        """Take frames long [K, n] that need not sound yet."""
        if codes.shape[1]:
            self.waiting.append(codes)

    def ready(self, codes: Tensor) -> Iterator[Tensor]:
        """Take the next frames; return their sound [C, n] once enough of them wait."""
        self.push(codes)
        if self.state is None or sum(one.shape[1] for one in self.waiting) < self.size:
            return
        self.size = min(2 * self.size, self.largest)
        wave = self._kept(self.player.decode_chunk(self._taken(), self.state))
        if wave.shape[-1]:
            yield wave

    def finish(self) -> Tensor:
        """Return the rest of the sound [C, n]."""
        codes = self._taken()
        if self.state is None:
            return self._kept(self.player.decode(codes))
        return self._kept(self.player.decode_chunk(codes, self.state, last=True))

    def _taken(self) -> Tensor:
        """Return the frames that wait, long [1, levels, n], as the decoder takes them."""
        none = torch.zeros(self.model.levels, 0, dtype=torch.long, device=self.model.codec.device)
        codes = torch.cat([none, *(one.to(none.device) for one in self.waiting)], dim=1)
        self.waiting = []
        return codes[None, : self.model.config.levels]

    def _kept(self, wave: Tensor) -> Tensor:
        skipped = min(self.skip, wave.shape[-1])
        self.skip -= skipped
        return wave[0, :, skipped:]
