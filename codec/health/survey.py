"""Examine a codec on real sound: what is measured, when a figure is sick, and what to change then.

`survey` measures; `judge_survey`, `judge_log` and `judge_weights` return findings. The trials that need gradients are
in `codec.health.trials`. Training logs the figures of `survey` and prints the sick findings; the command
`pipelines/codec_doctor.py` runs everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.common.devices import widest_float
from codec.metrics import alive_share, attainable_perplexity, codebook_use, count_codes, expected_usage
from codec.model import Codec
from codec.pretrained import AudioCodec

Status = Literal["well", "sick", "not judged"]
Distance = Callable[[Tensor, Tensor], Tensor]  # (decoded, original), both [B, C, N], to a scalar

USE_SHARE = 0.7  # of the share of codes that this number of frames should show; below, codes are dead
ALIVE_SHARE, ALIVE_FRAMES = 0.65, 4  # least share of codes that seem alive; frames a code that this estimate needs
PERPLEXITY_SHARE = 0.1  # of the perplexity that this number of frames could show
GAIN_DECIBELS = 0.1  # a level that takes off less of the latent's energy adds nothing
MEL_SHARE = 0.002  # a level that shortens the mel distance by a smaller share adds nothing
RANK_SHARE, RANK_FLOOR = 0.1, 4.0  # of the latent's dimensions; directions
IDLE_GAP, IDLE_RISE, IDLE_ROWS = 0.02, 1.1, 20  # gap of mean scores; growth of the feature distance; log rows
WINS, WIN_ROWS = 0.95, 10  # share of real scores above the mean fake one; log rows before a judgement


@dataclass(frozen=True)
class Finding:
    """The result of one detector: ``measured`` in words, ``advice`` (what to change) where it is sick."""

    detector: str
    status: Status
    measured: str
    advice: str = ""


@dataclass
class Survey:
    """A codec on real sound; per level, coarsest first. None and empty: this codec does not show it.

    ``usage``: share of the codes that occur; ``alive``: share that more frames would show (`alive_share`).
    ``energy``: what is left of the latent's energy after each level, as a share. ``mel_by_levels``: distance of the
    decoded wave by number of levels; ``mel_unquantized`` that of the latent itself.
    """

    frames: int
    codebook_size: int
    usage: list[float] = field(default_factory=list)
    alive: list[float] = field(default_factory=list)
    perplexity: list[float] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)
    mel_by_levels: dict[int, float] = field(default_factory=dict)
    mel_unquantized: float | None = None
    effective_rank: float | None = None
    latent_dim: int | None = None

    @property
    def dead(self) -> list[int]:
        """Codes of each level that no frame chose."""
        return [round((1 - share) * self.codebook_size) for share in self.usage]

    @property
    def expected_usage(self) -> list[float]:
        """`codec.metrics.expected_usage` of each level, from its perplexity."""
        return [expected_usage(p, self.frames, self.codebook_size) for p in self.perplexity]

    @property
    def gain_decibels(self) -> list[float]:
        """The decibels by which each level lowers the energy that the levels before it left."""
        return [10 * math.log10(max(a, 1e-12) / max(b, 1e-12)) for a, b in pairwise([1.0, *self.energy])]

    @property
    def mel_gain(self) -> dict[int, float]:
        """The share by which each step to more levels shortens the mel distance, by its number of levels."""
        steps = pairwise(sorted(self.mel_by_levels.items()))
        return {n: 1 - after / before if before > 0 else 0.0 for (_, before), (n, after) in steps}


def effective_rank(latent: Tensor) -> float:
    """Return the number of directions that latents [B, D, T] fill: the exponential of their spectrum's entropy."""
    vectors = latent.float().transpose(1, 2).reshape(-1, latent.shape[1])
    if not vectors.isfinite().all():
        return math.nan
    values = torch.linalg.svdvals(vectors - vectors.mean(0)).square()
    share = values / values.sum()
    return float(torch.exp(-(share * (share + 1e-12).log()).sum()))


