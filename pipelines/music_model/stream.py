"""A piece as sound while its codes are written, window after window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codec.errors import SoundloomError
from lm.generation.generate import Frame, Stream
from pipelines.music_model.guard import worse
from pipelines.music_model.windows import window_seed
from pipelines.music_model.writer import Music

if TYPE_CHECKING:
    from codec.face import CodecState
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
        self.written: list[Tensor] = []  # the codes [K] of each frame so far, those of the prompt left out
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
            frames = list[Frame]()
            for frame in Stream(model.network, request):
                frames.append(frame)
                self.written.append(frame.codes)
                for wave in decoder.ready(frame):
                    made.append(wave)
                    yield wave
            written = torch.stack([frame.codes for frame in frames], dim=1)
            latents = [frame.latent for frame in frames if frame.latent is not None]
            found = model.verdict(written, torch.stack(latents, dim=1) if latents else None)
            reason = found if worse(found, reason) else reason
            codes = torch.cat([codes, written[None]], dim=2)
        rest = decoder.finish()
        made.append(rest)
        if rest.shape[-1]:
            yield rest
        codes = codes[0, :, self._begin :]
        self.music = Music(torch.cat(made, dim=-1), model.codec.sample_rate, codes, reason)


class _Decoder:
    """Decodes frames as they come, in chunks that grow; leaves out the sound of the first ``skipped`` frames.

    What waits are codes long [levels, n], or latents float [D, n] where the model makes them.
    """

    def __init__(self, model: MusicModel, skipped: int) -> None:
        self.model = model
        self.player: Any = model.player  # some codecs decode latents, by methods that not all have
        self.skip = skipped * model.codec.hop_length
        rate = model.codec.frame_rate
        self.size, self.largest = (max(1, round(seconds * rate)) for seconds in (FIRST_CHUNK, LARGEST_CHUNK))
        none = torch.zeros(model.levels, 0, dtype=torch.long, device=model.codec.device)
        latents = model.given_latents(none)
        self.latent = latents is not None
        self.waiting = [none[: model.config.levels] if latents is None else latents]
        self.state: CodecState | None = None  # of a codec that decodes only the whole: the piece comes in one chunk
        with suppress(SoundloomError):
            self.state = self.player.init_state(1)

    def push(self, codes: Tensor) -> None:
        """Take true frames, codes long [K, n], that need not sound yet."""
        latents = self.model.given_latents(codes)
        self._add(codes[: self.model.config.levels] if latents is None else latents)

    def ready(self, frame: Frame) -> Iterator[Tensor]:
        """Take the next frame; return the sound [C, n] of those that wait once they are enough."""
        self._add((frame.codes[: self.model.config.levels] if frame.latent is None else frame.latent)[:, None])
        if self.state is None or sum(one.shape[1] for one in self.waiting) < self.size:
            return
        self.size = min(2 * self.size, self.largest)
        wave = self._decoded(last=False)
        if wave.shape[-1]:
            yield wave

    def finish(self) -> Tensor:
        """Return the rest of the sound [C, n]."""
        return self._decoded(last=True)

    def _add(self, frames: Tensor) -> None:
        self.waiting.append(frames.to(self.waiting[0].device))

    def _decoded(self, last: bool) -> Tensor:
        frames = torch.cat(self.waiting, dim=1)[None]
        self.waiting = [frames[0, :, :0]]
        if self.state is None:
            wave = self.player.decode_latent(frames) if self.latent else self.player.decode(frames)
        elif self.latent:
            wave = self.player.decode_latent_chunk(frames, self.state, last=last)
        else:
            wave = self.player.decode_chunk(frames, self.state, last=last)
        skipped = min(self.skip, wave.shape[-1])
        self.skip -= skipped
        return wave[0, :, skipped:]
