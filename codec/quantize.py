"""Residual vector quantization whose unused codes restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from codec.common.devices import to_device
from codec.common.distributed import process_place
from codec.errors import SoundloomError


@dataclass(frozen=True)
class QuantizerConfig:
    """Residual vector quantizer: ``num_levels`` codebooks of ``codebook_size`` vectors.

    ``decay`` is that of the exponential moving averages that the codes follow. A code used less than
    ``restart_threshold`` times a step, averaged, restarts at a vector of the current batch. ``level_dropout`` is the
    share of training clips that use only the first n levels, n uniformly random.
    """

    num_levels: int = 8
    codebook_size: int = 1024
    decay: float = 0.99
    restart_threshold: float = 0.05
    level_dropout: float = 0.5

    def __post_init__(self) -> None:
        if self.num_levels < 1 or self.codebook_size < 2:
            raise SoundloomError("quantizer: num_levels must be at least 1 and codebook_size at least 2")
        if not (0 < self.decay < 1 and 0 <= self.level_dropout <= 1 and self.restart_threshold >= 0):
            raise SoundloomError("quantizer: decay in (0, 1), level_dropout in [0, 1], restart_threshold at least 0")


@dataclass
class Quantized:
    """A latent quantized by `ResidualVectorQuantizer`.

    latent [B, D, T] with straight-through gradient; codes long [B, K, T]; commitment: scalar loss;
    residual_energy [K]: mean square of the residual after each level, relative to the latent's.
    """

    latent: Tensor
    codes: Tensor
    commitment: Tensor
    residual_energy: Tensor


class VectorQuantizer(nn.Module):
    """One codebook that follows its vectors by exponential moving averages (van den Oord et al. 2017, appendix A).

    Buffers: ``codebook`` [V, D]; ``usage`` [V], the averaged number of vectors a step that chose each code;
    ``total`` [V, D], the averaged sum of those vectors. The codebook is always ``total / usage``.
    """

    codebook: Tensor
    usage: Tensor
    total: Tensor

    def __init__(self, dim: int, codebook_size: int, decay: float, restart_threshold: float) -> None:
        super().__init__()
        self.decay = decay
        self.restart_threshold = restart_threshold
        codebook = torch.randn(codebook_size, dim) / dim**0.5
        self.register_buffer("codebook", codebook)
        self.register_buffer("usage", torch.ones(codebook_size))
        self.register_buffer("total", codebook.clone())

    def norms(self) -> Tensor:
        """Return the squared length of each code, [V]."""
        return self.codebook.pow(2).sum(1)

    def nearest(self, vectors: Tensor, norms: Tensor | None = None) -> Tensor:
        """Return the index of the nearest code: vectors [M, D] -> long [M]; ``norms`` saves taking them again."""
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, and |x|^2 is the same for every code.
        scores = torch.addmm(self.norms() if norms is None else norms, vectors, self.codebook.t(), beta=-0.5)
        if scores.device.type == "cpu" and scores.dtype == torch.float32 and not scores.requires_grad:
            return torch.from_numpy(scores.numpy().argmax(1))  # ten times as fast as torch's, and the same on ties
        return scores.argmax(1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the vectors of codes: long [...] -> [..., D]."""
        return F.embedding(indices, self.codebook)

    @torch.no_grad()
    def start(self, vectors: Tensor, iterations: int = 12, generator: torch.Generator | None = None) -> None:
        """Move the codes to the k-means centres of vectors [M, D]; M should be tens of times the codebook's size."""
        size, count, device = len(self.codebook), len(vectors), vectors.device
        picked = torch.randperm(count, generator=generator)[:size]
        if count < size:  # too few to fill the codebook: repeat them, with a little noise
            picked = torch.randint(count, (size,), generator=generator)
        centres = vectors[to_device(picked, device)].clone()
        if count < size:
            centres += 0.01 * vectors.std() * to_device(torch.randn(centres.shape, generator=generator), device)
        self.codebook.copy_(centres)
        for _ in range(iterations):
            counts, sums = self._gather(vectors, self.nearest(vectors))
            filled = (counts > 0)[:, None]
            self.codebook.copy_(torch.where(filled, sums / counts.clamp(min=1)[:, None], self.codebook))
            empty = (counts == 0).nonzero().flatten()
            if len(empty):
                others = torch.randint(count, (len(empty),), generator=generator)
                self.codebook.index_copy_(0, empty, vectors[to_device(others, device)])
        counts, _ = self._gather(vectors, self.nearest(vectors))
        # As if each code had always been chosen this often a step: the averages start in balance.
        self.usage.copy_((counts / count * size).clamp(min=2 * self.restart_threshold))
        self.total.copy_(self.codebook * self.usage[:, None])

    def _gather(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        # `bincount` would make the host wait: it looks for the largest index.
        counts = vectors.new_zeros(len(self.codebook)).index_add_(0, indices, vectors.new_ones(len(indices)))
        sums = torch.zeros_like(self.codebook).index_add_(0, indices, vectors)
        return counts, sums

    @torch.no_grad()
    def update(
        self, vectors: Tensor, indices: Tensor, generator: torch.Generator | None = None, frames: int = 1
    ) -> Tensor:
        """Move the codes towards the vectors [M, D] that chose them and restart dead ones; return how many, a scalar.

        Under torch.distributed the sums run over all processes and restarts use the vectors of all, as if the
        processes' clips (``frames`` vectors each) were interleaved in one batch; every process ends with the same
        codebook. The generators must be in the same state in all of them.
        """
        rank, world = process_place()
        counts, sums = self._gather(vectors, indices)
        picked = torch.randint(len(vectors) * world, (len(self.codebook),), generator=generator)
        picked = to_device(picked, vectors.device)
        if world == 1:
            candidates = vectors[picked]
        else:
            clip, frame = picked // frames, picked % frames
            candidates = vectors[clip // world * frames + frame] * (clip % world == rank)[:, None]
            for total in (counts, sums, candidates):
                dist.all_reduce(total)
        self.usage.lerp_(counts, 1 - self.decay)
        self.total.lerp_(sums, 1 - self.decay)
        dead = self.usage < self.restart_threshold
        # The averages restart with the code; old ones would pull it back at the next step.
        fresh = max(1.0, 2 * self.restart_threshold)
        self.usage.masked_fill_(dead, fresh)
        self.total.copy_(torch.where(dead[:, None], candidates * fresh, self.total))
        self.codebook.copy_(self.total / self.usage[:, None])
        return dead.sum()


class ResidualVectorQuantizer(nn.Module):
    """Each level quantizes what the levels before it left over (SoundStream, Zeghidour et al. 2021).

    latent [B, D, T] <-> codes long [B, K, T]; any first n levels decode. While ``active`` is false the latent
    passes through unquantized: training begins so, and `start` then moves the codebooks to true residuals.
    """

    active: Tensor

    def __init__(self, dim: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = dim
        self.levels = nn.ModuleList(
            VectorQuantizer(dim, config.codebook_size, config.decay, config.restart_threshold)
            for _ in range(config.num_levels)
        )
        self.register_buffer("active", torch.tensor(True))
        self.frozen = False  # true: training does not change the codebooks (only a decoder is trained)
        self._last_read: tuple[Tensor, int, bool] | None = None

    @property
    def is_active(self) -> bool:
        """Whether the latent is quantized: ``active``, read from its device only when it changed."""
        flag = self.active
        version = -1 if flag.is_inference() else flag._version
        if self._last_read is None or self._last_read[0] is not flag or self._last_read[1] != version or version < 0:
            self._last_read = (flag, version, bool(flag))
        return self._last_read[2]

    def _each(self, levels: int | None = None) -> Iterator[VectorQuantizer]:
        return iter(cast("list[VectorQuantizer]", list(self.levels)[:levels]))

    def codebooks(self) -> list[Tensor]:
        """Return each level's codebook [V, D]."""
        return [level.codebook for level in self._each()]

    def norms(self) -> list[Tensor]:
        """Return the squared lengths of each level's codes, for `encode` of one chunk after another."""
        return [level.norms() for level in self._each()]

    def encode(self, latent: Tensor, norms: list[Tensor] | None = None) -> Tensor:
        """Return the codes long [B, K, T] of latent [B, D, T]; see `norms`."""
        B, D, T = latent.shape
        residual = latent.transpose(1, 2).reshape(B * T, D)
        codes = []
        for k, level in enumerate(self._each()):
            indices = level.nearest(residual, None if norms is None else norms[k])
            residual = residual - level.lookup(indices)
            codes.append(indices.view(B, T))
        return torch.stack(codes, 1)

    def vectors(self, levels: int) -> Tensor:
        """Return the first n levels' codebooks as one [n, V, D]."""
        return torch.stack(self.codebooks()[:levels])

    def decode(self, codes: Tensor) -> Tensor:
        """Return the latent [B, D, T] of codes long [B, n, T] of any first n levels."""
        first, *others = self._each(codes.shape[1])
        vectors = first.lookup(codes[:, 0])
        for k, level in enumerate(others, 1):
            vectors = vectors + level.lookup(codes[:, k])
        return vectors.transpose(1, 2)  # [B, T, D] -> [B, D, T]

    @torch.no_grad()
    def start(self, latent: Tensor, generator: torch.Generator | None = None) -> None:
        """Start every level by k-means on the true residuals of latent vectors [M, D], level by level."""
        residual = latent.float()
        for level in self._each():
            level.start(residual, generator=generator)
            residual = residual - level.lookup(level.nearest(residual))
        self.active.fill_(True)

    def forward(self, latent: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantize in training: move the codebooks (in train mode), drop levels, pass the gradient straight through."""
        B, D, T = latent.shape
        K = len(self.levels)
        if not self.is_active:
            zero = latent.new_zeros(())
            none = torch.zeros(B, K, T, dtype=torch.long, device=latent.device)
            return Quantized(latent, none, zero, latent.new_zeros(K))
        vectors = latent.float().transpose(1, 2).reshape(B * T, D)
        residual = vectors.detach()
        energy = residual.pow(2).mean().clamp(min=1e-9)
        keep = torch.full((B,), K)
        if self.training and self.config.level_dropout > 0:
            rank, world = process_place()  # each process samples for all and takes its own: clips of one joined batch
            dropped = torch.rand(B * world, generator=generator)[rank::world] < self.config.level_dropout
            first = torch.randint(1, K + 1, (B * world,), generator=generator)[rank::world]
            keep = torch.where(dropped, first, keep)
        keep = to_device(keep, latent.device)
        quantized = torch.zeros_like(residual)
        so_far = torch.zeros_like(residual)
        commitment = latent.new_zeros((), dtype=torch.float32)
        codes, energies = [], []
        for k, level in enumerate(self._each()):
            indices = level.nearest(residual)
            chosen = level.lookup(indices)
            if self.training and not self.frozen:
                level.update(residual, indices, generator, frames=T)
            so_far = so_far + chosen
            # This pulls the latent to where the first k levels put it; the codes follow by averages, not by gradient.
            commitment = commitment + F.mse_loss(vectors, so_far)
            residual = residual - chosen
            kept = (keep > k).repeat_interleave(T)[:, None]
            quantized = quantized + torch.where(kept, chosen, 0.0)
            codes.append(indices.view(B, T))
            energies.append(residual.pow(2).mean() / energy)
        straight = vectors + (quantized - vectors).detach()
        out = straight.view(B, T, D).transpose(1, 2)
        return Quantized(out, torch.stack(codes, 1), commitment / K, torch.stack(energies))