@torch.no_grad()
def survey(
    codec: AudioCodec,
    distance: Distance,
    waves: Iterable[Tensor],
    levels: Iterable[int],
    decode_batches: int | None = None,
) -> Survey:
    """Measure a codec on batches of waves [B, C, N] at its rate; the codec is left as it was.

    ``levels``: numbers of levels to decode. ``decode_batches``: decode only this number of batches, because decoding at
    each number of levels costs most. Of a codec of other makers the codes and the sound are measured, not the latent.
    """
    ours = codec if isinstance(codec, Codec) else None
    quantized = ours is None or bool(ours.quantizer.active)
    training = ours is not None and ours.training
    if ours is not None:
        ours.eval()
    counts = torch.zeros(codec.num_levels, codec.codebook_size, dtype=torch.long)
    wanted = [n for n in levels if quantized and 1 <= n <= codec.num_levels]
    latents: list[Tensor] = []
    left = torch.zeros(codec.num_levels + 1, dtype=torch.float64)
    mel: dict[int, float] = dict.fromkeys([*wanted, *([0] if ours is not None else [])], 0.0)  # 0: unquantized
    decoded = 0
    for i, wave in enumerate(waves):
        latent = None if ours is None else ours.encoder(wave).float()
        codes = None
        if quantized:
            codes = codec.encode(wave) if ours is None or latent is None else ours.quantizer.encode(latent)
            counts += count_codes(codes.cpu(), codec.codebook_size)
        if ours is not None and latent is not None:
            latents.append(latent.cpu())
            if codes is not None:
                left += _energies(ours, latent, codes)
        if decode_batches is None or i < decode_batches:
            decoded += len(wave)
            for n in mel:
                sound = _decode(codec, latent, codes, n)[..., : wave.shape[-1]]
                mel[n] += float(distance(sound, wave[..., : sound.shape[-1]])) * len(wave)
    if ours is not None:
        ours.train(training)
    use = codebook_use(counts) if quantized else []
    vectors = torch.cat([part.transpose(1, 2).flatten(0, 1) for part in latents]).t()[None] if latents else None
    return Survey(
        int(counts[0].sum()),
        codec.codebook_size,
        [level.used for level in use],
        [alive_share(level) for level in counts] if quantized else [],
        [level.perplexity for level in use],
        (left[1:] / left[0].clamp(min=1e-12)).tolist() if ours is not None and quantized else [],
        {n: mel[n] / decoded for n in wanted} if decoded else {},
        mel[0] / decoded if ours is not None and decoded else None,
        effective_rank(vectors) if vectors is not None else None,
        vectors.shape[1] if vectors is not None else None,
    )


def _energies(codec: Codec, latent: Tensor, codes: Tensor) -> Tensor:
    """Return the sum of squares of latent [B, D, T] and of what is left of it after each level: [K + 1]."""
    wide = widest_float(latent.device)
    residual, found = latent, [latent.to(wide).square().sum()]
    for k, codebook in enumerate(codec.quantizer.codebooks()):
        residual = residual - F.embedding(codes[:, k], codebook).transpose(1, 2)
        found.append(residual.to(wide).square().sum())
    return torch.stack(found).cpu()


def _decode(codec: AudioCodec, latent: Tensor | None, codes: Tensor | None, levels: int) -> Tensor:
    if isinstance(codec, Codec) and latent is not None:
        return codec.decoder(latent if codes is None or not levels else codec.quantizer.decode(codes[:, :levels]))
    assert codes is not None
    return codec.decode(codes[:, :levels])


def judge_survey(found: Survey) -> list[Finding]:
    """Return the findings on use, perplexity, what each level adds to latent and sound, and the latent's rank."""
    return [*_judge_use(found), *_judge_gains(found), _judge_rank(found)]


def _judge_use(found: Survey) -> list[Finding]:
    if not found.usage:
        return [Finding(name, "not judged", "the codec does not quantize yet") for name in ("usage", "perplexity")]
    expected, best = found.expected_usage, attainable_perplexity(found.frames, found.codebook_size)
    pairs = zip(found.usage, expected, strict=True)
    unused = {k for k, (share, hoped) in enumerate(pairs) if share < USE_SHARE * hoped}
    said = f"{_span(found.usage)} of {found.codebook_size} codes in {found.frames} frames, of which {_span(expected)} "
    said += "were to be expected"
    if found.frames >= ALIVE_FRAMES * found.codebook_size:
        unused |= {k for k, share in enumerate(found.alive) if share < ALIVE_SHARE}
        said += f"; {_span(found.alive)} seem alive"
    flat = [k for k, value in enumerate(found.perplexity) if value < PERPLEXITY_SHARE * best]
    range_ = f"{min(found.perplexity):.0f} to {max(found.perplexity):.0f}, and at most {best:.0f} in so many frames"
    return [
        _finding(
            "usage",
            f"levels {sorted(unused)}: {said}" if unused else said,
            bool(unused),
            "Codes are dead. Raise quantizer.restart_threshold or lower quantizer.decay so that they are put on living "
            "vectors, and start the codebooks by k-means on tens of vectors a code (kmeans_batches).",
        ),
        _finding(
            "perplexity",
            f"levels {flat}: {range_}" if flat else range_,
            bool(flat),
            "A few codes take nearly all frames: the codebook collapsed. Start it again by k-means on the true "
            "residuals, raise losses.whitening, and look whether the sound judged is mostly silence.",
        ),
    ]


def _judge_gains(found: Survey) -> list[Finding]:
    gains = found.gain_decibels if found.energy else []
    idle = [k for k, gain in enumerate(gains) if not gain >= GAIN_DECIBELS]
    mute = [n for n, gain in found.mel_gain.items() if not gain >= MEL_SHARE]
    busy = [k for k in idle if k and found.usage and found.usage[k] > 0.5]
    note = f"; levels {busy} use their codes and still add nothing" if busy else ""
    told = "dB by level: " + ", ".join(f"{gain:.2f}" for gain in gains)
    heard = "mel distance by number of levels: " + ", ".join(f"{n}: {v:.4g}" for n, v in found.mel_by_levels.items())
    advice = "The latent has nothing left to quantize there, or the codes do not follow it: raise losses.whitening "
    advice += (
        "until the effective rank rises, start the codebooks level by level on true residuals, or use fewer levels."
    )
    deaf = "The decoder does not use these levels: check that level_dropout leaves all levels to part of the clips, "
    deaf += "that codes are summed over levels in decode, and train longer after quantizer_start."
    return [
        _finding("energy", f"levels {idle} add nothing, {told}{note}" if idle else told, bool(idle), advice)
        if gains
        else Finding("energy", "not judged", "needs a quantizing network of this project"),
        _finding("gain in sound", f"no gain at {mute} levels, {heard}" if mute else heard, bool(mute), deaf)
        if len(found.mel_by_levels) > 1
        else Finding("gain in sound", "not judged", "needs the sound at two numbers of levels or more"),
    ]


def _judge_rank(found: Survey) -> Finding:
    if found.effective_rank is None or found.latent_dim is None:
        return Finding("effective rank", "not judged", "needs a network of this project")
    least = min(max(RANK_FLOOR, RANK_SHARE * found.latent_dim), found.latent_dim / 2)
    return _finding(
        "effective rank",
        f"{found.effective_rank:.1f} of {found.latent_dim} directions (at least {least:.3g} is right)",
        not found.effective_rank >= least,
        "The latent lies in a few directions, and later levels have nothing to say. Raise losses.whitening, lower "
        "losses.commitment, start the quantizer later.",
    )


def judge_weights(module: nn.Module) -> Finding:
    """Look for NaN and infinity in weights and buffers, by name."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    floats = {name: value for name, value in tensors.items() if value.is_floating_point()}
    sound = torch.stack([value.isfinite().all() for value in floats.values()]).tolist()  # read at once, not one by one
    bad = [name for name, fine in zip(floats, sound, strict=True) if not fine]
    return _finding(
        "finite weights",
        f"not finite: {', '.join(bad[:5])}{' …' if len(bad) > 5 else ''}" if bad else f"all {len(tensors)} tensors",
        bool(bad),
        "Go back to the last checkpoint whose weights are finite; lower optimizer.lr or grad_clip, or train with "
        "bf16: false, before going on.",
    )


def judge_log(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Find NaN in a training's log, and discriminators that win for good or learn nothing.

    Rows are as train_codec writes them (NaN is null).
    """
    bad = [row.get("step") for row in rows if any(_not_finite(value) for value in row.values())]
    recent = len(rows) and any(_not_finite(value) for row in rows[-WIN_ROWS:] for value in row.values())
    told = f"{len(bad)} of {len(rows)} rows not finite{f', last at step {bad[-1]}' if bad else ''}"
    finite = _finding(
        "finite log",
        told,
        bool(recent) or len(bad) > 0.02 * len(rows),
        "Steps are being skipped: lower optimizer.lr, train with bf16: false, and look at the files named in the "
        "warnings; a single skipped step does no harm.",
    )
    duel = [row for row in rows if "discriminator_wins" in row and not any(_not_finite(v) for v in row.values())]
    return [finite, _judge_duel(duel)]


def _judge_duel(duel: Sequence[Mapping[str, Any]]) -> Finding:
    """Judge the discriminators by their scores and by the distance between their features.

    Not by their hinge loss: it stays near 2 in trainings that work, as in those where they learn nothing.
    """
    recent = duel[-5 * WIN_ROWS :]
    if len(recent) < WIN_ROWS:
        return Finding("discriminators", "not judged", f"{len(recent)} log rows with discriminators, too few")
    wins, gap = _mean(recent, "discriminator_wins"), _score_gap(recent)
    half = len(recent) // 2
    before, after = _mean(recent[:half], "adversarial"), _mean(recent[half:], "adversarial")
    at_first, now = _mean(duel[: WIN_ROWS // 2], "feature"), _mean(recent[-WIN_ROWS // 2 :], "feature")
    said = f"wins {wins:.2f}, real scores {gap:.2g} above fake ones, feature distance {at_first:.3g} at first and "
    said += f"{now:.3g} now; the codec's adversarial loss went from {before:.3g} to {after:.3g} in {len(recent)} rows"
    if wins >= WINS and after > before - 0.02 * max(1.0, abs(before)):
        advice = "The discriminators tell every clip, and the codec gains nothing against them. Lower "
        advice += "discriminator_lr, raise discriminator_every, make them narrower, or raise losses.feature."
        return _finding("discriminators", said, True, advice)
    idle = len(duel) >= IDLE_ROWS and abs(gap) < IDLE_GAP and now < IDLE_RISE * at_first
    advice = "The discriminators learn nothing: real and reconstructed clips score alike, and their features do not "
    advice += "drift apart. Raise discriminator_lr, and keep discriminators.power near 0.3 (they need compressed "
    advice += "spectra); a longer head_start lets them learn first."
    return _finding("discriminators", said, idle, advice)


def _score_gap(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return how far real scores are above fake ones; from the hinge loss in logs that lack the scores."""
    known = [row for row in rows if "score_real" in row and "score_fake" in row]
    if known:
        return _mean(known, "score_real") - _mean(known, "score_fake")
    return 2 - _mean(rows, "discriminator")


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    values = [float(row[key]) for row in rows if key in row]
    return sum(values) / len(values) if values else math.nan


def _not_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_not_finite(part) for part in value.values())
    if isinstance(value, list | tuple):
        return any(_not_finite(part) for part in value)
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _finding(detector: str, measured: str, sick: bool, advice: str) -> Finding:
    return Finding(detector, "sick" if sick else "well", measured, advice if sick else "")


def _span(shares: Sequence[float]) -> str:
    low, high = min(shares), max(shares)
    return f"{100 * low:.0f}%" if round(100 * low) == round(100 * high) else f"{100 * low:.0f} to {100 * high:.0f}%"
